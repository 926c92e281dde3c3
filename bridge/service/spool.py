"""Threads for the disk, so that the one that moves messages never waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
Outcome = Callable[[], None]


class Spool:
    """A thread that does work in order and hands the outcomes to another thread.

    Parameters
    ----------
    name : str
        Of the thread.
    post : callable
        Takes a callable that the receiving thread is to call.
    """

    def __init__(self, name: str, post: Callable[[Outcome], None]) -> None:
        self._post = post
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def submit(self, work: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        """Do `work` in the spool's thread, then `then` with its value or error in the other."""

        def run() -> None:
            try:
                outcome: T | Exception = work()
            except Exception as error:
                outcome = error
            self._post(lambda: then(outcome))

        self._work.put(run)

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
