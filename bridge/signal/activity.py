"""Where a stem sounds, and how well that agrees with the spans in which it should."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from bridge.signal.spans import NEGATIVE_ID, POSITIVE_ID

Array = npt.NDArray[np.float32]
Frames = npt.NDArray[np.bool_]

SILENCE_DB: Final = -40.0
SHORTEST_S: Final = 0.25


def sounding_frames(wave: Array, hop_length: int, sample_rate: int) -> Frames:
    """Find the frames in which a waveform sounds.

    A frame sounds if its RMS is within `SILENCE_DB` of that of the loudest frame. Stretches
    shorter than `SHORTEST_S` are dropped, since clicks and leaks are no events.

    Parameters
    ----------
    wave : ndarray of float32, shape (samples,)
        Any length from 1; the last frame may be cut off.
    hop_length : int
        Samples per frame.
    sample_rate : int
        In Hz.

    Returns
    -------
    ndarray of bool, shape (ceil(samples / hop_length),)
        All false for digital silence.
    """
    frames = -(-len(wave) // hop_length)
    starts = np.arange(frames) * hop_length
    power = np.add.reduceat(np.square(wave, dtype=np.float64), starts)
    power /= np.diff(np.append(starts, len(wave)))
    peak = power.max()
    sounds: Frames = power > peak * 10 ** (SILENCE_DB / 10)
    shortest = SHORTEST_S * sample_rate / hop_length
    edges = np.flatnonzero(np.diff(sounds, prepend=False, append=False))
    for start, end in edges.reshape(-1, 2):
        if end - start < shortest:
            sounds[start:end] = False
    return sounds


def expected_frames(ids: npt.NDArray[np.int64]) -> Frames | None:
    """Tell from span ids where a stem should sound; None if they don't say.

    Parameters
    ----------
    ids : ndarray of int64, shape (frames,)
        See `bridge.signal.spans.frame_ids`.

    Returns
    -------
    ndarray of bool, shape (frames,), or None
        The positive spans; if there are only negative ones, all but those.
    """
    if (ids == POSITIVE_ID).any():
        return np.asarray(ids == POSITIVE_ID)
    if (ids == NEGATIVE_ID).any():
        return np.asarray(ids != NEGATIVE_ID)
    return None


def overlap(sounds: Frames, expected: Frames) -> float:
    """Share of the frames in both sets among those in either, 0 to 1; 1 if both are empty."""
    either = np.count_nonzero(sounds | expected)
    return np.count_nonzero(sounds & expected) / either if either else 1.0
