"""Placing sources in the stereo field, and rounding them so that they still sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pan", "to_pcm"]


def pan(audio: NDArray[np.float32], position: float) -> NDArray[np.float32]:
    """Place a mono signal with constant power, -1 (left) to 1 (right); returns `(2, samples)`."""
    angle = (position + 1) * np.pi / 4
    return np.stack([np.cos(angle) * audio, np.sin(angle) * audio]).astype(np.float32)


def to_pcm(
    stems: list[NDArray[np.float32]], peak: float = 0.89
) -> tuple[NDArray[np.int16], list[NDArray[np.int16]]]:
    """Round stems to 16 bits so that they sum to the mixture exactly and nothing clips.

    Parameters
    ----------
    stems
        Arrays of equal shape `(channels, samples)`.
    peak
        Largest sample of the mixture and of any stem, as a share of full scale.

    Returns
    -------
    mixture, stems
        int16 arrays of the same shape.
    """
    loudest = max(float(np.abs(x).max()) for x in [*stems, np.sum(stems, axis=0)])
    scale = peak * 32767 / max(loudest, 1e-9)
    rounded = [np.round(stem.astype(np.float64) * scale).astype(np.int16) for stem in stems]
    mixture = np.sum([stem.astype(np.int32) for stem in rounded], axis=0)
    return mixture.astype(np.int16), rounded
