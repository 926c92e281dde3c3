"""Audio in pieces: what goes in comes out later, all of it, in order and aligned.

Every effect is a stream inside. A whole buffer is one piece followed by the end, so both ways
give the same samples by construction.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from bridge.errors import InputError, foreign_errors
from plugin_host.files.audio_files import Audio

# Larger than fenv_t is on any platform.
_STATE_BYTES = 512


@contextlib.contextmanager
def kept_rounding() -> Iterator[None]:
    """Restore this thread's floating-point state after the block (C99 ``fesetenv``).

    Many plug-ins set the processor to flush the smallest numbers to zero when they are loaded or
    run, and leave it so. For everything else on that thread, the engine included, arithmetic would
    then depend on which plug-ins were loaded before.
    """
    if sys.platform == "win32":
        yield
        return
    library = ctypes.CDLL(None)
    try:
        get_state, set_state = library.fegetenv, library.fesetenv
    except AttributeError:
        library = ctypes.CDLL("libm.so.6")
        get_state, set_state = library.fegetenv, library.fesetenv
    state = ctypes.create_string_buffer(_STATE_BYTES)
    get_state(state)
    try:
        yield
    finally:
        set_state(state)


_LONGEST_LATENCY_S = 60.0
_TRIAL_SAMPLES = 1 << 16
_TRIAL_RATE_HZ = 44100


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

    @property
    def silence_reason(self) -> str | None:
        """Which plug-ins have given exact silence for sound until now; None if there are none."""
        ...

    def feed(self, block: Audio) -> Audio:
        """Take a block ``(channels, samples)`` and return the samples that are ready."""
        ...

    def finish(self) -> Audio:
        """Return all samples that are still held; nothing can be fed afterwards."""
        ...

    def close(self) -> None:
        """Release everything, including what is still held."""
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
        self._board = _Board(plugins, sample_rate, buffer_size)
        self._sample_rate = sample_rate
        self._size = buffer_size
        self._waiting = np.zeros((channels, 0), np.float32)
        self._taken = 0
        self._given = 0
        self._heard = False
        self._sounded = False

    @property
    def held_samples(self) -> int:
        """Samples that went in and have not come out."""
        return self._taken - self._given

    @property
    def silence_reason(self) -> str | None:
        """Which plug-ins have given exact silence for sound until now."""
        if self._sounded or not self._heard or not self._given:
            return None
        return self._board.silence

    def feed(self, block: Audio) -> Audio:
        """Take a block and return the samples that are ready."""
        self._taken += block.shape[1]
        self._heard = self._heard or bool(block.any())
        self._waiting = np.concatenate([self._waiting, block], axis=1)
        whole = self._waiting.shape[1] // self._size * self._size
        ready = [
            self._board.run(self._waiting[:, start : start + self._size])
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
        ready = [self._board.run(self._waiting)] if self._waiting.shape[1] else []
        missing = self._taken - self._given - sum(part.shape[1] for part in ready)
        silence = np.zeros((self._waiting.shape[0], self._size), np.float32)
        self._waiting = self._waiting[:, :0]
        pushed = 0
        while missing > 0:
            if pushed > _LONGEST_LATENCY_S * self._sample_rate:
                raise InputError(
                    f"{self._board.names}: still holds {missing} samples after a minute of "
                    "silence; take it out of the chain"
                )
            part = self._board.run(silence)[:, :missing]
            pushed += self._size
            missing -= part.shape[1]
            ready.append(part)
        return self._give(ready)

    def close(self) -> None:
        """Drop what is held."""
        self._waiting = self._waiting[:, :0]

    def _give(self, ready: Sequence[Audio]) -> Audio:
        out = np.concatenate([self._waiting[:, :0], *ready], axis=1)
        self._given += out.shape[1]
        self._sounded = self._sounded or bool(out.any())
        return out


class WholeStream:
    """A run of pedalboard plug-ins over audio that comes to its end before it is needed.

    As `NativeStream`, but where blocks give nothing but silence for sound, as some plug-ins do,
    all is processed once more in one piece.

    Parameters
    ----------
    plugins, sample_rate, channels, buffer_size
        As for `NativeStream`.
    in_blocks
        Whether blocks are worth a try; see `silent_in_blocks`.
    """

    dry_reason = None

    def __init__(
        self,
        plugins: Sequence[Any],
        sample_rate: int,
        channels: int,
        buffer_size: int,
        *,
        in_blocks: bool,
    ) -> None:
        self._board = _Board(plugins, sample_rate, buffer_size)
        self._nothing = np.zeros((channels, 0), np.float32)
        self._blocks = (
            NativeStream(plugins, sample_rate, channels, buffer_size) if in_blocks else None
        )
        self._taken: list[Audio] = []
        self._silent: list[Audio] = []
        self._sounded = False
        self.silence_reason: str | None = None

    @property
    def held_samples(self) -> int:
        """Samples that went in and have not come out."""
        if self._blocks is None:
            return _samples(self._taken)
        return self._blocks.held_samples + _samples(self._silent)

    def feed(self, block: Audio) -> Audio:
        """Take a block and return the samples that are ready: none before there is sound."""
        if not self._sounded:
            self._taken.append(block)
        return self._nothing if self._blocks is None else self._release(self._blocks.feed(block))

    def finish(self) -> Audio:
        """Return all samples that are still held."""
        rest = self._nothing if self._blocks is None else self._release(self._blocks.finish())
        if self._sounded:
            return rest
        audio = np.concatenate([self._nothing, *self._taken], axis=1)
        silent = np.concatenate([self._nothing, *self._silent], axis=1)
        self._taken, self._silent = [], []
        if self._blocks is not None and not audio.any():
            return silent
        if audio.shape[1] == 0:
            return audio
        out = self._board.run(audio, reset=True)
        if audio.any() and not out.any():
            self.silence_reason = self._board.silence
        return out

    def close(self) -> None:
        """Drop what is held."""
        self._taken, self._silent = [], []
        if self._blocks is not None:
            self._blocks.close()

    def _release(self, out: Audio) -> Audio:
        if self._sounded:
            return out
        self._silent.append(out)
        if not out.any():
            return self._nothing
        self._sounded = True
        out = np.concatenate(self._silent, axis=1)
        self._taken, self._silent = [], []
        return out


class _Board:
    """Pedalboard's board, with errors that name the plug-ins."""

    def __init__(self, plugins: Sequence[Any], sample_rate: int, buffer_size: int) -> None:
        import pedalboard

        self.names = ", ".join(type(plugin).__name__ for plugin in plugins)
        self._sample_rate = sample_rate
        self._size = buffer_size
        with foreign_errors(f"{self.names}: cannot be started"), kept_rounding():
            self._board = pedalboard.Pedalboard(list(plugins))
            # A board that was reset leaves its latency out of what it returns. One that was not
            # may return it as silence in front, depending on the plug-in.
            self._board.reset()

    @property
    def silence(self) -> str:
        """Return the message for when sound goes in and none comes out."""
        return f"{self.names}: sound went in and nothing but silence came out"

    def run(self, block: Audio, *, reset: bool = False) -> Audio:
        """Process a block that follows the last one, or with ``reset`` one that stands alone."""
        what = f"{self.names} refuses {block.shape[0]} channels at {self._sample_rate} Hz"
        with foreign_errors(what), kept_rounding():
            out = self._board.process(block, self._sample_rate, buffer_size=self._size, reset=reset)
        return np.asarray(out, np.float32)


