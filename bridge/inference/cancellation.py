"""Cancelling a job from another thread, between two runs of a graph and within one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bridge.errors import Cancelled

_POLL_S = 0.05


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
        """Return if the job is still wanted.

        Raises
        ------
        Cancelled
            If it is not.
        """
        if self._event is not None and self._event.is_set():
            raise Cancelled("the job was cancelled")

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have `stop` called if the job is cancelled while the block runs.

        Whatever the block raises because of that becomes `Cancelled`.
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
        """Poll, because there is no waiting for the first of two events."""
        while not self._finished.wait(_POLL_S):
            with self._lock:
                if self._event is not None and self._event.is_set() and self._stop is not None:
                    self._stop()
