"""Whose turn it is, and how long until then: a queue that serves clients in turn."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from bridge.separation import Progress, Report
from bridge.service.jobs import Job
from bridge.wire.messages import Submit

Kind = tuple[object, ...]


class FairQueue:
    """The jobs of many clients; the client served longest ago goes next.

    Clients never served go before all that were, so nobody waits behind more than one job of
    any other client. Within a client, jobs keep their order. A job that several clients wait
    for is in the line of each and leaves all of them when it is taken.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[str]] = {}
        self._served: dict[str, int] = {}
        self._arrival: dict[str, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len({key for line in self._lines.values() for key in line})

    def __contains__(self, key: object) -> bool:
        return any(key in line for line in self._lines.values())

    def push(self, client: str, key: str, *, first: bool = False) -> None:
        """Put a job in a client's line, at its end, or `first` if it had begun before."""
        line = self._lines.setdefault(client, deque())
        if key in line:
            return
        if not line:
            self._clock += 1
            self._arrival[client] = self._clock
        if first:
            line.appendleft(key)
        else:
            line.append(key)

    def pop(self) -> str | None:
        """Take the next job, or None if there is none."""
        if not self._lines:
            return None
        client = min(self._lines, key=self._rank)
        key = self._lines[client][0]
        self._clock += 1
        self._served[client] = self._clock
        self.remove(key)
        return key

    def remove(self, key: str) -> None:
        """Take a job out of every line."""
        for client in [client for client, line in self._lines.items() if key in line]:
            self.withdraw(client, key)

    def withdraw(self, client: str, key: str) -> None:
        """Take a job out of one client's line."""
        line = self._lines.get(client, deque())
        if key in line:
            line.remove(key)
        if not line:
            self._lines.pop(client, None)
            self._arrival.pop(client, None)

    def forget(self, client: str) -> None:
        """Forget a client that left for good."""
        for key in list(self._lines.get(client, ())):
            self.withdraw(client, key)
        self._served.pop(client, None)

    def order(self) -> list[str]:
        """Return the jobs in the order they would be taken."""
        lines = {client: list(line) for client, line in self._lines.items()}
        ranks = {client: self._rank(client) for client in lines}
        clock = self._clock
        order: list[str] = []
        while lines:
            client = min(lines, key=lambda name: ranks[name])
            key = lines[client][0]
            order.append(key)
            clock += 1
            ranks[client] = (clock, 0)
            lines = {
                name: rest
                for name, line in lines.items()
                if (rest := [other for other in line if other != key])
            }
        return order

    def _rank(self, client: str) -> tuple[int, int]:
        return self._served.get(client, 0), self._arrival[client]


class Estimates:
    """Learnt real-time factors, by model, settings and number of prompts."""

    def __init__(self) -> None:
        self._by_kind: dict[Kind, float] = {}
        self._by_model: dict[str, float] = {}

    def learn(self, asked: Submit, report: Report) -> None:
        """Learn from a job that was computed, and did not just revise another."""
        if asked.revises:
            return
        self._by_kind[_kind(asked)] = self._by_model[asked.model.name] = report.rtf

    def seconds(self, asked: Submit) -> float | None:
        """Return how long a job will take in seconds; None if nothing is known of its model yet."""
        rtf = self._by_kind.get(_kind(asked), self._by_model.get(asked.model.name))
        return None if rtf is None else rtf * asked.audio.duration_s

    def stand(self, queue: Sequence[Job], running: Iterable[Job], workers: int) -> list[Job]:
        """Update the positions and waits of the queued jobs, and return the jobs that changed.

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
        """Estimate how long each queued job will wait for its turn, in seconds.

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
            None where a job before it cannot be estimated.
        """
        left = [self._left(job) for job in running]
        free: list[float] | None = None if None in left else [one or 0.0 for one in left]
        if free is not None:
            free += [0.0] * (workers - len(free))
            heapq.heapify(free)
        waits: list[float | None] = []
        for job in queue:
            waits.append(free[0] if free else None)
            takes = self.seconds(job.asked)
            if takes is None:
                free = None
            elif free:
                heapq.heapreplace(free, free[0] + takes)
        return waits

    def _left(self, job: Job) -> float | None:
        """Return how long a running job will still take, by earlier jobs or its own progress."""
        takes = self.seconds(job.asked)
        stage_s = job.progress.seconds_left
        if takes is None:
            return stage_s
        return max(takes - (time.monotonic() - job.began), stage_s or 0.0)


def _kind(asked: Submit) -> Kind:
    settings = msgspec.structs.replace(asked.settings, seed=0)
    return asked.model.name, msgspec.msgpack.encode(settings), len(asked.prompts)


def _differ(earlier: float | None, seconds: float | None) -> bool:
    """Say whether an estimate changed enough for a message: by a tenth and by a second."""
    if earlier is None or seconds is None:
        return earlier is not seconds
    return abs(earlier - seconds) > max(1.0, 0.1 * seconds)
