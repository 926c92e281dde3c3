"""Scores of a model on a set of real recordings, and beside them those of another model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from bridge.engine import Engine
from bridge.errors import InputError
from bridge.request import Prompt
from onnx_export.evaluation import find_cases, ideal_ratio_mask
from onnx_export.evaluation.scoring import level_db
from onnx_export.evaluation.sdr import si_sdr_db
from onnx_export.training.real_set import read_set

Audio = NDArray[np.float32]

#: What stands for the prompt where a stem is what all the prompts leave.
REST_PROMPT = "(rest)"


@dataclass(frozen=True)
class RealScore:
    """What one prompt extracted from one mixture.

    Attributes
    ----------
    kind, case, prompt : str
    mixture_db, estimate_db, oracle_db, beside_db : float or None
        SI-SDR of the mixture, of what came back, of the ideal ratio mask and of the other model;
        None for what is not in the mixture, or for what the other model has no stem for.
    level_db : float
        Of what came back, relative to the true stem; for what is not there, to the mixture.
    beside_level_db : float or None
    """

    kind: str
    case: str
    prompt: str
    level_db: float
    mixture_db: float | None = None
    estimate_db: float | None = None
    oracle_db: float | None = None
    beside_db: float | None = None
    beside_level_db: float | None = None

    @property
    def improvement_db(self) -> float | None:
        """Level of the answer relative to the mixture."""
        return _difference(self.estimate_db, self.mixture_db)


def measure_real(
    engine: Engine,
    folder: Path,
    beside: Engine | None = None,
    *,
    kinds: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[RealScore]:
    """Ask for every stem of every mixture by each of its prompts, and for what is not there.

    Parameters
    ----------
    engine : Engine
        Measured with its default settings, one prompt at a time.
    folder : Path
        From `make_real_set`.
    beside : Engine or None
        Another model, measured where it knows the prompt.
    kinds : sequence of str
        Only these; all if there are none.
    progress : callable
        Called with mixtures done and their number.

    Raises
    ------
    FileNotFoundError
        If the set is not complete.
    """
    cases = [
        (name, kind, number, case)
        for name, kind in read_set(folder).items()
        if not kinds or name in kinds
        for number, case in enumerate(find_cases(folder / name))
    ]
    for done, (name, kind, number, case) in enumerate(cases):
        mixture, rate = _read(case.mixture)
        answers, others = _Answers(engine, mixture, rate), _Answers(beside, mixture, rate)
        for stem, path in case.stems.items():
            if stem != kind.rest and stem not in kind.prompts:
                continue
            truth = _read(path)[0]
            oracle_db = si_sdr_db(ideal_ratio_mask(mixture, truth, rate), truth)
            asked: list[tuple[str, str, int]]
            if stem == kind.rest:
                # What remains when the first of the prompts has taken its stem.
                asked = [(next(iter(kind.prompts.values()))[0], REST_PROMPT, 1)]
            else:
                asked = [(prompt, prompt, 0) for prompt in kind.prompts[stem]]
            for prompt, shown, which in asked:
                answer, other = answers.must(prompt), others.get(prompt)
                yield RealScore(
                    name,
                    case.name,
                    shown,
                    level_db(answer[which]) - level_db(truth),
                    si_sdr_db(mixture, truth),
                    si_sdr_db(answer[which], truth),
                    oracle_db,
                    si_sdr_db(other[which], truth) if other else None,
                    level_db(other[which]) - level_db(truth) if other else None,
                )
        if kind.absent:
            prompt = kind.absent[number % len(kind.absent)]
            answer, other = answers.must(prompt), others.get(prompt)
            loud = level_db(mixture)
            yield RealScore(
                name,
                case.name,
                prompt,
                level_db(answer[0]) - loud,
                beside_level_db=level_db(other[0]) - loud if other else None,
            )
        progress(done + 1, len(cases))


class _Answers:
    """What a model answers to prompts about one mixture, each asked once."""

    def __init__(self, engine: Engine | None, mixture: Audio, rate: int) -> None:
        self._engine = engine
        self._mixture = mixture
        self._rate = rate
        self._known: dict[str, tuple[Audio, Audio]] = {}

    def get(self, prompt: str) -> tuple[Audio, Audio] | None:
        """Stem and residual; None where there is no model, or it knows no such stem."""
        try:
            return None if self._engine is None else self.must(prompt)
        except InputError:
            return None

    def must(self, prompt: str) -> tuple[Audio, Audio]:
        """Stem and residual, from a model that is there and takes the prompt."""
        if prompt not in self._known:
            if self._engine is None:
                raise InputError("there is no model to ask")
            result = self._engine.separate(self._mixture, self._rate, [Prompt(prompt, "stem")])
            self._known[prompt] = result.stems["stem"], result.residual
        return self._known[prompt]


def _read(path: Path) -> tuple[Audio, int]:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(audio.T), rate


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


REAL_TITLES = ("material", "prompt", "n", "improvement", "worst", "ideal mask", "beside", "level")
_ALL = "(all)"
#: Improvement above which a stem counts as found.
FOUND_DB = 4.0


def real_rows(scores: Sequence[RealScore]) -> list[tuple[str, ...]]:
    """Return medians for each kind and prompt as text, and those of a kind with many prompts.

    The level is that of what came back against the true stem, and for a prompt that names nothing
    in the mixture, against the mixture.
    """
    rows = []
    for kind in dict.fromkeys(score.kind for score in scores):
        there = [s for s in scores if s.kind == kind and s.estimate_db is not None]
        prompts = list(dict.fromkeys(s.prompt for s in there))
        of_prompt = [_row(kind, p, [s for s in there if s.prompt == p]) for p in prompts]
        rows += of_prompt
        if len(prompts) > 3:
            found = sum(float(row[3]) > FOUND_DB for row in of_prompt)
            label = f"{_ALL}, {found} of {len(prompts)} above {FOUND_DB:g} dB"
            rows.append(_row(kind, label, there))
        absent = [s for s in scores if s.kind == kind and s.estimate_db is None]
        for prompt in dict.fromkeys(s.prompt for s in absent):
            of_it = [s for s in absent if s.prompt == prompt]
            level = f"{np.median([s.level_db for s in of_it]):.1f}"
            rows.append((kind, f"{prompt} (absent)", str(len(of_it)), "", "", "", "", level))
    return rows


def _row(kind: str, prompt: str, scores: Sequence[RealScore]) -> tuple[str, ...]:
    gains = [s.improvement_db for s in scores if s.improvement_db is not None]
    ideal = [d for s in scores if (d := _difference(s.oracle_db, s.mixture_db)) is not None]
    other = [d for s in scores if (d := _difference(s.beside_db, s.mixture_db)) is not None]
    return (
        kind,
        prompt,
        str(len(gains)),
        f"{np.median(gains):.1f}",
        f"{min(gains):.1f}",
        f"{np.median(ideal):.1f}",
        f"{np.median(other):.1f}" if other else "",
        f"{np.median([s.level_db for s in scores]):.1f}",
    )


def to_markdown(scores: Sequence[RealScore]) -> str:
    """Lay the table out for the model card."""
    lines = [REAL_TITLES, tuple("---" for _ in REAL_TITLES), *real_rows(scores)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def to_json(scores: Sequence[RealScore]) -> str:
    """Write every score down."""
    return json.dumps([asdict(score) for score in scores], indent=1)
