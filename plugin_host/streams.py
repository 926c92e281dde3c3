"""Audio in pieces: what goes in comes out later, all of it, in order and aligned.

Every effect is a stream inside. A whole buffer is one piece followed by the end, so both ways
give the same samples by construction.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from bridge.errors import InputError
from plugin_host.audio_files import Audio
from plugin_host.floating_point import kept_rounding

_LONGEST_LATENCY_S = 60.0


class Stream(Protocol):
    """A running effect. Exactly as many samples come out as went in, once it has finished."""

    @property
    def held_samples(self) -> int:
        """Samples that went in and have not come out."""
        ...

    @property
    def dry_reason(self) -> str | None:
        """Why the latest samples came out dry; None if they did not."""
        ...

    def feed(self, block: Audio) -> Audio:
        """Take a block ``(channels, samples)`` and return the samples that are ready."""
        ...

    def finish(self) -> Audio:
        """Return all samples that are still held; the stream takes no more."""
        ...

    def close(self) -> None:
        """Let go of everything, whatever is still held."""
        ...


class NativeStream:
    """A run of pedalboard plug-ins, compensated for their latency.

    Blocks are cut to one size inside, so that the result does not depend on the caller's.

    Parameters
    ----------
    plugins
        Built-in, VST3 or AU plug-ins; they go through pedalboard as one board.
    sample_rate
        Samples per second.
    channels
        Of the audio to come.
    buffer_size
        Samples the plug-ins get at a time.
    """

    dry_reason = None

    def __init__(
        self, plugins: Sequence[Any], sample_rate: int, channels: int, buffer_size: int
    ) -> None:
        import pedalboard

        self._board = pedalboard.Pedalboard(list(plugins))
        # A board that was reset leaves its latency out of what it returns. One that was not
        # may return it as silence in front, depending on the plug-in.
        with kept_rounding():
            self._board.reset()
        self._sample_rate = sample_rate
        self._size = buffer_size
        self._waiting = np.zeros((channels, 0), np.float32)
        self._taken = 0
        self._given = 0

    @property
    def held_samples(self) -> int:
        """Samples that went in and have not come out."""
        return self._taken - self._given

    def feed(self, block: Audio) -> Audio:
        """Take a block and return the samples that are ready."""
        self._taken += block.shape[1]
        self._waiting = np.concatenate([self._waiting, block], axis=1)
        whole = self._waiting.shape[1] // self._size * self._size
        ready = [
            self._run(self._waiting[:, start : start + self._size])
            for start in range(0, whole, self._size)
        ]
        self._waiting = self._waiting[:, whole:]
        return self._give(ready)

    def finish(self) -> Audio:
        """Return what is still held, pushed out of the plug-ins with silence.

        Raises
        ------
        InputError
            A plug-in holds its audio back for more than a minute.
        """
        ready = [self._run(self._waiting)] if self._waiting.shape[1] else []
        missing = self._taken - self._given - sum(part.shape[1] for part in ready)
        silence = np.zeros((self._waiting.shape[0], self._size), np.float32)
        self._waiting = self._waiting[:, :0]
        pushed = 0
        while missing > 0:
            if pushed > _LONGEST_LATENCY_S * self._sample_rate:
                msg = (
                    f"a plug-in still holds {missing} samples after a minute of silence; "
                    "take it out of the chain"
                )
                raise InputError(msg)
            part = self._run(silence)[:, :missing]
            pushed += self._size
            missing -= part.shape[1]
            ready.append(part)
        return self._give(ready)

    def close(self) -> None:
        """Drop what is held."""
        self._waiting = self._waiting[:, :0]

    def _run(self, block: Audio) -> Audio:
        try:
            with kept_rounding():
                out = self._board.process(
                    block, self._sample_rate, buffer_size=self._size, reset=False
                )
        except ValueError as error:
            msg = f"a plug-in refuses {block.shape[0]} channels: {error}"
            raise InputError(msg) from error
        return np.asarray(out, np.float32)

    def _give(self, ready: Sequence[Audio]) -> Audio:
        out = np.concatenate([self._waiting[:, :0], *ready], axis=1)
        self._given += out.shape[1]
        return out


class ChainStream:
    """Streams one after the other."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = list(streams)

    @property
    def held_samples(self) -> int:
        """Samples that went in and have not come out."""
        return sum(stream.held_samples for stream in self._streams)

    @property
    def dry_reason(self) -> str | None:
        """The first reason in the chain."""
        reasons = (stream.dry_reason for stream in self._streams)
        return next((reason for reason in reasons if reason is not None), None)

    def feed(self, block: Audio) -> Audio:
        """Take a block and return the samples that came through all of the chain."""
        for stream in self._streams:
            block = stream.feed(block)
        return block

    def finish(self) -> Audio:
        """Finish each stream and send its tail through the rest of the chain."""
        tail: Audio | None = None
        for stream in self._streams:
            parts = [] if tail is None else [stream.feed(tail)]
            parts.append(stream.finish())
            tail = np.concatenate(parts, axis=1)
        if tail is None:
            msg = "an empty chain has no stream to finish"
            raise ValueError(msg)
        return tail

    def close(self) -> None:
        """Close all."""
        for stream in self._streams:
            stream.close()


class PassStream:
    """Gives back every block unchanged.

    Parameters
    ----------
    channels
        Of the audio to come.
    """

    held_samples = 0
    dry_reason = None

    def __init__(self, channels: int) -> None:
        self._nothing = np.zeros((channels, 0), np.float32)

    def feed(self, block: Audio) -> Audio:
        """Return the block."""
        return block

    def finish(self) -> Audio:
        """Return nothing, since nothing is held."""
        return self._nothing

    def close(self) -> None:
        """Do nothing."""