def _samples(blocks: Sequence[Audio]) -> int:
    return sum(int(block.shape[1]) for block in blocks)


def silent_in_blocks(plugin: Any) -> str | None:
    """Return which plug-in gives silence for sound that comes in blocks; None if it works.

    A built-in plug-in is tried, by a new one of its kind; of one that holds others all are. Those
    from files, which may take long to load, are believed.
    """
    import pedalboard

    if isinstance(plugin, pedalboard.PluginContainer):
        return next(filter(None, map(silent_in_blocks, plugin)), None)
    kind: Any = type(plugin)
    return None if _runs_in_blocks(kind) else str(kind.__name__)


@functools.cache
def _runs_in_blocks(kind: Any) -> bool:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (1, _TRIAL_SAMPLES)).astype(np.float32)
    size = _TRIAL_SAMPLES // 8
    try:
        board = _Board([kind()], _TRIAL_RATE_HZ, size)
        blocks = [board.run(noise[:, at : at + size]) for at in range(0, _TRIAL_SAMPLES, size)]
        whole = _Board([kind()], _TRIAL_RATE_HZ, size).run(noise, reset=True)
    # What cannot be made or run without being set up is believed, like a plug-in from a file.
    except Exception:
        return True
    return any(block.any() for block in blocks) or not whole.any()


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

    @property
    def silence_reason(self) -> str | None:
        """The first reason in the chain."""
        reasons = (stream.silence_reason for stream in self._streams)
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
            raise ValueError("an empty chain has no stream to finish")
        return tail

    def close(self) -> None:
        """Close all."""
        for stream in self._streams:
            stream.close()


class PassStream:
    """Returns every block unchanged.

    Parameters
    ----------
    channels
        Of the audio to come.
    """

    held_samples = 0
    dry_reason = None
    silence_reason = None

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
