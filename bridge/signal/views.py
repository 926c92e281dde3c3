"""What a mono model hears of a mixture with channels.

``channels``
    Each channel by itself. Where sources sit at different places of the stereo field, each of
    them is stronger in one channel than in the mean of all, and easier to tell from the rest; two
    answers instead of one also say where it sits. The network runs once per channel. A model may
    also be told of the channel beside the one that it hears: of the other of a stereo pair.
``mean``
    The mean of the channels, once. What two channels hold in opposite phase cancels: the model
    does not hear it, and it stays in the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bridge.request import Listening
from bridge.signal import level

Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Views:
    """The signals that a model hears.

    Attributes
    ----------
    signals : ndarray of float32, shape (V, samples)
        None of them silent; none at all if all would be.
    of_channel : tuple of int
        For each channel of the mixture the view that tells of it.
    beside : tuple of int
        For each signal the one of the other channel of its pair; itself if that is silent, or
        there is none.
    """

    signals: Array
    of_channel: tuple[int, ...]
    beside: tuple[int, ...]

    def to_channels(self, waves: Array) -> Array:
        """Spread what was found in each view (V, samples) over the channels (channels, samples)."""
        return waves[list(self.of_channel)]


def listen_to(mixture: Array, listening: Listening) -> Views:
    """Choose what is heard of a mixture.

    Channels that are equal are heard once, and silent ones not at all. Pairs are the first and the
    second channel, the third and the fourth, and so on, as files and buses order them.

    Parameters
    ----------
    mixture : ndarray of float32, shape (channels, samples)
    listening : {"channels", "mean"}
    """
    candidates = mixture if listening == "channels" else level.downmix(mixture)[np.newaxis]
    signals: list[Array] = []
    found: list[int | None] = []
    for signal in candidates:
        if level.is_silent(signal):
            found.append(None)
            continue
        known = (i for i, other in enumerate(signals) if np.array_equal(other, signal))
        found.append(next(known, len(signals)))
        if found[-1] == len(signals):
            signals.append(signal)
    beside = list(range(len(signals)))
    for channel, view in reversed(list(enumerate(found))):  # of equal ones the first decides
        other = found[channel ^ 1] if channel ^ 1 < len(found) else None
        if view is not None:
            beside[view] = view if other is None else other
    heard = np.stack(signals) if signals else mixture[:0]
    # Whatever is claimed of silence is silence.
    of_channel = found if listening == "channels" else [0] * len(mixture)
    return Views(heard, tuple(view or 0 for view in of_channel), tuple(beside))


def count_views(channels: int, listening: Listening) -> int:
    """Return the most signals that a mixture with so many channels can mean."""
    return channels if listening == "channels" else 1
