"""A journal in the disk store: latents and texts for other jobs, checkpoints for this one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from bridge.errors import ServerError
from bridge.inference.journal import Array, Journal
from bridge.service.records import CHECKPOINTS, ArrayRecord, Checkpoint
from bridge.service.store import Store

# Writing checkpoints may take this share of the time that solving takes.
_SHARE: Final = 0.05


class DiskJournal(Journal):
    """The journal of one job.

    A full disk only means that nothing is remembered.

    Parameters
    ----------
    store : Store
    key : str
        Of the job.
    show : callable or None
        Takes previews; None shows none.
    """

    def __init__(
        self, store: Store, key: str, show: Callable[[str, int, Array], None] | None
    ) -> None:
        self._store = store
        self._key = key
        self._show = show
        self.previews = show is not None
        self._due_s = 0.0
        self._last: ArrayRecord | None = None

    def recall(self, kind: str, key: str) -> Array | None:
        """Return an array that any job kept, if it is there and whole."""
        record = self._store.read_record(kind, key, ArrayRecord)
        return None if record is None else self._read(record)

    def keep(self, kind: str, key: str, value: Array) -> None:
        """Keep an array for other jobs."""
        with contextlib.suppress(ServerError):
            self._store.write_record(kind, key, self._write(value))

    def resume(self) -> tuple[int, Array] | None:
        """Return the last checkpoint of this job, if it is there and whole."""
        found = self._store.read_record(CHECKPOINTS, self._key, Checkpoint)
        if found is None:
            return None
        self._last = found.state
        state = self._read(found.state)
        return None if state is None else (found.step, state)

    def checkpoint(self, step: int, state: Array) -> None:
        """Write a checkpoint, unless the last one was too short a time ago."""
        began_s = time.monotonic()
        if began_s < self._due_s:
            return
        with contextlib.suppress(ServerError):
            last, self._last = self._last, self._write(state)
            self._store.write_record(CHECKPOINTS, self._key, Checkpoint(step, self._last))
            if last is not None and last.sha256 != self._last.sha256:
                self._store.discard(last.sha256)
        now_s = time.monotonic()
        self._due_s = now_s + (now_s - began_s) / _SHARE

    def preview(self, stem: str, start: int, audio: Array) -> None:
        """Pass a preview on."""
        if self._show is not None:
            self._show(stem, start, audio)

    def forget(self) -> None:
        """Remove the checkpoint of a job that is done."""
        self._store.delete_record(CHECKPOINTS, self._key)
        if self._last is not None:
            self._store.discard(self._last.sha256)

    def _write(self, value: Array) -> ArrayRecord:
        data = np.ascontiguousarray(value, dtype="<f4")
        return ArrayRecord(self._store.put(data.data.cast("B")), data.shape)

    def _read(self, record: ArrayRecord) -> Array | None:
        if not self._store.verify(record.sha256, record.size_bytes):
            return None
        try:
            data = np.fromfile(self._store.path(record.sha256), "<f4")
        except OSError:
            return None
        return data.reshape(record.shape).astype(np.float32, copy=False)
