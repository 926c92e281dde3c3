"""What all effects of the host share: pedalboard's manners and array layouts around a stream."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from bridge.errors import InputError
from plugin_host.effects.streams import Stream
from plugin_host.files.audio_files import Audio

Order = Literal["flat", "channels_first", "samples_first"]

_MOST_CHANNELS = 8


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
    def of(cls, array: npt.NDArray[np.generic]) -> Layout:
        """Guess the layout of an array from its shape.

        The shorter axis is the channels, as in pedalboard. A square array, which pedalboard
        refuses or takes for whatever came before, is always ``(channels, samples)`` here, and so
        is a column of up to eight: the first sample of a stream is no less that of all channels.

        Raises
        ------
        InputError
            The array has no or more than two axes.
        """
        if array.ndim == 1:
            return cls("flat")
        if array.ndim != 2:
            raise InputError(
                f"audio has shape {array.shape}; expected (samples,), (channels, samples) or "
                "(samples, channels)"
            )
        rows, columns = array.shape
        if not array.size:
            return cls("samples_first" if rows == 0 and columns else "channels_first")
        one_of_each = columns == 1 and rows <= _MOST_CHANNELS
        return cls("channels_first" if rows <= columns or one_of_each else "samples_first")

    def unpack(self, array: npt.ArrayLike) -> Audio:
        """Return the array as float32 ``(channels, samples)``.

        Raises
        ------
        InputError
            It does not have this layout, or is not of a float type.
        """
        given = np.asarray(array)
        if given.dtype.kind != "f":
            raise InputError(
                f"audio has dtype {given.dtype}; expected float32 with full scale at 1.0: divide "
                "integers by theirs, e.g. audio.astype('float32') / 32768"
            )
        if given.ndim != (1 if self.order == "flat" else 2):
            raise InputError(
                f"audio has shape {given.shape}; expected the layout it began with, {self.order}"
            )
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


class Effect(ABC):
    """An effect with pedalboard's ``process``.

    Attributes
    ----------
    order : str or None
        How arrays are laid out: ``"channels_first"``, ``"samples_first"`` or ``"flat"``. None, the
        default, guesses from a whole buffer or the first block of a stream; see
        `plugin_host.effects.effect.Layout.of`.
    dry_reason : str or None
        Why the latest samples of a stream came out dry; None if they did not.
    silence_reason : str or None
        Which plug-ins gave exact silence for sound; None if there are none.
    """

    order: Order | None = None
    _stream: Stream | None = None
    _format: tuple[Layout, int, int] | None = None
    _reason: str | None = None
    _silence: str | None = None

    @abstractmethod
    def open_stream(
        self, sample_rate: int, channels: int, buffer_size: int, *, strict: bool
    ) -> Stream:
        """Start the effect on a stream.

        Parameters
        ----------
        sample_rate, channels
            Of the audio to come.
        buffer_size
            Samples that plug-ins get at a time.
        strict
            Raise what goes wrong with separations; otherwise let the audio pass dry.
        """

    def process(
        self,
        input_array: npt.ArrayLike,
        sample_rate: float,
        buffer_size: int = 8192,
        reset: bool = True,
    ) -> Audio:
        """Process a whole buffer, or the next block of a stream.

        Parameters
        ----------
        input_array
            Float audio, ``(samples,)``, ``(channels, samples)`` or ``(samples, channels)``; see
            `plugin_host.effects.effect.Layout`. A stream keeps the layout of its first block.
        sample_rate
            Samples per second, a whole number.
        buffer_size
            Samples that plug-ins get at a time. It does not limit the size of a block.
        reset
            True: a whole buffer, from a fresh start. The result has its length and is aligned
            with it. False: the next block of a stream. What is ready comes back, which may be
            nothing or more than the block; `flush` returns the rest.

        Returns
        -------
        Float32 audio in the layout of the input.

        Raises
        ------
        InputError
            The audio is not as described, or a plug-in refuses it.
        StembridgeError
            Whole buffers only: a separation failed. In a stream its audio passes dry and
            `dry_reason` tells why.
        """
        rate = round(sample_rate)
        if rate != sample_rate or rate <= 0:
            raise InputError(
                f"sample_rate is {sample_rate}; expected a whole number of samples per second"
            )
        if buffer_size < 1:
            raise InputError(f"buffer_size is {buffer_size}; expected at least 1")
        array = np.asarray(input_array)
        if reset:
            return self._process_whole(array, rate, buffer_size)
        if self._stream is None or self._format is None:
            layout = self._layout_of(array)
            block = layout.unpack(array)
            self._stream = self.open_stream(rate, block.shape[0], buffer_size, strict=False)
            self._format = (layout, block.shape[0], rate)
        layout, channels, expected_rate = self._format
        block = layout.unpack(array)
        if (block.shape[0], rate) != (channels, expected_rate):
            raise InputError(
                f"the stream began with {channels} channels at {expected_rate} Hz and goes on "
                f"with {block.shape[0]} at {rate}; call flush() or reset() in between"
            )
        out = self._stream.feed(block)
        self._reason, self._silence = self._stream.dry_reason, self._stream.silence_reason
        return layout.pack(out)

    def __call__(
        self,
        input_array: npt.ArrayLike,
        sample_rate: float,
        buffer_size: int = 8192,
        reset: bool = True,
    ) -> Audio:
        """Do as `process` does."""
        return self.process(input_array, sample_rate, buffer_size, reset)

    def flush(self) -> Audio:
        """End the stream and return the samples it still holds, waiting for them.

        Without a stream the result is an empty array ``(0,)``.
        """
        if self._stream is None or self._format is None:
            return np.zeros(0, np.float32)
        stream, layout = self._stream, self._format[0]
        try:
            out = stream.finish()
        finally:
            self._reason, self._silence = stream.dry_reason, stream.silence_reason
            self._stream = self._format = None
        return layout.pack(out)

    def reset(self) -> None:
        """Drop the stream and what it holds."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._format = self._reason = self._silence = None

    @property
    def latency_samples(self) -> int:
        """Samples of the stream that went in and have not come out yet."""
        return 0 if self._stream is None else self._stream.held_samples

    @property
    def dry_reason(self) -> str | None:
        """Why the latest samples of the stream came out dry; None if they did not."""
        return self._reason

    @property
    def silence_reason(self) -> str | None:
        """Which plug-ins gave exact silence for the sound of the latest call; None if none did."""
        return self._silence

    def close(self) -> None:
        """Drop the stream and close the connection to the sidecar."""
        self.reset()

    def __enter__(self) -> Self:
        """Return the effect."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the effect."""
        self.close()

    def _layout_of(self, array: npt.NDArray[np.generic]) -> Layout:
        return Layout.of(array) if self.order is None else Layout(self.order)

    def _process_whole(self, array: npt.NDArray[np.generic], rate: int, buffer_size: int) -> Audio:
        self.reset()
        layout = self._layout_of(array)
        audio = layout.unpack(array)
        stream = self.open_stream(rate, audio.shape[0], buffer_size, strict=True)
        with contextlib.closing(stream):
            parts = [stream.feed(audio), stream.finish()]
            self._silence = stream.silence_reason
        return layout.pack(np.concatenate(parts, axis=1))
