"""Spans of seconds to one id per latent frame, and the frames in which a stem sounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from bridge.request import Span
from bridge.scratch import LongArray

NULL_ID: Final = 0
POSITIVE_ID: Final = 1
NEGATIVE_ID: Final = 2

SILENCE_DB: Final = -40.0

Frames = npt.NDArray[np.bool_]


def frame_ids(
    spans: Sequence[Span],
    frames: int,
    sample_rate: int,
    hop_length: int,
    *,
    complete: bool = False,
) -> npt.NDArray[np.int64]:
    """Mark the frames of a clip as SAM Audio's networks expect them.

    Both ends of a span are rounded up to a frame, as the official code does; a span shorter than
    a frame still marks one, so that it is not lost.

    Parameters
    ----------
    spans : sequence of Span
        Later ones overwrite earlier ones.
    frames : int
        Latent frames of the clip, at least 1.
    sample_rate, hop_length : int
        Of the model.
    complete : bool
        Whether "+" spans are all there are: what they leave counts as "-" then.

    Returns
    -------
    ndarray of int64, shape (frames,)
        0 outside every span, 1 inside a "+" span, 2 inside a "-" span.
    """
    all_told = complete and any(span.polarity == "+" for span in spans)
    ids = np.full(frames, NEGATIVE_ID if all_told else NULL_ID, dtype=np.int64)
    for span in spans:
        start = min(math.ceil(span.start_s * sample_rate / hop_length), frames - 1)
        end = max(math.ceil(span.end_s * sample_rate / hop_length), start + 1)
        ids[start:end] = POSITIVE_ID if span.polarity == "+" else NEGATIVE_ID
    return ids


def spans_of(heard: Frames, sample_rate: int, hop_length: int) -> tuple[Span, ...]:
    """Turn runs of true frames (T,) into "+" spans, of which `frame_ids` makes the same frames.

    Ends lie up to a microsecond early, since `frame_ids` rounds up what rounding may have raised.
    """
    edges = np.flatnonzero(np.diff(heard, prepend=False, append=False)).reshape(-1, 2)

    def seconds(frame: int) -> float:
        return max(math.ceil(frame * hop_length / sample_rate * 1e6) - 1, 0) / 1e6

    return tuple(Span(seconds(int(start)), seconds(int(end))) for start, end in edges)


SHORTEST_S: Final = 0.25
_FRAMES: Final = 256  # that are looked at at a time


def sounding_frames(wave: LongArray, hop_length: int, sample_rate: int) -> Frames:
    """Find the frames in which a waveform sounds.

    A frame sounds if its RMS is within `SILENCE_DB` of that of the loudest frame. Stretches
    shorter than `SHORTEST_S` are dropped, since clicks and leaks are no events.

    Parameters
    ----------
    wave : array of float32, shape (samples,)
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
    step = _FRAMES * hop_length
    power = np.concatenate(
        [
            np.add.reduceat(
                np.square(wave[first : first + step], dtype=np.float64),
                starts[: min(_FRAMES, frames - number * _FRAMES)],
            )
            for number, first in enumerate(range(0, len(wave), step))
        ]
    )
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
