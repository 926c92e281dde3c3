"""What `Client.submit` returns: a job as the caller sees it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridge.errors import ServerError
from bridge.separation import Progress, Separation
from bridge.wire.descriptors import JobState


@dataclass(frozen=True)
class PartialStem:
    """A stretch of a stem, as soon as it was decoded; a preview of what `result` will hold.

    Attributes
    ----------
    stem : str
        Name of the stem.
    start : int
        First sample of the stretch in the mixture.
    audio : ndarray of float32, shape (channels, samples)
        Before reconstruction, so that it may differ from the final stem.
    """

    stem: str
    start: int
    audio: npt.NDArray[np.float32]


class JobHandle:
    """A job submitted to a server. All methods may be called from any thread.

    Attributes
    ----------
    key : str or None
        The job's key at the server, once it is accepted; see `Client.attach`.
    state : str
        ``"queued"``, ``"running"``, ``"done"``, ``"failed"`` or ``"cancelled"``.
    position : int
        Place in the queue, 1 for the next; 0 if it does not wait.
    progress : Progress or None
        The newest.
    cached : bool
        Whether the stems were there already.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.key: str | None = None
        self.state: JobState = "queued"
        self.position = 0
        self.progress: Progress | None = None
        self.cached = False
        self._cancel = cancel
        self._changed = threading.Condition()
        self._unseen: deque[Progress] = deque()
        self._partials: deque[PartialStem] = deque()
        self._result: Separation | None = None
        self._error: BaseException | None = None
        self._watchers: list[Callable[[], None]] = []
        self._callbacks: list[Callable[[JobHandle], None]] = []

    def done(self) -> bool:
        """Say whether the job has come to an end, good or bad."""
        return self._result is not None or self._error is not None

    def cancel(self) -> None:
        """Give the job up. Returns at once; `result` raises `Cancelled` from now on."""
        self._cancel()

    def result(self, timeout_s: float | None = None) -> Separation:
        """Wait for the job and return its stems.

        Parameters
        ----------
        timeout_s : float or None
            How long to wait here; None as long as the job makes progress. The job goes on
            when this time is over.

        Raises
        ------
        TimeoutError
            If it is not done in time.
        StembridgeError
            What the job came to, if not to stems.
        """
        with self._changed:
            if not self._changed.wait_for(self.done, timeout_s):
                raise TimeoutError(f"the job is not done after {timeout_s} s; it goes on")
        return self._outcome()

    def __iter__(self) -> Iterator[PartialStem]:
        """Yield partial stems as they come, until the job ends; for a job with ``partial=True``.

        Raises
        ------
        StembridgeError
            What the job came to, if not to stems.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._partials or self.done())
            partials = self.take_partials()
            if not partials:
                self._outcome()
                return
            yield from partials

    def take_partials(self) -> list[PartialStem]:
        """Return the partial stems that came since the last call, without waiting."""
        with self._changed:
            partials = list(self._partials)
            self._partials.clear()
        return partials

    def watch(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after everything that happens to the job; it must be quick."""
        with self._changed:
            self._watchers.append(callback)
        callback()

    def add_done_callback(self, callback: Callable[[JobHandle], None]) -> None:
        """Have `callback` called when the job ends, on the client's thread, or now if it has."""
        with self._changed:
            if not self.done():
                self._callbacks.append(callback)
                return
        callback(self)

    def wait_progress(self) -> list[Progress] | None:
        """Wait for progress not returned before; None once the job has ended and all was."""
        with self._changed:
            self._changed.wait_for(lambda: self._unseen or self.done())
            unseen = list(self._unseen)
            self._unseen.clear()
        return unseen or None

    # The client's thread calls what follows.

    def note_progress(self, state: JobState, position: int, progress: Progress) -> None:
        """Take news of the job."""
        with self._changed:
            self.state, self.position, self.progress = state, position, progress
            self._unseen.append(progress)
            self._tell()

    def note_partial(self, partial: PartialStem) -> None:
        """Take a partial stem."""
        with self._changed:
            self._partials.append(partial)
            self._tell()

    def finish(self, result: Separation | None, error: BaseException | None = None) -> None:
        """End the job with a result or an error; only the first end counts."""
        with self._changed:
            if self.done():
                return
            self._result, self._error = result, error
            if error is None:
                self.state = "done"
            else:
                self.state = "cancelled" if getattr(error, "code", "") == "cancelled" else "failed"
            callbacks, self._callbacks = self._callbacks, []
            self._tell()
        for callback in callbacks:
            callback(self)

    def _tell(self) -> None:
        self._changed.notify_all()
        for watcher in self._watchers:
            watcher()

    def _outcome(self) -> Separation:
        if self._error is not None:
            # A fresh traceback for every caller that asks.
            raise self._error.with_traceback(None)
        if self._result is None:
            raise ServerError("the job has no result")
        return self._result
