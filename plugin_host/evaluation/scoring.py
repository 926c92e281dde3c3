"""Separating every stem of every test mixture, and scoring what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from bridge.errors import InputError
from bridge.request import Prompt, SettingOptions
from plugin_host.audio_files import Audio, read_audio
from plugin_host.evaluation.cases import Case
from plugin_host.evaluation.images import ideal_ratio_mask, image_error_db
from plugin_host.evaluation.sdr import Sdr
from plugin_host.scores import si_sdr_db
from plugin_host.separators import Separator


@dataclass(frozen=True)
class Score:
    """How one stem of one mixture came out.

    Attributes
    ----------
    case, stem : str
    mixture_db, estimate_db, oracle_db : float
        SI-SDR of the mixture, the model's stem and the ideal ratio mask's, in dB.
    wrong_db : float or None
        Mean SI-SDR against this stem of what the prompts of the other stems brought.
    absent_db : float or None
        Level, relative to the mixture, of what a prompt for something that is not there brought.
    image_error_db : float or None
        Error of the level difference between the two channels.
    mixture_sdr_db, sdr_db, oracle_sdr_db : float or None
        As the first three, in SDR.
    """

    case: str
    stem: str
    mixture_db: float
    estimate_db: float
    oracle_db: float
    wrong_db: float | None = None
    absent_db: float | None = None
    image_error_db: float | None = None
    mixture_sdr_db: float | None = None
    sdr_db: float | None = None
    oracle_sdr_db: float | None = None

    @property
    def improvement_db(self) -> float:
        """SI-SDR improvement over the mixture."""
        return self.estimate_db - self.mixture_db

    @property
    def oracle_improvement_db(self) -> float:
        """The improvement that the ideal ratio mask reaches."""
        return self.oracle_db - self.mixture_db


def evaluate(
    separator: Separator,
    cases: Sequence[Case],
    prompts: Mapping[str, str] | None = None,
    *,
    rest: str | None = None,
    sdr: Sdr | None = None,
    on_case: Callable[[int], None] = lambda _done: None,
    **settings: Unpack[SettingOptions],
) -> Iterator[Score]:
    """Separate every stem of every mixture by a prompt of its own, and score it.

    Stems that are silent throughout are left out: no ratio is defined for them.

    Parameters
    ----------
    separator : Separator
        An engine or a client.
    cases : sequence of Case
    prompts : mapping of str to str, optional
        Prompt by stem name; the name itself where there is none.
    rest : str, optional
        Stem that no prompt names: what is left when all others are taken, such as MUSDB's
        ``other``.
    sdr : callable, optional
        From `plugin_host.evaluation.sdr.load_sdr`.
    on_case : callable
        Called with the number of mixtures done.
    **settings
        As for ``separate``.
    """
    texts = dict(prompts or {})
    names = sorted({name for case in cases for name in case.stems} - {rest})
    for index, case in enumerate(cases):
        mixture, info = read_audio(case.mixture)
        truths = _read_truths(case, mixture)

        def ask(
            *wanted: str, mixture: Audio = mixture, rate: int = info.sample_rate
        ) -> list[Audio]:
            asked = [Prompt(texts.get(name, name), name) for name in wanted]
            result = separator.separate(mixture, rate, asked, **settings)
            return [*(result.stems[name] for name in wanted), result.residual]

        estimates = {name: ask(name)[0] for name in truths if name != rest}
        if rest in truths and estimates:
            estimates[str(rest)] = ask(*estimates)[-1]
        others = [name for name in names if name not in case.stems]
        absent_db = None
        if others:
            nothing = ask(others[index % len(others)])[0]
            absent_db = level_db(nothing) - level_db(mixture)
        for name, estimate in estimates.items():
            truth = truths[name]
            oracle = ideal_ratio_mask(mixture, truth, info.sample_rate)
            wrong = [
                si_sdr_db(estimates[other], truth)
                for other in estimates
                if name != rest and other not in (name, rest)
            ]
            ends = [sdr(x, truth, info.sample_rate) if sdr else None
                    for x in (mixture, estimate, oracle)]  # fmt: skip
            yield Score(
                case.name,
                name,
                si_sdr_db(mixture, truth),
                si_sdr_db(estimate, truth),
                si_sdr_db(oracle, truth),
                float(np.mean(wrong)) if wrong else None,
                absent_db,
                image_error_db(estimate, truth),
                *ends,
            )
        on_case(index + 1)


def _read_truths(case: Case, mixture: Audio) -> dict[str, Audio]:
    """Read the stems that sound.

    Raises
    ------
    InputError
        If one has another shape than the mixture.
    """
    truths = {}
    for name, path in case.stems.items():
        truth = read_audio(path)[0]
        if truth.shape != mixture.shape:
            raise InputError(
                f"{path}: expected {mixture.shape[0]} channels of {mixture.shape[1]} samples, as "
                f"{case.mixture.name} has, got {truth.shape[0]} of {truth.shape[1]}"
            )
        if truth.any():
            truths[name] = truth
    return truths


def level_db(audio: Audio) -> float:
    """Mean power in dB relative to full scale, at least -120."""
    return float(10 * np.log10(max(float(np.mean(audio.astype(np.float64) ** 2)), 1e-12)))
