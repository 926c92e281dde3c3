"""What a caller gets back: stems, the residual, a report, and progress on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from bridge.request import Listening, ReconstructionMode, Solver


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


Ranker: TypeAlias = Literal["judge", "spans", "agreement"]


class Scores(Struct, frozen=True):
    """What the judge thinks of a stem, each on its scale of about 1 to 5.

    Attributes
    ----------
    overall, recall, precision, faithfulness : float
        How good it is; whether all of the sound is there, nothing but the sound is there, and
        it sounds as in the mixture.
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
    ranker : {"judge", "spans", "agreement"} or None
        What chose it: the model's judge; how well its sounding stretches and the spans, given or
        predicted, overlap; how much it has in common with the other candidates. None where
        there was but one.
    scores : Scores or None
        The judge's, if it was asked.
    """

    stem: str
    candidate: int
    ranker: Ranker | None = None
    scores: Scores | None = None


class Report(Struct, frozen=True):
    """How a separation was computed, complete enough to repeat it.

    Attributes
    ----------
    model, model_sha256 : str
        Name of the model and checksum over all that decides its output.
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
    seed, steps, solver, window_s, overlap_s, reconstruct
        The settings used, with the model's defaults filled in.
    windows : int
        Windows per prompt.
    provider : str
        The ONNX Runtime execution provider that computed.
    null_depth_db : float or None
        Peak of ``sum(stems) + residual - mixture`` in dB relative to full scale;
        None for an exact null.
    stems : tuple of str
        Names of the stems, in the order of the prompts.
    listen, predict_spans, candidates
        The settings used.
    watermark : int or None
        Message that the model wrote into what it decoded; None if it writes none.
    selections : tuple of Selection
        One per stem where there were several candidates or the judge was asked.
    """

    model: str
    model_sha256: str
    sample_rate: int
    channels: int
    samples: int
    seconds: float
    rtf: float
    nfe: int
    seed: int
    steps: int
    solver: Solver
    window_s: float
    overlap_s: float
    windows: int
    reconstruct: ReconstructionMode
    provider: str
    null_depth_db: float | None
    stems: tuple[str, ...]
    listen: Listening = "mean"
    predict_spans: bool = True
    candidates: int = 1
    watermark: int | None = None
    selections: tuple[Selection, ...] = ()


@dataclass(frozen=True)
class Separation:
    """The result of a job.

    Attributes
    ----------
    stems : dict of str to ndarray of float32, shape (channels, samples)
        One per prompt, under its stem name, at the mixture's rate and aligned with it.
    residual : ndarray of float32, shape (channels, samples)
        What no prompt claimed.
    report : Report
    """

    stems: dict[str, npt.NDArray[np.float32]]
    residual: npt.NDArray[np.float32]
    report: Report
