"""What a caller gets: progress on the way, then stems, the residual and a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from bridge.request import Grid, Listening, Prompt, ResolvedSettings, Settings, Span
from bridge.scratch import LongArray


class Progress(Struct, frozen=True):
    """How far a job is.

    Attributes
    ----------
    stage : str
        ``"queued"``, ``"encode"``, ``"solve"``, ``"decode"`` or ``"reconstruct"``.
    done, total : int
        Units of the stage; in ``"solve"`` evaluations of the velocity network over all windows.
    seconds_left : float or None
        Estimate for the stage, once there is something to base it on; for ``"queued"`` until
        its turn.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None = None


ProgressCallback: TypeAlias = Callable[[Progress], None]


Ranker: TypeAlias = Literal["judge", "clap", "ensemble", "spans", "agreement"]


class Scores(Struct, frozen=True):
    """The judge's scores of a stem, each on a scale of about 1 to 5.

    Attributes
    ----------
    overall, recall, precision, faithfulness : float
        Overall quality; whether all of the sound is there; whether nothing else is; whether it
        sounds as it does in the mixture.
    """

    overall: float
    recall: float
    precision: float
    faithfulness: float


class Selection(Struct, frozen=True):
    """How a stem was chosen among its candidates.

    Attributes
    ----------
    stem : str
        Its name.
    candidate : int
        Which of them it is, from 0.
    ranker : {"judge", "clap", "ensemble", "spans", "agreement"} or None
        What chose it: the model's judge; its CLAP; both, the overall score and five times the
        similarity; how well its sounding stretches and the spans, given or predicted, overlap;
        how much it has in common with the other candidates. None where there was only one.
    scores : Scores or None
        The judge's, if it was asked.
    similarity : float or None
        CLAP's of stem and prompt, -1 to 1, if it was asked.
    """

    stem: str
    candidate: int
    ranker: Ranker | None = None
    scores: Scores | None = None
    similarity: float | None = None


NoteKind: TypeAlias = Literal["untrained", "weak", "silent", "device"]


class Note(Struct, frozen=True):
    """What a user should know about a stem, or about how all of them were computed.

    Attributes
    ----------
    stem : str
        Its name; empty for all of them.
    kind : {"untrained", "weak", "silent", "device"}
        The model was not trained on such words; it was, and gains little; the stem is silent; the
        device that was wanted could not be used.
    text : str
        A sentence to show.
    """

    stem: str
    kind: NoteKind
    text: str


class PredictedSpans(Struct, frozen=True):
    """Where the model found a prompt that came without spans.

    Attributes
    ----------
    stem : str
        Its name.
    spans : tuple of Span
        Positive, in order; none where it was found nowhere.
    """

    stem: str
    spans: tuple[Span, ...]


class Report(ResolvedSettings, frozen=True, kw_only=True):
    """How a separation was computed, complete enough to repeat it.

    The fields of `Settings` are those used, with the model's defaults filled in; `watermark` is
    the message that the model wrote, None if it writes none.

    Attributes
    ----------
    model, model_sha256 : str
        Name of the model, and checksum over everything that determines its output.
    provider : str
        The ONNX Runtime execution provider that computed.
    sample_rate : int
        Of the mixture and the stems, in Hz.
    channels, samples : int
        Shape of the mixture and of every stem.
    seconds : float
        Computing time.
    rtf : float
        Computing seconds per second of audio.
    nfe : int
        Evaluations of the velocity field; 0 where silence needed none.
    windows : int
        Windows per prompt.
    null_depth_db : float or None
        Peak of ``sum(stems) + residual - mixture`` in dB relative to full scale;
        None for an exact null.
    stems : tuple of str
        Names of the stems, in the order of the prompts.
    selections : tuple of Selection
        One per stem where there were several candidates or the judge was asked.
    notes : tuple of Note
        What a user should know about the stems; in the order of the prompts.
    predicted : tuple of PredictedSpans
        One per prompt whose spans the model predicted; the first 1024 spans at most, evenly
        among them.
    """

    model: str
    model_sha256: str
    provider: str
    sample_rate: int
    channels: int
    samples: int
    seconds: float
    rtf: float
    nfe: int
    windows: int
    null_depth_db: float | None
    stems: tuple[str, ...]
    grid: Grid = "uniform"
    listen: Listening = "mean"
    selections: tuple[Selection, ...] = ()
    notes: tuple[Note, ...] = ()
    predicted: tuple[PredictedSpans, ...] = ()

    @property
    def settings(self) -> Settings:
        """The settings that reproduce the stems."""
        return Settings(**{name: getattr(self, name) for name in Settings.__struct_fields__})


@dataclass(frozen=True)
class Levels:
    """What was measured over all of a mixture before a model heard it.

    Attributes
    ----------
    means : tuple of float
        Offset of each channel.
    powers : tuple of float
        For each channel the mean square of the signal that tells of it, at the model's rate;
        0 where all of the mixture is silent.
    """

    means: tuple[float, ...]
    powers: tuple[float, ...]


@dataclass(frozen=True)
class Separation:
    """The result of a job.

    Attributes
    ----------
    stems : dict of str to ndarray of float32, shape (channels, samples)
        One per prompt, under its stem name, at the mixture's rate and aligned with it. Of a
        mixture in a `FileArray` they are such arrays too, as is the residual.
    residual : ndarray of float32, shape (channels, samples)
        What no prompt claimed.
    report : Report
    levels : Levels or None
        Known of what was computed in this process without a video; see `bridge.Engine.update`.
    """

    stems: dict[str, npt.NDArray[np.float32]]
    residual: npt.NDArray[np.float32]
    report: Report
    levels: Levels | None = None


class Separator(Protocol):
    """The common interface of the engine and of clients of the sidecar."""

    def separate(
        self,
        mixture: LongArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Separation:
        """Separate a mixture ``(channels, samples)`` into one stem per prompt and a residual."""
        ...
