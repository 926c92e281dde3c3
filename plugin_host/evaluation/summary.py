"""Medians over a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plugin_host.evaluation.scoring import Score


@dataclass(frozen=True)
class Summary:
    """Medians over a test set; the fields are those of `Score`.

    Attributes
    ----------
    stems : int
        How many scores.
    oracle_share : float
        The improvement as a share of the ideal ratio mask's.
    worst_db : float
        The lowest improvement.
    wrong_drop_db : float or None
        What a wrong prompt costs.
    """

    stems: int
    improvement_db: float
    oracle_improvement_db: float
    oracle_share: float
    worst_db: float
    wrong_drop_db: float | None
    absent_db: float | None
    image_error_db: float | None
    mixture_sdr_db: float | None
    sdr_db: float | None
    oracle_sdr_db: float | None


def summarise(scores: Sequence[Score]) -> Summary:
    """Take medians of one score or more; a level that belongs to a mixture counts once."""
    gains = [score.improvement_db for score in scores]
    drops = [s.estimate_db - s.wrong_db if s.wrong_db is not None else None for s in scores]
    gain_db = float(np.median(gains))
    ideal_db = float(np.median([s.oracle_improvement_db for s in scores]))
    absent = {score.case: score.absent_db for score in scores}
    return Summary(
        stems=len(scores),
        improvement_db=gain_db,
        oracle_improvement_db=ideal_db,
        oracle_share=gain_db / ideal_db if ideal_db > 0 else float("nan"),
        worst_db=min(gains),
        wrong_drop_db=_median(drops),
        absent_db=_median(list(absent.values())),
        image_error_db=_median([s.image_error_db for s in scores]),
        mixture_sdr_db=_median([s.mixture_sdr_db for s in scores]),
        sdr_db=_median([s.sdr_db for s in scores]),
        oracle_sdr_db=_median([s.oracle_sdr_db for s in scores]),
    )


def by_stem(scores: Sequence[Score]) -> dict[str, Summary]:
    """Summarise each stem's scores, in order of name."""
    names = sorted({score.stem for score in scores})
    return {name: summarise([s for s in scores if s.stem == name]) for name in names}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
