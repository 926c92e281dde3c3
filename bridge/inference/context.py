"""What goes with a job through its stages: progress, cancellation, and what it keeps for later."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bridge.errors import Cancelled
from bridge.scratch import FileArray, LongArray, pieces
from bridge.separation import Progress, ProgressCallback

_POLL_S = 0.05


class Stage:
    """Counts the units of one stage and reports them to a callback, from the first on.

    Parameters
    ----------
    callback : callable or None
        Receives a `Progress` now and at each `advance`; an exception ends the job.
    name : str
    total : int
        Units of the stage.
    done : int
        Units done by an earlier attempt.
    """

    def __init__(
        self, callback: ProgressCallback | None, name: str, total: int, done: int = 0
    ) -> None:
        self._callback = callback
        self._name = name
        self._total = total
        self._done = self._before = done
        self._started_s = time.monotonic()
        self._report()

    def advance(self) -> None:
        """Count one unit as done."""
        self._done += 1
        self._report()

    def _report(self) -> None:
        if self._callback is None:
            return
        left = None
        if self._done > self._before:
            elapsed_s = time.monotonic() - self._started_s
            left = elapsed_s / (self._done - self._before) * (self._total - self._done)
        self._callback(Progress(self._name, self._done, self._total, left))


class Cancellation:
    """Turns the caller's event into `Cancelled`.

    Use as a context manager around a job: a thread watches the event meanwhile, so that a graph
    that is running can be stopped too.

    Parameters
    ----------
    event : threading.Event or None
        Set by the caller to cancel; None for a job that cannot be cancelled.
    """

    def __init__(self, event: threading.Event | None) -> None:
        self._event = event
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._stop: Callable[[], None] | None = None
        self._watcher: threading.Thread | None = None

    def check(self) -> None:
        """Raise if the job is cancelled.

        Raises
        ------
        Cancelled
            If it is.
        """
        if self._event is not None and self._event.is_set():
            raise Cancelled("the job was cancelled")

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` if the job is cancelled while the block runs.

        Whatever the block then raises becomes `Cancelled`.
        """
        self.check()
        with self._lock:
            self._stop = stop
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            with self._lock:
                self._stop = None
        self.check()

    def __enter__(self) -> Cancellation:
        if self._event is not None:
            self._watcher = threading.Thread(target=self._watch, name="cancellation", daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        """Poll, because one cannot wait for the first of two events."""
        while not self._finished.wait(_POLL_S):
            with self._lock:
                if self._event is not None and self._event.is_set() and self._stop is not None:
                    self._stop()


class Turns:
    """Whose turn it is among threads that share an engine: first come, first served."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[int] = deque()  # of threads; the first has its turn

    @contextmanager
    def turn(self, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Run the block when it is this thread's turn; `check` may raise while it waits."""
        self.take(check)
        try:
            yield
        finally:
            self.give()

    def take(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait for this thread's turn."""
        place = threading.get_ident()
        with self._changed:
            self._line.append(place)
            try:
                while self._line[0] != place:
                    self._changed.wait(_POLL_S)
                    check()
            except BaseException:
                self._line.remove(place)
                raise

    def give(self) -> None:
        """Pass the turn on, if this thread has it."""
        with self._changed:
            if self._line and self._line[0] == threading.get_ident():
                self._line.popleft()
                self._changed.notify_all()


Array = npt.NDArray[np.float32]

LATENTS: Final = "latents"
TEXTS: Final = "texts"


class Checkpoints:
    """Keeps nothing, and shows no previews; the base of classes that do.

    Attributes
    ----------
    previews : bool
        Whether previews are wanted.
    """

    previews = False

    def recall(self, kind: str, key: str) -> LongArray | None:
        """Return an array kept earlier under a kind and a key, or None."""

    def keep(self, kind: str, key: str, value: LongArray) -> None:
        """Keep an array for later jobs."""

    def resume(self) -> tuple[int, LongArray] | None:
        """Return the evaluations that an earlier attempt at this job made, and the state then."""

    def checkpoint(self, done: int, state: Sequence[LongArray]) -> None:
        """Keep the flow's state, arrays of one shape, after a number of evaluations."""

    def preview(self, stem: str, start: int, audio: Array) -> None:
        """Show a decoded stretch (channels, samples) of a stem, from sample `start` on."""


def fingerprint(data: npt.NDArray[Any] | FileArray, model_sha256: str) -> str:
    """Key of what a model makes of some data: a checksum over both."""
    digest = hashlib.sha256(f"{model_sha256} {data.dtype.str} {data.shape} ".encode())
    for piece in pieces(data):
        digest.update(piece)
    return digest.hexdigest()
