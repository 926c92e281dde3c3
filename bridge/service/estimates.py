"""How long jobs will take, learnt from those that were computed here."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Sequence

import msgspec

from bridge.separation import Progress, Report
from bridge.service.jobs import Job
from bridge.service.records import JobRecord

Kind = tuple[object, ...]


class Estimates:
    """Computing seconds per second of audio, by model, settings and number of prompts."""

    def __init__(self) -> None:
        self._by_kind: dict[Kind, float] = {}
        self._by_model: dict[str, float] = {}

    def learn(self, record: JobRecord, report: Report) -> None:
        """Take note of a job that was computed."""
        self._by_kind[_kind(record)] = self._by_model[record.model.name] = report.rtf

    def seconds(self, record: JobRecord) -> float | None:
        """Return how long a job will take; None if there was none like it yet."""
        rtf = self._by_kind.get(_kind(record), self._by_model.get(record.model.name))
        return None if rtf is None else rtf * record.audio.duration_s

    def stand(self, queue: Sequence[Job], running: Iterable[Job], workers: int) -> list[Job]:
        """Note where the jobs of a queue stand and for how long, and return those it is news to.

        Parameters
        ----------
        queue, running, workers
            As for `waits`.
        """
        news = []
        for place, (job, seconds) in enumerate(
            zip(queue, self.waits(queue, running, workers), strict=True), 1
        ):
            if job.position != place or _differ(job.progress.seconds_left, seconds):
                job.position, job.progress = place, Progress("queued", 0, 0, seconds)
                news.append(job)
        return news

    def waits(
        self, queue: Iterable[Job], running: Iterable[Job], workers: int
    ) -> list[float | None]:
        """Say how long each job of a queue will wait for its turn, in seconds.

        Parameters
        ----------
        queue : iterable of Job
            In the order of their turns.
        running : iterable of Job
        workers : int
            How many jobs run at a time.

        Returns
        -------
        list of float or None
            None where something before the job cannot be estimated.
        """
        left = [self._left(job) for job in running]
        free: list[float] | None = None if None in left else [one or 0.0 for one in left]
        if free is not None:
            free += [0.0] * (workers - len(free))
            heapq.heapify(free)
        waits: list[float | None] = []
        for job in queue:
            waits.append(free[0] if free else None)
            takes = self.seconds(job.record)
            if takes is None:
                free = None
            elif free:
                heapq.heapreplace(free, free[0] + takes)
        return waits

    def _left(self, job: Job) -> float | None:
        """Return how long a running job will go on: as others did, or as its stage says."""
        takes = self.seconds(job.record)
        stage_s = job.progress.seconds_left
        if takes is None:
            return stage_s
        return max(takes - (time.monotonic() - job.began), stage_s or 0.0)


def _kind(record: JobRecord) -> Kind:
    settings = msgspec.structs.replace(record.settings, seed=0)
    return record.model.name, msgspec.msgpack.encode(settings), len(record.prompts)


def _differ(told: float | None, seconds: float | None) -> bool:
    """Say whether a new estimate is worth a message: off by a tenth, and by a second."""
    if told is None or seconds is None:
        return told is not seconds
    return abs(told - seconds) > max(1.0, 0.1 * seconds)
