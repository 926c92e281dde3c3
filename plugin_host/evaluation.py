"""Scoring a model on mixtures whose stems are known.

A test set is a folder with a folder per mixture, in it ``mixture.wav`` and one file per true
stem; MUSDB18-HQ's ``test`` folder has that layout. The prompt of a stem is its file's name unless
given. Two ends frame every score: the mixture itself, and the ideal ratio mask computed from the
true stems (Wang, Narayanan & Wang 2014, "On training targets for supervised speech separation").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np

from bridge.errors import InputError
from bridge.manifest import Reconstruction
from bridge.reconstruct import plan_masks, split_by_masks
from bridge.request import Prompt, SettingOptions
from plugin_host.audio_files import Audio, read_audio
from plugin_host.scores import si_sdr_db
from plugin_host.separators import Separator

MIXTURE = "mixture"
_SUFFIXES = (".wav", ".flac")
#: A channel this much weaker than the other says nothing about the image.
_IMAGE_RANGE_DB = 20.0
_SILENT = 1e-10


@dataclass(frozen=True)
class Case:
    """A mixture with its true stems.

    Attributes
    ----------
    name : str
        Folder name.
    mixture : Path
    stems : dict of str to Path
    """

    name: str
    mixture: Path
    stems: Mapping[str, Path]


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
    """

    case: str
    stem: str
    mixture_db: float
    estimate_db: float
    oracle_db: float
    wrong_db: float | None = None
    absent_db: float | None = None
    image_error_db: float | None = None

    @property
    def improvement_db(self) -> float:
        """SI-SDR improvement over the mixture."""
        return self.estimate_db - self.mixture_db

    @property
    def oracle_improvement_db(self) -> float:
        """The improvement that the ideal ratio mask reaches."""
        return self.oracle_db - self.mixture_db


def find_cases(folder: Path) -> list[Case]:
    """List the mixtures of a test set in order of name.

    Raises
    ------
    InputError
        If there is none.
    """
    cases = []
    for directory in sorted(path for path in folder.glob("*") if path.is_dir()):
        files = {p.stem: p for p in sorted(directory.iterdir()) if p.suffix.lower() in _SUFFIXES}
        mixture = files.pop(MIXTURE, None)
        if mixture is not None and files:
            cases.append(Case(directory.name, mixture, files))
    if not cases:
        raise InputError(
            f"{folder}: expected folders with mixture.wav and the true stems beside it, found "
            "none; name the folder that holds a folder per mixture"
        )
    return cases


def ideal_ratio_mask(mixture: Audio, stem: Audio, sample_rate: int) -> Audio:
    """Split each channel of a mixture by the true powers of a stem and the rest."""
    sizes = Reconstruction(exponent=2.0, n_fft=2048, hop=512, band_hz=sample_rate / 2)
    plan = plan_masks(mixture.shape[1], sample_rate, 1, sizes)
    channels = [
        split_by_masks(m[None], [s], m - s, plan, lambda: None)[0][0]
        for m, s in zip(mixture, stem, strict=True)
    ]
    return np.stack(channels)


def image_error_db(estimate: Audio, truth: Audio) -> float | None:
    """Error of the left-to-right level difference, or None where a side is all but silent."""
    if len(truth) != 2:
        return None
    true_power = np.mean(truth.astype(np.float64) ** 2, axis=1)
    power = np.mean(estimate.astype(np.float64) ** 2, axis=1)
    if min(true_power.min(), power.min()) < _SILENT:
        return None
    true_db = 10 * np.log10(true_power[0] / true_power[1])
    if abs(true_db) > _IMAGE_RANGE_DB:
        return None
    return float(abs(10 * np.log10(power[0] / power[1]) - true_db))


def evaluate(
    separator: Separator,
    cases: Sequence[Case],
    prompts: Mapping[str, str] | None = None,
    *,
    on_case: Callable[[int], None] = lambda _done: None,
    **settings: Unpack[SettingOptions],
) -> Iterator[Score]:
    """Separate every stem of every mixture by a prompt of its own, and score it.

    Parameters
    ----------
    separator : Separator
        An engine or a client.
    cases : sequence of Case
    prompts : mapping of str to str, optional
        Prompt by stem name; the name itself where there is none.
    on_case : callable
        Called with the number of mixtures done.
    **settings
        As for ``separate``.
    """
    texts = dict(prompts or {})
    names = sorted({name for case in cases for name in case.stems})
    for index, case in enumerate(cases):
        mixture, info = read_audio(case.mixture)
        truths = {name: read_audio(path)[0] for name, path in case.stems.items()}
        estimates = {
            name: separator.separate(
                mixture, info.sample_rate, [Prompt(texts.get(name, name), name)], **settings
            ).stems[name]
            for name in truths
        }
        others = [name for name in names if name not in truths]
        absent_db = None
        if others:
            name = others[index % len(others)]
            nothing = separator.separate(
                mixture, info.sample_rate, [Prompt(texts.get(name, name), name)], **settings
            ).stems[name]
            absent_db = _level_db(nothing) - _level_db(mixture)
        for name, truth in truths.items():
            wrong = [si_sdr_db(estimates[other], truth) for other in truths if other != name]
            yield Score(
                case.name,
                name,
                si_sdr_db(mixture, truth),
                si_sdr_db(estimates[name], truth),
                si_sdr_db(ideal_ratio_mask(mixture, truth, info.sample_rate), truth),
                float(np.mean(wrong)) if wrong else None,
                absent_db,
                image_error_db(estimates[name], truth),
            )
        on_case(index + 1)


def _level_db(audio: Audio) -> float:
    return float(10 * np.log10(max(float(np.mean(audio.astype(np.float64) ** 2)), 1e-12)))


@dataclass(frozen=True)
class Summary:
    """Medians over a test set; the fields are those of `Score`."""

    stems: int
    improvement_db: float
    oracle_improvement_db: float
    worst_db: float
    wrong_drop_db: float | None
    absent_db: float | None
    image_error_db: float | None


def summarise(scores: Sequence[Score]) -> Summary:
    """Take medians.

    ``wrong_drop_db`` is the median of what a wrong prompt costs; ``worst_db`` the lowest
    improvement.
    """

    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.median(known)) if known else None

    gains = [score.improvement_db for score in scores]
    drops = [s.estimate_db - s.wrong_db if s.wrong_db is not None else None for s in scores]
    return Summary(
        stems=len(scores),
        improvement_db=float(np.median(gains)),
        oracle_improvement_db=float(np.median([s.oracle_improvement_db for s in scores])),
        worst_db=min(gains),
        wrong_drop_db=median(drops),
        absent_db=median([s.absent_db for s in scores]),
        image_error_db=median([s.image_error_db for s in scores]),
    )
