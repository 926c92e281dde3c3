"""Which axis of an array is the channels: pedalboard's rule, with the doubtful cases decided."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bridge.errors import InputError
from plugin_host.audio_files import Audio

Order = Literal["flat", "channels_first", "samples_first"]


@dataclass(frozen=True)
class Layout:
    """How the caller's arrays are laid out.

    Attributes
    ----------
    order
        ``"flat"`` for one channel as ``(samples,)``, else which axis comes first.
    """

    order: Order

    @classmethod
    def of(cls, array: npt.NDArray[np.generic]) -> "Layout":
        """Guess the layout of an array from its shape.

        The shorter axis is the channels, as in pedalboard. A square array, which pedalboard
        refuses or takes for whatever came before, is always ``(channels, samples)`` here.

        Raises
        ------
        InputError
            The array has no or more than two axes.
        """
        if array.ndim == 1:
            return cls("flat")
        if array.ndim != 2:
            msg = (
                f"audio has shape {array.shape}; expected (samples,), (channels, samples) or "
                "(samples, channels)"
            )
            raise InputError(msg)
        return cls("channels_first" if array.shape[0] <= array.shape[1] else "samples_first")

    def unpack(self, array: npt.ArrayLike) -> Audio:
        """Return the array as float32 ``(channels, samples)``.

        Raises
        ------
        InputError
            It does not have this layout, or is not of a float type.
        """
        given = np.asarray(array)
        if given.dtype.kind != "f":
            msg = (
                f"audio has dtype {given.dtype}; expected float32 with full scale at 1.0: divide "
                "integers by theirs, e.g. audio.astype('float32') / 32768"
            )
            raise InputError(msg)
        if given.ndim != (1 if self.order == "flat" else 2):
            msg = f"audio has shape {given.shape}; expected the layout it began with, {self.order}"
            raise InputError(msg)
        if self.order == "flat":
            given = given[np.newaxis]
        elif self.order == "samples_first":
            given = given.T
        return np.ascontiguousarray(given, dtype=np.float32)

    def pack(self, audio: Audio) -> Audio:
        """Return audio ``(channels, samples)`` in this layout."""
        if self.order == "flat":
            return np.asarray(audio[0], np.float32)
        return audio.T if self.order == "samples_first" else audio
