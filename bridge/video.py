"""A visual prompt: the frames of a video in which the thing that sounds is masked out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bridge.errors import InputError


@dataclass(frozen=True, eq=False)
class Video:
    """Masked frames of a video that belongs to a mixture.

    Attributes
    ----------
    frames : ndarray of uint8, shape (frames, height, width, 3)
        RGB, at least one; black where the thing is that is to be extracted.
    times_s : ndarray of float64, shape (frames,)
        When each is shown, in seconds from the start of the mixture, never falling.

    Raises
    ------
    InputError
        If a shape or type is not as described.
    """

    frames: npt.NDArray[np.uint8]
    times_s: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        frames, times = self.frames, self.times_s
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise InputError(
                f"video has frames of the type {frames.dtype} and the shape {frames.shape}; "
                "expected uint8 (frames, height, width, 3)"
            )
        if times.shape != frames.shape[:1]:
            raise InputError(
                f"video has {len(frames)} frames and times of the shape {times.shape}; "
                "expected one time for each frame"
            )
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise InputError("the times of a video's frames are not finite and in order")

    def shown(self, frames: int, frame_rate_hz: float) -> npt.NDArray[np.int64]:
        """Tell for each latent frame which video frame is nearest to its start.

        Parameters
        ----------
        frames : int
            Latent frames T.
        frame_rate_hz : float
            Latent frames per second.

        Returns
        -------
        ndarray of int64, shape (T,)
            Indices into `frames`; of two equally near ones, the earlier.
        """
        wanted = np.arange(frames) / frame_rate_hz
        after = np.clip(np.searchsorted(self.times_s, wanted), 1, max(1, len(self.times_s) - 1))
        after = np.minimum(after, len(self.times_s) - 1)
        before = np.maximum(after - 1, 0)
        nearer = self.times_s[after] - wanted < wanted - self.times_s[before]
        return np.where(nearer, after, before).astype(np.int64)


def mask_out(frame: npt.NDArray[np.uint8], mask: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Blacken the pixels of a frame (height, width, 3) where a mask (height, width) is true.

    Raises
    ------
    InputError
        If they differ in size.
    """
    if frame.shape[:2] != mask.shape:
        raise InputError(
            f"a frame has {frame.shape[1]} x {frame.shape[0]} pixels and its mask "
            f"{mask.shape[1]} x {mask.shape[0]}; give a mask of the same size"
        )
    return np.where(mask[..., np.newaxis], np.uint8(0), frame)
