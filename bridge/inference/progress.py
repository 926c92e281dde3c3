"""Progress of a stage, with an estimate of the time that is left."""

from __future__ import annotations

import time

from bridge.separation import Progress, ProgressCallback


class Stage:
    """Counts the units of one stage and tells a callback, first how many are done.

    Parameters
    ----------
    callback : callable or None
        Receives a `Progress` now and at each `advance`; what it raises ends the job.
    name : str
    total : int
        Units of the stage.
    done : int
        Units that an earlier attempt did.
    """

    def __init__(
        self, callback: ProgressCallback | None, name: str, total: int, done: int = 0
    ) -> None:
        self._callback = callback
        self._name = name
        self._total = total
        self._done = self._before = done
        self._started_s = time.monotonic()
        self._tell()

    def advance(self) -> None:
        """Count one unit as done."""
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._callback is None:
            return
        left = None
        if self._done > self._before:
            elapsed_s = time.monotonic() - self._started_s
            left = elapsed_s / (self._done - self._before) * (self._total - self._done)
        self._callback(Progress(self._name, self._done, self._total, left))
