"""Where in a mixture a text prompt is heard, when nobody has marked it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bridge.flow.windows import plan_windows

Array = npt.NDArray[np.float32]

FramePredictor = Callable[[Array], Array]


def predict_frames(
    predictor: FramePredictor,
    latents: Array,
    *,
    threshold: float,
    window: int,
    overlap: int,
) -> npt.NDArray[np.bool_]:
    """Find the frames in which a text is heard.

    Long mixtures are scored in windows like those of the flow: the predictor was trained on
    clips, and its memory grows with the square of their length. Where windows overlap the larger
    logit holds, since a sound cut off by a window's edge is heard better in the other.

    Parameters
    ----------
    predictor : callable
        Maps latents (t, C) to logits (t,).
    latents : ndarray of float32, shape (T, C)
        The mixture.
    threshold : float
        Probability above which a frame counts as heard, 0 to 1.
    window, overlap : int
        In frames.

    Returns
    -------
    ndarray of bool, shape (T,)
        Runs of true frames are the positive spans.
    """
    plan = plan_windows(len(latents), window, overlap)
    logits = np.full(len(latents), -np.inf, dtype=np.float32)
    for start in plan.starts:
        part = slice(start, start + plan.length)
        logits[part] = np.maximum(logits[part], predictor(latents[part]))
    heard: npt.NDArray[np.bool_] = logits > math.log(threshold / (1 - threshold))
    return heard
