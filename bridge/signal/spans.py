"""Spans of seconds to one id per latent frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from bridge.request import Span

NULL_ID: Final = 0
POSITIVE_ID: Final = 1
NEGATIVE_ID: Final = 2


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
