"""A stream of audio in, streams of stems out: separation in segments that join without seams."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bridge.errors import Cancelled, StembridgeError
from bridge.request import RESIDUAL, Prompt, Settings
from bridge.separation import Progress, ProgressCallback, Separation, Separator
from plugin_host.files.audio_files import Audio

_RETRY_S = 1.0

DRY = " dry"
"""Name of the lane that carries what could not be separated; no stem can be called so."""

Lanes = dict[str, Audio]
"""Name to audio of one stretch: the stems, the residual and `DRY`; all of one shape."""


@dataclass(frozen=True)
class SeparationPlan:
    """What to separate and how.

    Attributes
    ----------
    prompts
        One per stem; spans count from the start of the stream.
    settings
        Keyword arguments of `separate`.
    segment_s
        Length of a segment; None separates all at once when the stream ends, as a file is.
    overlap_s
        How far a segment looks into its neighbours, where the two fade into each other.
    """

    prompts: tuple[Prompt, ...]
    settings: Settings
    segment_s: float | None = None
    overlap_s: float = 1.0


@dataclass(frozen=True)
class _Segment:
    """Samples from ``start`` on, and the job that separates them."""

    start: int
    audio: Audio
    job: Future[Lanes]


class SeparationStream:
    """Collects segments, separates them in the background, and joins the stems.

    With segments of length S and overlap O, segment k covers kS - O to (k + 1)S + O, and
    neighbours fade over the 2 O they share. Which segments there are depends on absolute
    positions only, so blocks of any size give the same samples.

    Parameters
    ----------
    separator
        Returns a working separator; called for every segment, so that a lost one can be replaced.
    plan
        What to separate.
    sample_rate, channels
        Of the audio to come.
    strict
        Raise what goes wrong, and compute on the caller's thread. Otherwise compute in the
        background and let pass dry what cannot be separated.
    """

    def __init__(
        self,
        separator: Callable[[], Separator],
        plan: SeparationPlan,
        sample_rate: int,
        channels: int,
        *,
        strict: bool,
    ) -> None:
        self._separator = separator
        self._plan = plan
        self._rate = sample_rate
        self._strict = strict
        self._length = None if plan.segment_s is None else round(plan.segment_s * sample_rate)
        self._overlap = round(plan.overlap_s * sample_rate)
        if self._length is not None:
            self._overlap = min(self._overlap, self._length // 2)
        self._input = np.zeros((channels, 0), np.float32)
        self._input_start = 0
        self._next = 0
        self._segments: deque[_Segment] = deque()
        self._fading: Lanes | None = None
        self._given = 0
        self._finished = False
        self._stopped = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._failure: Exception | None = None
        self._retry_at = 0.0
        self.dry_reason: str | None = None

    @property
    def held_samples(self) -> int:
        """Samples that went in and have not come out."""
        return self._input_start + self._input.shape[1] - self._given

    def feed(self, block: Audio) -> list[Lanes]:
        """Take a block and return the stretches that are ready, in order."""
        self._input = np.concatenate([self._input, block], axis=1)
        if self._length is not None:
            while self._end() >= (self._next + 1) * self._length + self._overlap:
                self._submit((self._next + 1) * self._length + self._overlap)
        return self._collect(wait=self._strict)

    def finish(self) -> list[Lanes]:
        """Separate the rest, wait for all, and return it."""
        if self._end() > self._segment_start() or not self._segments:
            self._submit(self._end())
        self._finished = True
        try:
            return self._collect(wait=True)
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what is still running."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _end(self) -> int:
        return self._input_start + self._input.shape[1]

    def _segment_start(self) -> int:
        return 0 if self._length is None else max(0, self._next * self._length - self._overlap)

    def _submit(self, end: int) -> None:
        start = self._segment_start()
        audio = self._input[:, start - self._input_start : end - self._input_start].copy()
        job: Future[Lanes] = Future()
        if self._strict:
            job.set_result(self._separate(audio, start))
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="stembridge-stream")
            job = self._pool.submit(self._separate, audio, start)
        self._segments.append(_Segment(start, audio, job))
        self._next += 1
        # Keep what the following segment looks back at.
        keep = min(self._segment_start(), end)
        self._input = self._input[:, keep - self._input_start :].copy()
        self._input_start = keep

    def _separate(self, audio: Audio, start: int) -> Lanes:
        if self._failure is not None and time.monotonic() < self._retry_at:
            raise self._failure
        try:
            lanes = separate_segment(
                self._separator, self._plan, audio, self._rate, start, self._stop_if_closed
            )
        except Exception as error:
            # A dead sidecar takes a while to be sure of; the next segments need not wait again.
            self._failure, self._retry_at = error, time.monotonic() + _RETRY_S
            raise
        self._failure = None
        return lanes

    def _stop_if_closed(self, progress: Progress) -> None:
        del progress
        if self._stopped.is_set():
            raise Cancelled("the stream was closed")

    def _collect(self, *, wait: bool) -> list[Lanes]:
        ready: list[Lanes] = []
        while self._segments and (wait or self._segments[0].job.done()):
            segment = self._segments.popleft()
            last = self._finished and not self._segments
            ready.append(self._join(segment, self._lanes_of(segment), last=last))
            self._given += ready[-1][DRY].shape[1]
        return ready

    def _lanes_of(self, segment: _Segment) -> Lanes:
        try:
            lanes = segment.job.result()
        except Exception as error:
            if self._strict:
                raise
            # Whatever it was, the audio goes on.
            known = isinstance(error, StembridgeError)
            self.dry_reason = str(error) if known else f"{type(error).__name__}: {error}"
            lanes = {name: np.zeros_like(segment.audio) for name in lane_names(self._plan)}
            lanes[DRY] = segment.audio
        else:
            self.dry_reason = None
        return lanes

    def _join(self, segment: _Segment, lanes: Mapping[str, Audio], *, last: bool) -> Lanes:
        """Fade from the segment before, and keep back the part that fades into the next."""
        joined = dict(lanes)
        if self._fading is not None:
            width = self._fading[DRY].shape[1]
            head = cross_fade(
                self._fading, {name: audio[:, :width] for name, audio in joined.items()}
            )
            for name, audio in joined.items():
                joined[name] = np.concatenate([head[name], audio[:, width:]], axis=1)
        self._fading = None
        if last or self._length is None:
            return joined
        keep = segment.audio.shape[1] - 2 * self._overlap
        self._fading = {name: audio[:, keep:] for name, audio in joined.items()}
        return {name: audio[:, :keep] for name, audio in joined.items()}


def lane_names(plan: SeparationPlan) -> tuple[str, ...]:
    """Return the names of all lanes of a plan."""
    return (*(prompt.stem for prompt in plan.prompts), RESIDUAL, DRY)


def separate_segment(
    separator: Callable[[], Separator],
    plan: SeparationPlan,
    audio: Audio,
    sample_rate: int,
    start: int,
    progress: ProgressCallback | None = None,
) -> Lanes:
    """Separate a segment that begins ``start`` samples into the stream.

    Errors are those of `Separator.separate`.
    """
    lanes = {name: np.zeros_like(audio) for name in lane_names(plan)}
    if audio.shape[1] == 0:
        return lanes
    start_s, end_s = start / sample_rate, (start + audio.shape[1]) / sample_rate
    here = (prompt.within(start_s, end_s) for prompt in plan.prompts)
    # Spans alone say nothing about a segment without any of them.
    prompts = [prompt for prompt in here if prompt.text.strip() or prompt.spans]
    if not prompts:
        lanes[RESIDUAL] = audio
        return lanes
    result: Separation = separator().separate(
        audio, sample_rate, prompts, plan.settings, progress=progress
    )
    return {**lanes, **result.stems, RESIDUAL: result.residual}


def cross_fade(before: Lanes, after: Lanes) -> Lanes:
    """Fade from the lanes of a segment to those of the next over a stretch they share."""
    samples = next(iter(before.values())).shape[1]
    positions = (np.arange(samples) + 0.5) / max(samples, 1)
    fade = (0.5 - 0.5 * np.cos(np.pi * positions)).astype(np.float32)
    # Written so that two equal sides give just that.
    return {name: before[name] + fade * (after[name] - before[name]) for name in before}
