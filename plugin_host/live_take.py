"""What a live insert has heard and separated, addressed by the position of the transport.

Segments lie on the same grid as those of a stream (`plugin_host.separation_stream`), counted from
transport position 0, so that what is played equals what `Separate` with the same ``segment_s``
makes of the same audio offline.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plugin_host.audio_files import Audio
from plugin_host.separation_stream import Lanes, cross_fade


@dataclass(frozen=True)
class Task:
    """A segment to separate.

    Attributes
    ----------
    number
        Which segment.
    start
        Its first sample on the timeline.
    audio
        What is to be separated.
    version
        To tell whether the audio has changed in the meantime.
    """

    number: int
    start: int
    audio: Audio
    version: int


class LiveTake:
    """Dry and separated audio of a timeline.

    Parameters
    ----------
    channels
        Of the audio.
    length, overlap
        Samples of a segment, and how far it looks into its neighbours, at most half of it.
    mix
        Makes what is played of the lanes of a stretch.
    """

    def __init__(
        self, channels: int, length: int, overlap: int, mix: Callable[[Lanes], Audio]
    ) -> None:
        self._channels = channels
        self._length = length
        self._overlap = min(overlap, length // 2)
        self._mix = mix
        self._lock = threading.Lock()
        self._dry = np.zeros((channels, 0), np.float32)
        self._known = np.zeros(0, bool)
        self._wet = np.zeros((channels, 0), np.float32)
        self._ready = np.zeros(0, bool)
        self._versions: dict[int, int] = {}
        self._done: dict[int, tuple[int, Lanes]] = {}

    def pass_through(self, position: int, block: Audio) -> Audio:
        """Take a block from the transport and return what to play there.

        Parameters
        ----------
        position
            Of its first sample.
        block
            Float32 ``(channels, samples)``.

        Returns
        -------
        The separated audio where all of the block is known to be what was separated; else the
        block itself, which is then recorded.
        """
        end = position + block.shape[1]
        with self._lock:
            self._grow(end)
            here = slice(position, end)
            if np.array_equal(self._dry[:, here], block) and self._known[here].all():
                return self._wet[:, here].copy() if self._ready[here].all() else block
            changed = ~self._known[here] | np.any(self._dry[:, here] != block, axis=0)
            self._dry[:, here] = block
            self._known[here] = True
            where = np.flatnonzero(changed) + position
            self._invalidate(int(where[0]), int(where[-1]) + 1)
            return block

    def tasks(self, *, rolling_at: int | None = None) -> list[Task]:
        """Return the segments whose audio is known and not separated yet.

        Parameters
        ----------
        rolling_at
            Position of the transport while it rolls: the segments around it are left for later,
            since their audio is just being heard.
        """
        with self._lock:
            found = [self._task(number, rolling_at) for number in sorted(self._versions)]
        return [task for task in found if task is not None]

    def put(self, task: Task, lanes: Lanes) -> None:
        """Take the result of a task; it counts unless the audio has changed in the meantime."""
        with self._lock:
            if self._versions.get(task.number) != task.version:
                return
            self._done[task.number] = (task.start, lanes)
            self._assemble(task.number)
            for number in (task.number - 1, task.number + 1):
                if number in self._done:
                    self._assemble(number)

    def ready_samples(self) -> int:
        """Return how many samples of the timeline are separated."""
        with self._lock:
            return int(self._ready.sum())

    def _region(self, number: int) -> tuple[int, int]:
        start = max(0, number * self._length - self._overlap)
        return start, (number + 1) * self._length + self._overlap

    def _task(self, number: int, rolling_at: int | None) -> Task | None:
        start, end = self._region(number)
        if number in self._done or (rolling_at is not None and start <= rolling_at <= end):
            return None
        begin, stop = _longest_run(self._known[start:end])
        begin, stop = start + begin, start + stop
        if stop <= begin or (number and stop < number * self._length + self._overlap):
            return None  # Nothing known here, or the segment before covers it.
        return Task(number, begin, self._dry[:, begin:stop].copy(), self._versions[number])

    def _invalidate(self, start: int, end: int) -> None:
        first = max(0, (start - self._overlap) // self._length)
        last = (end + self._overlap) // self._length
        for number in range(first, last + 1):
            low, high = self._region(number)
            if low < end and start < high:
                self._versions[number] = self._versions.get(number, 0) + 1
                self._done.pop(number, None)
                self._ready[low:high] = False
        # Neighbours that stay valid still hold the middle of their own stretch.
        for number in (first - 1, last + 1, *range(first, last + 1)):
            if number in self._done:
                self._assemble(number)

    def _assemble(self, number: int) -> None:
        start, lanes = self._done[number]
        end = start + next(iter(lanes.values())).shape[1]
        seam, width = (number + 1) * self._length - self._overlap, 2 * self._overlap
        region_start, region_end = self._region(number)
        # Where both neighbours know the audio they share it, and fade into each other.
        low = start + width if number and start == region_start else start
        high = end if end < region_end else min(end, seam)
        self._play(low, {k: v[:, low - start : high - start] for k, v in lanes.items()})
        following = self._done.get(number + 1)
        if following is not None and following[0] == seam and end == region_end:
            tail = {k: v[:, seam - start : seam - start + width] for k, v in lanes.items()}
            head = {k: v[:, :width] for k, v in following[1].items()}
            self._play(seam, cross_fade(tail, head))

    def _play(self, start: int, lanes: Lanes) -> None:
        audio = self._mix(lanes)
        end = start + audio.shape[1]
        self._wet[:, start:end] = audio
        self._ready[start:end] = True

    def _grow(self, end: int) -> None:
        size = self._known.size
        if end <= size:
            return
        # Room for a while, so that growing is rare.
        more = max(end - size, size // 2, 60 * 48000)
        silence = np.zeros((self._channels, more), np.float32)
        nothing: NDArray[np.bool_] = np.zeros(more, bool)
        self._dry = np.concatenate([self._dry, silence], axis=1)
        self._wet = np.concatenate([self._wet, silence], axis=1)
        self._known = np.concatenate([self._known, nothing])
        self._ready = np.concatenate([self._ready, nothing])


def _longest_run(known: NDArray[np.bool_]) -> tuple[int, int]:
    """Return start and end of the longest stretch of true values; two zeros if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    if edges.size == 0:
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])
