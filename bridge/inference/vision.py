"""Visual features per latent frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from bridge.signal.pictures import resize
from bridge.video import Video

Array = npt.NDArray[np.float32]

_BATCH: Final = 8


def visual_features(
    encoder: Callable[[Array], Array], side: int, video: Video, frames: int, frame_rate_hz: float
) -> Array:
    """Encode the video frames that are shown at each latent frame.

    Parameters
    ----------
    encoder : callable
        Maps pictures (B, 3, side, side) in [0, 1] to features (B, D).
    side : int
        Pixels.
    video : Video
    frames : int
        Latent frames T.
    frame_rate_hz : float
        Latent frames per second.

    Returns
    -------
    ndarray of float32, shape (D, T)
        A video frame that is shown at several latent frames is encoded once.
    """
    needed, places = np.unique(video.shown(frames, frame_rate_hz), return_inverse=True)
    parts = [
        encoder(np.stack([resize(video.frames[index], side) for index in batch]))
        for batch in np.split(needed, range(_BATCH, len(needed), _BATCH))
    ]
    return np.ascontiguousarray(np.concatenate(parts)[places].T)
