"""What a caller asks for: prompts, spans and settings; `bridge.validation` checks them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from msgspec import Struct
from msgspec.structs import force_setattr

from bridge.errors import InputError

if TYPE_CHECKING:
    from bridge.bundles.manifest import Manifest

Solver = Literal["euler", "midpoint"]
ReconstructionMode = Literal["raw", "null", "mask", "wiener"]
Listening = Literal["channels", "mean"]
Polarity = Literal["+", "-"]

SOLVERS: Final[tuple[Solver, ...]] = ("euler", "midpoint")
RECONSTRUCTION_MODES: Final[tuple[ReconstructionMode, ...]] = ("raw", "null", "mask", "wiener")
LISTENINGS: Final[tuple[Listening, ...]] = ("channels", "mean")
RESIDUAL: Final = "residual"

_LONGEST_SLUG = 60
_LONGEST_NAME_BYTES = 240
# Lone surrogates stand for bytes of a command line that were not text.
_UNSAFE_IN_FILE_NAMES = re.compile(r'[\ud800-\udfff\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Span(Struct, frozen=True):
    """A stretch of time in which the prompted sound is present ("+") or absent ("-").

    Attributes
    ----------
    start_s, end_s : float
        Seconds from the start of the mixture, ``0 <= start_s < end_s``.
    polarity : {"+", "-"}
        Whether the sound is to be heard in the span.
    """

    start_s: float
    end_s: float
    polarity: Polarity = "+"


class Prompt(Struct, frozen=True):
    """One stem to extract.

    Attributes
    ----------
    text : str
        What to extract, a noun or verb phrase: ``"drums"``, ``"woman speaking"``. May be empty
        only where spans say what is meant, and then `name` is needed.
    name : str or None
        Name of the stem in the result, by default the text as a slug (see `stem`).
    spans : sequence of Span
        Where the sound is known to be present or absent; later spans win where they overlap.
    """

    text: str
    name: str | None = None
    spans: Sequence[Span] = ()

    def __post_init__(self) -> None:
        """Hold the spans as a tuple, so that a prompt is immutable and hashable."""
        if isinstance(self.spans, list):
            force_setattr(self, "spans", tuple(self.spans))

    @property
    def stem(self) -> str:
        """Name of the stem: `name`, or the text in lower case with ``-`` for spaces."""
        return slug(self.text) if self.name is None else self.name


class SettingOptions(TypedDict, total=False):
    """Keyword arguments of every `separate`; see `Settings`."""

    seed: int
    steps: int | None
    solver: Solver | None
    window_s: float | None
    overlap_s: float | None
    reconstruct: ReconstructionMode | None
    listen: Listening | None
    predict_spans: bool
    candidates: int
    judge: bool
    watermark: int | None


class Settings(Struct, frozen=True):
    """How to separate. ``None`` stands for the model's own default.

    Attributes
    ----------
    seed : int
        Seed of the noise, 0 to 2**64 - 1. The same seed gives the same stems to the bit.
    steps : int or None
        Steps of the solver, 1 to 1000. Euler evaluates the network once a step, midpoint twice.
    solver : {"euler", "midpoint"} or None
        Integration method.
    window_s, overlap_s : float or None
        Length of a window and how much of it the next one shares, in seconds,
        ``0 <= overlap_s < window_s``. A window given alone keeps the model's ratio of the two.
    reconstruct : {"raw", "null", "mask", "wiener"} or None
        How the model's output becomes stems of the mixture; see `bridge.signal.reconstruct`.
    listen : {"channels", "mean"} or None
        Whether the model, which is mono, hears each channel by itself or their mean; see
        `bridge.signal.views`.
    predict_spans : bool
        Whether a model that can tell where a text is heard does so for prompts without spans.
    candidates : int
        From so many noises, 1 to 64, each stem is computed, and the best of each is kept; the
        report says who chose (see `bridge.separation.Selection`).
    judge : bool
        Whether the report is to hold the judge's scores of every stem; the model must have one.
    watermark : int or None
        Message that a model with a watermark writes into what it decodes, the first bit its
        highest; None derives it from the seed.
    """

    seed: int = 0
    steps: int | None = None
    solver: Solver | None = None
    window_s: float | None = None
    overlap_s: float | None = None
    reconstruct: ReconstructionMode | None = None
    listen: Listening | None = None
    predict_spans: bool = True
    candidates: int = 1
    judge: bool = False
    watermark: int | None = None

    def resolve(self, manifest: Manifest) -> ResolvedSettings:
        """Put the model's defaults where nothing was asked for.

        Raises
        ------
        InputError
            If the window and the overlap do not go together.
        """
        window_s = manifest.window_s if self.window_s is None else self.window_s
        if self.overlap_s is None:
            overlap_s = manifest.overlap_s * (window_s / manifest.window_s)
        else:
            overlap_s = self.overlap_s
        if overlap_s >= window_s:
            raise InputError(
                f"overlap of {overlap_s:g} s does not fit a window of {window_s:g} s; "
                "give an overlap shorter than the window"
            )
        return ResolvedSettings(
            seed=self.seed,
            steps=manifest.steps if self.steps is None else self.steps,
            solver=manifest.solver if self.solver is None else self.solver,
            window_s=window_s,
            overlap_s=overlap_s,
            reconstruct=manifest.reconstruct if self.reconstruct is None else self.reconstruct,
            listen=manifest.listen if self.listen is None else self.listen,
            predict_spans=self.predict_spans,
            candidates=self.candidates,
            judge=self.judge,
            watermark=self.watermark,
        )


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings with every default of the model filled in; the fields are those of `Settings`."""

    seed: int
    steps: int
    solver: Solver
    window_s: float
    overlap_s: float
    reconstruct: ReconstructionMode
    listen: Listening = "mean"
    predict_spans: bool = True
    candidates: int = 1
    judge: bool = False
    watermark: int | None = None


def slug(text: str) -> str:
    """Turn a prompt into a stem name that is safe as a file name on every system.

    Lower case, ``-`` for white space and for characters that file systems refuse; cut to 60
    characters.
    """
    dashed = re.sub(r"\s+", "-", _UNSAFE_IN_FILE_NAMES.sub(" ", text.lower()).strip())
    return re.sub(r"-{2,}", "-", dashed)[:_LONGEST_SLUG].strip("-.")


def is_safe_name(name: str) -> bool:
    """Say whether a stem name can be a file name on every system."""
    return (
        0 < len(name.encode(errors="replace")) <= _LONGEST_NAME_BYTES
        and name == name.strip()
        and not name.startswith(".")
        and not name.endswith(".")
        and not _UNSAFE_IN_FILE_NAMES.search(name)
        and not _DEVICE_NAMES.fullmatch(name)
    )
