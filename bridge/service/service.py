"""The life of a job: looked up, its audio asked for, queued, computed, handed over, given up.

`Service` opens no socket and starts no thread. `bridge.service.desk` calls it with requests, the
pool with events, the archive with outcomes; all under `lock`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from bridge.errors import Cancelled, ProviderError, ServerError, StembridgeError, from_code
from bridge.protocol import Buffer
from bridge.separation import Progress
from bridge.service import replies
from bridge.service.archive import Archive, Found
from bridge.service.estimates import Estimates
from bridge.service.jobs import Job, JobTable, Place, Subscriber
from bridge.service.records import ResultRecord
from bridge.service.scheduler import FairQueue
from bridge.service.sessions import Peer, Session
from bridge.service.tasks import (
    Advanced,
    Broken,
    Died,
    EngineOptions,
    Event,
    Finished,
    Loaded,
    Preview,
)
from bridge.service.traffic import Traffic
from bridge.service.workers import Workers
from bridge.wire.messages import Message

Send = Callable[[Peer, Message, Buffer | None], None]

_ATTEMPTS: Final = 3
_KEPT: Final = "kept"
_CANCELLED: Final = "the job was cancelled"


class Service:
    """All jobs of a server.

    Parameters
    ----------
    archive : Archive
        Where audio lies.
    send : callable
        Queues a message to a peer on the job channel.
    engine : EngineOptions
        For the workers.
    """

    def __init__(
        self,
        archive: Archive,
        send: Send,
        engine: EngineOptions,
    ) -> None:
        self.lock = threading.RLock()
        self.table = JobTable()
        self.loaded: dict[str, str] = {}
        self.workers: Workers | None = None
        self.provider_error: ProviderError | None = None
        self.traffic = Traffic(
            archive.store, archive.disk, self.send, self._audio_came, self._audio_failed
        )
        self._archive = archive
        self._estimates = Estimates()
        self._send_to = send
        self._engine = engine
        self._queue = FairQueue()

    def send(self, session: Session, message: Message, payload: Buffer | None = None) -> None:
        """Send a message to a session, if it listens."""
        if session.peer is not None:
            self._send_to(session.peer, message, payload)

    # -- from request to queue -------------------------------------------------------------

    def attach(self, job: Job, subscriber: Subscriber) -> None:
        """Add a request to a job, new or not, and see to it that it goes on."""
        session = subscriber.session
        fresh = not self.table.holds(job)
        self.table.jobs[job.key] = job
        earlier = self.table.subscribe(job, subscriber)
        if earlier is not None:
            self.traffic.stop(earlier[1])
            if earlier[0] is not job:
                self.leave(earlier[0], (session.id, subscriber.request), cancel=False)
        self.send(session, replies.accepted(subscriber, job))
        if fresh or (job.state == "done" and not job.looking_up):
            self._look_up(job)  # what was finished may have been evicted or damaged since
        elif job.looking_up:
            pass
        elif job.state == "running":
            self.send(session, replies.progress(subscriber, job))
        elif job.audio_ready:
            self._queue.push(session.owner, job.key)
            self.send(session, replies.progress(subscriber, job))
        else:
            self._want_audio(job)

    def resume(self, job: Job) -> None:
        """Go on with a kept job that an earlier run of the server did not finish."""
        self.table.jobs[job.key] = job
        self._look_up(job)

    def _look_up(self, job: Job) -> None:
        job.looking_up = True
        self._archive.look_up(job, partial(self._found, job))

    def _found(self, job: Job, outcome: Found) -> None:
        job.looking_up = False
        if not self.table.holds(job):
            return
        if isinstance(outcome, Exception):
            self._fail(job, ServerError(f"the server cannot read its cache: {outcome}"))
            return
        job.state, (job.result, job.audio_ready) = "queued", outcome
        if job.result is not None:
            self._finish(job, job.result, cached=True)
        elif job.audio_ready:
            self._enqueue(job)
        else:
            self._want_audio(job)

    def _want_audio(self, job: Job) -> None:
        if any(subscriber.upload for subscriber in job.subscribers.values()):
            return
        sender = next((one for one in job.subscribers.values() if one.has_audio), None)
        try:
            if sender is None:
                raise ServerError("the audio of this job is no longer there; submit it again")
            self.traffic.begin_upload(job, sender)
        except StembridgeError as error:
            self._fail(job, error)

    def _audio_came(self, job: Job) -> None:
        if self.table.holds(job) and not job.audio_ready:
            job.audio_ready = True
            self._enqueue(job)

    def _audio_failed(self, job: Job, subscriber: Subscriber, error: StembridgeError) -> None:
        if isinstance(error, ServerError):
            self._fail(job, error)
            return
        self.send(subscriber.session, replies.failed(subscriber, error))
        self.release((subscriber.session.id, subscriber.request))

    def _enqueue(self, job: Job, *, first: bool = False) -> None:
        job.state, job.progress = "queued", Progress("queued", 0, 0)
        if job.keep:
            self._archive.remember(job)
        for owner in job.owners or {_KEPT}:
            self._queue.push(owner, job.key, first=first)
        self.dispatch()

    # -- from queue to result --------------------------------------------------------------

    def dispatch(self) -> None:
        """Start the next jobs while workers are free."""
        while self.workers is not None and self.workers.free > 0:
            key = self._queue.pop()
            if key is None:
                return
            job = self.table.jobs[key]
            job.state, job.attempts, job.position = "running", job.attempts + 1, 0
            job.began = time.monotonic()
            self.workers.start(replies.task(job, self._archive.store.root, self._engine))
            self._tell_all(job)

    def worker_event(self, event: Event, payload: Buffer | None) -> None:
        """Take what a worker says, or what the pool says about one."""
        if isinstance(event, Loaded):
            self.loaded = {event.model: event.provider}
        elif isinstance(event, Broken) and event.code == ProviderError.code:
            self.provider_error = ProviderError(event.message)
        elif isinstance(event, Died):
            self._archive.sweep(event.pid)
        job = self.table.jobs.get(getattr(event, "key", ""))
        if job is not None and job.state == "running":
            if isinstance(event, Advanced):
                job.progress, job.number = event.progress, job.number + 1
                self._tell_all(job)
            elif isinstance(event, Preview):
                self.traffic.preview(job, event, payload or b"")
            elif isinstance(event, Finished):
                job.aborting = False
                self.table.finished += 1
                self._finish(job, ResultRecord(job.record, event.report, event.stems), cached=False)
                self._estimates.learn(job.record, event.report)
            elif isinstance(event, Died | Broken):
                self._stopped(job, event)
        if not isinstance(event, Advanced | Preview):
            self.dispatch()

    def _stopped(self, job: Job, event: Died | Broken) -> None:
        wanted = bool(job.subscribers) or (job.keep and not job.aborting)
        aborted, job.aborting = job.aborting, False
        if isinstance(event, Died):
            error: StembridgeError = ServerError(
                f"the process that computes ended {job.attempts} times on this job "
                f"({event.reason}); see the server's log, or try a shorter window_s"
            )
            again = job.attempts < _ATTEMPTS
        else:
            error = from_code(event.code, event.message)
            again = isinstance(error, Cancelled)
        if wanted and again:
            self._enqueue(job, first=True)
        else:
            self._fail(job, Cancelled(_CANCELLED) if aborted else error)

    def _finish(self, job: Job, result: ResultRecord, *, cached: bool) -> None:
        job.state, job.result = "done", result
        for subscriber in job.subscribers.values():
            if subscriber.told == result:
                continue  # it came for another, who asked for the job when it was done
            if subscriber.told is not None:
                self.traffic.stop(subscriber)
            subscriber.told = result
            self.send(subscriber.session, replies.result(subscriber, job, result, cached))
        self._close_if_unwanted(job)

    # -- giving up -------------------------------------------------------------------------

    def release(self, place: Place, *, cancel: bool = False) -> bool:
        """Drop a request; with `cancel`, its job too if nobody else waits, even a kept one."""
        found = self.table.requests.pop(place, None)
        if found is None:
            return False
        job, subscriber = found
        if cancel:
            self.send(subscriber.session, replies.failed(subscriber, Cancelled(_CANCELLED)))
        self.traffic.stop(subscriber)
        self.leave(job, place, cancel=cancel)
        return True

    def leave(self, job: Job, place: Place, *, cancel: bool) -> None:
        """Go on with a job, or not, now that a request for it is gone."""
        left = job.subscribers.pop(place, None)
        if left is not None and left.session.owner not in job.owners:
            self._queue.withdraw(left.session.owner, job.key)
        waits_for_audio = job.state == "queued" and not job.audio_ready and not job.looking_up
        if job.subscribers:
            if waits_for_audio:
                self._want_audio(job)
        elif not job.open:
            self._close_if_unwanted(job)
        elif cancel or not job.keep or waits_for_audio:
            self.abort(job)
        elif job.state == "queued" and job.audio_ready:
            self._queue.push(_KEPT, job.key)

    def abort(self, job: Job) -> None:
        """Cancel a job for everybody; who asks for it from now on begins it again."""
        if job.state == "running":
            self._tell_end(job, Cancelled(_CANCELLED))
            job.aborting = True
            if self.workers is not None:
                self.workers.abort(job.key)
        elif job.state == "queued":
            self._fail(job, Cancelled(_CANCELLED))

    def forget(self, owner: str) -> None:
        """Drop what the queue remembers of an owner who left."""
        self._queue.forget(owner)

    def _fail(self, job: Job, error: StembridgeError) -> None:
        job.state = "cancelled" if isinstance(error, Cancelled) else "failed"
        self._queue.remove(job.key)
        self._tell_end(job, error)
        self._close_if_unwanted(job)

    def _tell_end(self, job: Job, error: StembridgeError) -> None:
        for subscriber in self.table.clear(job):
            self.traffic.stop(subscriber)
            self.send(subscriber.session, replies.failed(subscriber, error))

    def _close_if_unwanted(self, job: Job) -> None:
        """Move a job that is over, and that nobody fetches from, out of the table."""
        if job.open or job.subscribers or not self.table.holds(job):
            return
        self.table.remove(job)
        self._archive.leave(job, self.table.pinned())

    def tell_positions(self) -> None:
        """Tell whoever waits where it stands, if that changed."""
        waiting = [self.table.jobs[key] for key in self._queue.order()]
        if waiting and self.workers is not None:
            running = [job for job in self.table.jobs.values() if job.state == "running"]
            for job in self._estimates.stand(waiting, running, self.workers.size):
                self._tell_all(job)

    def _tell_all(self, job: Job) -> None:
        for subscriber in job.subscribers.values():
            self.send(subscriber.session, replies.progress(subscriber, job))
