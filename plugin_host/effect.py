"""What all effects of the host share: pedalboard's manners around a stream."""

import contextlib
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from bridge.errors import InputError
from plugin_host.audio_files import Audio
from plugin_host.layout import Layout
from plugin_host.streams import Stream


class Effect(ABC):
    """An effect with pedalboard's ``process``.

    Attributes
    ----------
    dry_reason : str or None
        Why the latest samples of a stream came out dry; None if they did not.
    """

    _stream: Stream | None = None
    _format: tuple[Layout, int, int] | None = None
    _reason: str | None = None

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
            `plugin_host.layout.Layout`. A stream keeps the layout of its first block.
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
            msg = f"sample_rate is {sample_rate}; expected a whole number of samples per second"
            raise InputError(msg)
        if buffer_size < 1:
            msg = f"buffer_size is {buffer_size}; expected at least 1"
            raise InputError(msg)
        array = np.asarray(input_array)
        if reset:
            return self._process_whole(array, rate, buffer_size)
        if self._stream is None or self._format is None:
            layout = Layout.of(array)
            block = layout.unpack(array)
            self._stream = self.open_stream(rate, block.shape[0], buffer_size, strict=False)
            self._format = (layout, block.shape[0], rate)
        layout, channels, expected_rate = self._format
        block = layout.unpack(array)
        if (block.shape[0], rate) != (channels, expected_rate):
            msg = (
                f"the stream began with {channels} channels at {expected_rate} Hz and goes on "
                f"with {block.shape[0]} at {rate}; call flush() or reset() in between"
            )
            raise InputError(msg)
        out = self._stream.feed(block)
        self._reason = self._stream.dry_reason
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
            self._reason = stream.dry_reason
            self._stream = self._format = None
        return layout.pack(out)

    def reset(self) -> None:
        """Drop the stream and what it holds."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._format = self._reason = None

    @property
    def latency_samples(self) -> int:
        """Samples of the stream that went in and have not come out yet."""
        return 0 if self._stream is None else self._stream.held_samples

    @property
    def dry_reason(self) -> str | None:
        """Why the latest samples of the stream came out dry; None if they did not."""
        return self._reason

    def close(self) -> None:
        """Drop the stream and let go of the sidecar."""
        self.reset()

    def __enter__(self) -> Self:
        """Return the effect."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the effect."""
        self.close()

    def _process_whole(self, array: npt.NDArray[np.generic], rate: int, buffer_size: int) -> Audio:
        self.reset()
        layout = Layout.of(array)
        audio = layout.unpack(array)
        stream = self.open_stream(rate, audio.shape[0], buffer_size, strict=True)
        with contextlib.closing(stream):
            parts = [stream.feed(audio), stream.finish()]
        return layout.pack(np.concatenate(parts, axis=1))
