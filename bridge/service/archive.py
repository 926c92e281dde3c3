"""What jobs ask of the disk store, done in the threads that may wait for the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial

from bridge.service.jobs import Job
from bridge.service.logs import log
from bridge.service.records import JOBS, ResultRecord, find_result
from bridge.service.spool import Spool
from bridge.service.store import Store

Found = tuple[ResultRecord | None, bool] | Exception


class Archive:
    """The store as jobs see it; nothing here waits.

    Parameters
    ----------
    store : Store
    disk : Spool
        The thread that reads and writes.
    """

    def __init__(self, store: Store, disk: Spool) -> None:
        self.store = store
        self.disk = disk

    def look_up(self, job: Job, then: Callable[[Found], None]) -> None:
        """Look for a job's stems, and for its mixture."""
        self.disk.submit(partial(find_result, self.store, job.key, job.record.audio), then)

    def remember(self, job: Job) -> None:
        """Write down a job that is to be kept, for the server's next run."""
        save = partial(self.store.write_record, JOBS, job.key, job.record)
        self.disk.submit(save, _warn)

    def leave(self, job: Job, pinned: Collection[str]) -> None:
        """Forget a job that is over, and make room; the blobs named stay."""
        if job.keep:
            self.store.delete_record(JOBS, job.key)
        self.disk.submit(partial(self.store.trim, pinned, kept_kinds=(JOBS,)), _ignore)

    def sweep(self, pid: int) -> None:
        """Remove what a worker that died left half written."""
        self.disk.submit(partial(self.store.sweep, pid), _ignore)


def _ignore(_: object) -> None:
    """Take an outcome that changes nothing."""


def _warn(outcome: Exception | None) -> None:
    """Say that a job goes on, but would not outlive the server."""
    if outcome is not None:
        log("not kept", logging.WARNING, error=str(outcome))
