"""The life of a job: looked up, its audio received, queued, computed, delivered or cancelled.

`Service` opens no socket and starts no thread. It is called by `bridge.service.requests`, with
the events of workers and with the outcomes of the disk; always under `lock`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from bridge.errors import Cancelled, ProviderError, ServerError, StembridgeError, from_code
from bridge.separation import Progress
from bridge.service.jobs import (
    Job,
    JobTable,
    Place,
    Subscriber,
    accepted_message,
    failed_message,
    progress_message,
    result_message,
    task_of,
)
from bridge.service.logs import log
from bridge.service.queue import Estimates, FairQueue
from bridge.service.sessions import Peer, Session
from bridge.service.transfers import Disk, Found, Transfers
from bridge.store import ResultRecord
from bridge.wire.codec import Buffer
from bridge.wire.messages import Message
from bridge.workers.local import Workers
from bridge.workers.messages import (
    Advanced,
    Broken,
    Died,
    Event,
    Loaded,
    NotStarted,
    Preview,
)

Send = Callable[[Peer, Message, Buffer | None], None]

# A worker may die by accident; a job that ends three in a row will end the next as well.
_ATTEMPTS: Final = 3
_KEPT: Final = "kept"
# Measuring walks the whole store, so a status asked for more often shows the last result.
_MEASURE_S: Final = 1.0
_CANCELLED: Final = "the job was cancelled"


class Service:
    """All jobs of a server.

    Parameters
    ----------
    disk : Disk
        Where audio lies.
    send : callable
        Queues a message to a peer on the job channel.
    """

    def __init__(
        self,
        disk: Disk,
        send: Send,
    ) -> None:
        self.lock = threading.RLock()
        self.table = JobTable()
        self.loaded: dict[str, str] = {}
        self.problem = ""
        self.workers: Workers | None = None
        self.provider_error: ProviderError | None = None
        self.transfers = Transfers(disk, self.send, self._audio_came, self._audio_failed)
        self._disk = disk
        self._measured_s = 0.0
        self._estimates = Estimates()
        self._send_to = send
        self._queue = FairQueue()

    def send(self, session: Session, message: Message, payload: Buffer | None = None) -> None:
        """Send a message to a session, if it is connected."""
        if session.peer is not None:
            self._send_to(session.peer, message, payload)

    # -- from request to queue -------------------------------------------------------------

    def attach(self, job: Job, subscriber: Subscriber, keeper: str | None = None) -> None:
        """Add a request to a new or known job, and take the job's next step.

        Parameters
        ----------
        job : Job
        subscriber : Subscriber
        keeper : str or None
            Who wants the job kept: a public key or `LOCAL`; None if it need not be.
        """
        if keeper is not None and keeper not in job.keepers:
            job.keepers.add(keeper)
            if job.audio_ready and job.open:
                self._disk.remember(job)
        session = subscriber.session
        fresh = not self.table.holds(job)
        self.table.jobs[job.key] = job
        earlier = self.table.subscribe(job, subscriber)
        if earlier is not None:
            # The client may already be sending audio in answer to the earlier request.
            subscriber.was_asked = earlier[1].was_asked
            self.transfers.stop(earlier[1])
            if earlier[0] is not job:
                self.withdraw(earlier[0], (session.id, subscriber.request), cancel=False)
        self.send(session, accepted_message(subscriber, job))
        if fresh or (job.state == "done" and not job.looking_up):
            self._look_up(job)  # its stems may have been evicted or damaged since
        elif job.looking_up:
            pass
        elif job.state == "running":
            self.send(session, progress_message(subscriber, job))
        elif job.audio_ready:
            self._queue.push(session.owner, job.key)
            self.send(session, progress_message(subscriber, job))
        else:
            self._want_audio(job)

    def resume(self, job: Job) -> None:
        """Resume a kept job that an earlier run of the server did not finish."""
        self.table.jobs[job.key] = job
        self._look_up(job)

    def _look_up(self, job: Job) -> None:
        job.looking_up = True
        self._disk.look_up(job, partial(self._found, job))

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
        self._ask_for_audio(job, sender)

    def _ask_for_audio(self, job: Job, sender: Subscriber | None) -> None:
        try:
            if sender is None:
                raise ServerError("the audio of this job is no longer there; submit it again")
            self.transfers.begin_upload(job, sender)
        except StembridgeError as error:
            self._fail(job, error)

    def _audio_came(self, came: Job) -> None:
        """Queue all jobs that waited for this audio, whoever sent it."""
        for job in list(self.table.jobs.values()):
            waits = job.state == "queued" and not job.audio_ready and not job.looking_up
            if waits and job.asked.audio == came.asked.audio:
                for subscriber in job.subscribers.values():
                    self.transfers.stop_upload(subscriber)
                job.audio_ready = True
                self._enqueue(job)

    def replace_stalled(self, longest_s: float) -> None:
        """Ask another client for audio whose upload has stalled."""
        for job in self.table.jobs.values():
            stalled = [
                one
                for one in job.subscribers.values()
                if one.upload is not None and one.upload.idle_s > longest_s
            ]
            others = [one for one in job.subscribers.values() if one.has_audio]
            if stalled and len(others) > 1:
                # The one after the last to be asked, so that each gets a turn.
                after = others.index(stalled[0]) + 1
                self.transfers.stop_upload(stalled[0])
                self._ask_for_audio(job, (others[after:] + others)[0])

    def _audio_failed(self, job: Job, subscriber: Subscriber, error: StembridgeError) -> None:
        if isinstance(error, ServerError):
            self._fail(job, error)
            return
        self.send(subscriber.session, failed_message(subscriber, error))
        self.release((subscriber.session.id, subscriber.request))

    def _enqueue(self, job: Job, *, first: bool = False) -> None:
        job.state, job.progress = "queued", Progress("queued", 0, 0)
        if job.keepers:
            self._disk.remember(job)
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
            audio = job.asked.audio
            if not self._disk.store.touch(audio.sha256, audio.size_bytes):
                job.audio_ready = False
                self._look_up(job)  # the cache has been emptied in the meantime
                continue
            job.state, job.attempts, job.position = "running", job.attempts + 1, 0
            job.began = time.monotonic()
            root = self._disk.store.root
            self.workers.start(task_of(job, root, self.table.pinned()))
            self._send_progress(job)

    def worker_event(self, event: Event, payload: Buffer | None) -> None:
        """Handle an event of a worker, or about one."""
        if isinstance(event, Loaded):
            self.loaded = {event.model: event.provider}
        elif isinstance(event, Broken) and event.code == ProviderError.code:
            self.provider_error = ProviderError(event.message)
        elif isinstance(event, NotStarted):
            self.problem = ""
            if event.reason:
                log("no worker can be started", logging.WARNING, reason=event.reason)
                self.problem = f"no worker can be started ({event.reason}); it is tried again"
        elif isinstance(event, Died):
            self._disk.sweep(event.pid)
        job = self.table.jobs.get(getattr(event, "key", ""))
        if job is not None and job.state == "running":
            if isinstance(event, Advanced):
                job.progress, job.number = event.progress, job.number + 1
                self._send_progress(job)
            elif isinstance(event, Preview):
                self.transfers.preview(job, event, payload or b"")
            elif isinstance(event, ResultRecord):
                job.cancelling = False
                self.table.finished += 1
                self._finish(job, event, cached=False)
                self._estimates.learn(job.asked, event.report)
            elif isinstance(event, Died | Broken):
                self._stopped(job, event)
        if not isinstance(event, Advanced | Preview):
            self.dispatch()

    def _stopped(self, job: Job, event: Died | Broken) -> None:
        wanted = bool(job.subscribers) or (bool(job.keepers) and not job.cancelling)
        cancelled, job.cancelling = job.cancelling, False
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
            self._fail(job, Cancelled(_CANCELLED) if cancelled else error)

    def _finish(self, job: Job, result: ResultRecord, *, cached: bool) -> None:
        job.state, job.result = "done", result
        for subscriber in job.subscribers.values():
            if subscriber.known == result:
                continue  # it has it already; the result was looked up again for another request
            if subscriber.known is not None:
                self.transfers.stop(subscriber)
            subscriber.known = result
            subscriber.session.newest = job.key
            self.send(subscriber.session, result_message(subscriber, job, result, cached))
        self._close_if_unwanted(job)
        if self.table.holds(job):
            self._disk.trim()

    # -- cancelling -----------------------------------------------------------------------

    def release(self, place: Place, *, cancel: bool = False) -> bool:
        """Drop a request; `cancel` cancels its job too, even a kept one, unless others wait."""
        found = self.table.requests.pop(place, None)
        if found is None:
            return False
        job, subscriber = found
        if cancel:
            self.send(subscriber.session, failed_message(subscriber, Cancelled(_CANCELLED)))
        self.transfers.stop(subscriber)
        self.withdraw(job, place, cancel=cancel)
        return True

    def withdraw(self, job: Job, place: Place, *, cancel: bool) -> None:
        """Take a request off a job, and decide whether the job goes on."""
        left = job.subscribers.pop(place, None)
        if left is not None and left.session.owner not in job.owners:
            self._queue.withdraw(left.session.owner, job.key)
        waits_for_audio = job.state == "queued" and not job.audio_ready and not job.looking_up
        if job.subscribers:
            if waits_for_audio:
                self._want_audio(job)
        elif not job.open:
            self._close_if_unwanted(job)
        elif cancel or not job.keepers or waits_for_audio:
            self.cancel(job)
        elif job.state == "queued" and job.audio_ready:
            for owner in job.owners or {_KEPT}:
                self._queue.push(owner, job.key)

    def cancel(self, job: Job) -> None:
        """Cancel a job for everyone; a later request starts it anew."""
        if job.state == "running":
            self._send_failure(job, Cancelled(_CANCELLED))
            job.cancelling = True
            if self.workers is not None:
                self.workers.cancel(job.key)
        elif job.state == "queued":
            self._fail(job, Cancelled(_CANCELLED))

    def forget(self, owner: str) -> None:
        """Have the queue forget an owner who left."""
        self._queue.forget(owner)

    def stop_keeping(self, owner: str) -> None:
        """Stop keeping jobs for an owner; those that nobody else wants are cancelled."""
        for job in list(self.table.jobs.values()):
            if owner in job.keepers:
                job.keepers.discard(owner)
                self._queue.withdraw(owner, job.key)
                if not job.keepers and not job.subscribers:
                    self.cancel(job)

    def cache_usage(self) -> tuple[int, int]:
        """Return the last measured bytes and entries of the store, and have it measured again."""
        if time.monotonic() - self._measured_s > _MEASURE_S:
            self._measured_s = time.monotonic()
            self._disk.measure()
        return self._disk.store.usage

    def _fail(self, job: Job, error: StembridgeError) -> None:
        job.state = "cancelled" if isinstance(error, Cancelled) else "failed"
        self._queue.remove(job.key)
        self._send_failure(job, error)
        self._close_if_unwanted(job)

    def _send_failure(self, job: Job, error: StembridgeError) -> None:
        for subscriber in self.table.clear(job):
            self.transfers.stop(subscriber)
            self.send(subscriber.session, failed_message(subscriber, error))

    def _close_if_unwanted(self, job: Job) -> None:
        """Take a finished job out of the table, unless someone still fetches from it."""
        if job.open or job.subscribers or not self.table.holds(job):
            return
        self.table.remove(job)
        self._disk.forget(job)

    def send_positions(self) -> None:
        """Tell waiting clients their position in the queue, if it changed."""
        waiting = [self.table.jobs[key] for key in self._queue.order()]
        if waiting and self.workers is not None:
            running = [job for job in self.table.jobs.values() if job.state == "running"]
            for job in self._estimates.stand(waiting, running, self.workers.size):
                self._send_progress(job)

    def _send_progress(self, job: Job) -> None:
        for subscriber in job.subscribers.values():
            self.send(subscriber.session, progress_message(subscriber, job))
