"""Audio in and out: the disk in a thread, and chunks between client and store as credits allow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from bridge.errors import InputError, ServerError, StembridgeError
from bridge.service.jobs import PREVIEW_BYTES, Download, Job, Subscriber, Upload, partial_message
from bridge.service.logs import log
from bridge.service.sessions import Session
from bridge.store import JOBS, KeptJob, ResultRecord, Store, Vanished, find_result
from bridge.wire.codec import Buffer
from bridge.wire.messages import WINDOW_CHUNKS, Credit, Failed, Message, SendAudio, Stem
from bridge.workers.messages import Preview

T = TypeVar("T")
Found = tuple[ResultRecord | None, bool] | Exception


class Disk:
    """The store, and the thread that does its reads and writes in the order they were submitted.

    Parameters
    ----------
    store : Store
    post : callable
        Takes a callable for the job thread to call.
    """

    def __init__(self, store: Store, post: Callable[[Callable[[], None]], None]) -> None:
        self.store = store
        self._post = post
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk")

    def submit(self, work: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        """Call `work` in the disk's thread; `then` gets its value or error in the job thread."""

        def run() -> None:
            try:
                outcome: T | Exception = work()
            except Exception as error:
                outcome = error
            self._post(lambda: then(outcome))

        self._thread.submit(run)

    def close(self) -> None:
        """Finish what was submitted, and end the thread."""
        self._thread.shutdown()

    def look_up(self, job: Job, then: Callable[[Found], None]) -> None:
        """Look for a job's stems, and for its mixture."""
        self.submit(partial(find_result, self.store, job.key, job.asked.audio), then)

    def remember(self, job: Job) -> None:
        """Write down a job that is to be kept, for the server's next run."""
        kept = KeptJob(job.asked, tuple(sorted(job.keepers)))
        save = partial(self.store.write_record, JOBS, job.key, kept)
        # The job goes on all the same; it just would not survive the server.
        self.submit(save, partial(_warn, "not kept"))

    def forget(self, job: Job) -> None:
        """Forget a job that is over, and make room."""
        # Queued, so that it follows any earlier write of the same record.
        self.submit(partial(self.store.delete_record, JOBS, job.key), _ignore)
        self.trim()

    def trim(self) -> None:
        """Bring the store back to its limit."""
        self.submit(self.store.trim, partial(_warn, "cannot trim the cache"))

    def measure(self) -> None:
        """Measure the size of the store."""
        self.submit(self.store.measure, _ignore)

    def sweep(self, pid: int) -> None:
        """Remove what a dead worker left half written."""
        self.submit(partial(self.store.sweep, pid), _ignore)


def _ignore(_: object) -> None:
    """Ignore an outcome that changes nothing."""


def _warn(event: str, outcome: object) -> None:
    if isinstance(outcome, Exception):
        log(event, logging.WARNING, error=str(outcome))


class Send(Protocol):
    """Sends a message to a session."""

    def __call__(self, session: Session, message: Message, payload: Buffer | None = None) -> None:
        """Queue it, if the session is connected."""
        ...


class Transfers:
    """The uploads and downloads of all requests; reads and writes happen in the disk's thread.

    Parameters
    ----------
    disk : Disk
        Where audio lies.
    send : Send
    came : callable
        Called with the job once its mixture is in the store.
    failed : callable
        Called with the job, the subscriber and the error if an upload fails.
    """

    def __init__(
        self,
        disk: Disk,
        send: Send,
        came: Callable[[Job], None],
        failed: Callable[[Job, Subscriber, StembridgeError], None],
    ) -> None:
        self._disk = disk
        self._send = send
        self._came = came
        self._failed = failed

    def begin_upload(self, job: Job, subscriber: Subscriber) -> None:
        """Ask a client for the mixture."""
        audio = job.asked.audio
        incoming = self._disk.store.create(audio.sha256, audio.size_bytes)
        subscriber.upload = Upload(incoming, audio, again=subscriber.was_asked)
        subscriber.was_asked = True
        message = SendAudio(request=subscriber.request, offset=0, credits=WINDOW_CHUNKS)
        self._send(subscriber.session, message)

    def receive(self, job: Job, subscriber: Subscriber, offset: int, data: Buffer) -> None:
        """Handle a chunk of the mixture.

        Raises
        ------
        ProtocolError
            If it is out of order or without credit.
        """
        upload = subscriber.upload
        if upload is None:
            return  # another client has sent the audio in the meantime
        if not upload.accept(offset, len(data)):
            return
        connection = subscriber.session.connection
        if connection is not None:
            connection.hold(len(data))

        def written(outcome: object) -> None:
            if connection is not None:
                connection.let_go(len(data))
            self._written(job, subscriber, upload, outcome)

        self._disk.submit(partial(upload.incoming.write, data), written)
        if upload.complete:
            then = partial(self._committed, job, subscriber, upload)
            self._disk.submit(upload.incoming.commit, then)

    def _written(self, job: Job, subscriber: Subscriber, upload: Upload, outcome: object) -> None:
        if subscriber.upload is not upload:
            return
        if isinstance(outcome, Vanished):
            self.stop_upload(subscriber)
            self.begin_upload(job, subscriber)
        elif isinstance(outcome, Exception):
            self.stop(subscriber)
            self._failed(job, subscriber, _as_error(outcome))
        elif upload.written():
            self._send(subscriber.session, Credit(request=subscriber.request, credits=1))

    def _committed(
        self, job: Job, subscriber: Subscriber, upload: Upload, outcome: bool | Exception
    ) -> None:
        if subscriber.upload is not upload:
            return
        subscriber.upload = None
        if isinstance(outcome, Vanished):
            self.begin_upload(job, subscriber)
        elif outcome is True:
            self._came(job)
        elif isinstance(outcome, Exception):
            self._failed(job, subscriber, _as_error(outcome))
        else:
            changed = "the audio is not what its checksum says; was it changed while it was sent?"
            self._failed(job, subscriber, InputError(changed))

    def fetch(self, job: Job, subscriber: Subscriber, stem: str, offset: int) -> None:
        """Begin to send a stem.

        Raises
        ------
        InputError
            If the job has no such stem, or is not done.
        ProtocolError
            If the offset lies outside it.
        """
        stems = () if job.result is None or job.state != "done" else job.result.stems
        info = next((info for info in stems if info.name == stem), None)
        if info is None:
            raise InputError(f"the job has no finished stem {stem!r}")
        subscriber.download = Download(info, offset)
        subscriber.read_s = time.monotonic()
        self._pump(subscriber)

    def preview(self, job: Job, preview: Preview, data: Buffer) -> None:
        """Send a preview to the clients that want it, now or when there is room."""
        for subscriber in job.subscribers.values():
            waiting = sum(len(kept) for _, kept in subscriber.previews)
            # A preview that has to wait for long is not worth keeping.
            if subscriber.partial and waiting + len(data) <= PREVIEW_BYTES:
                subscriber.previews.append((partial_message(subscriber, preview), data))
                self._send_previews(subscriber)

    def _send_previews(self, subscriber: Subscriber) -> None:
        session = subscriber.session
        while subscriber.previews and subscriber.credits > 0 and session.has_room:
            subscriber.credits -= 1
            self._send(subscriber.session, *subscriber.previews.popleft())

    def credit(self, subscriber: Subscriber, credits: int) -> None:
        """Note that a client has room for more chunks."""
        subscriber.credits = min(WINDOW_CHUNKS, subscriber.credits + credits)
        subscriber.read_s = time.monotonic()
        self.go_on(subscriber)

    def go_on(self, subscriber: Subscriber) -> None:
        """Send what there is, as far as credits and the client's reading allow."""
        self._send_previews(subscriber)
        self._pump(subscriber)

    def stop(self, subscriber: Subscriber) -> None:
        """Stop what is being sent or received."""
        subscriber.download = None
        subscriber.previews.clear()
        self.stop_upload(subscriber)

    def stop_upload(self, subscriber: Subscriber) -> None:
        """Stop an upload."""
        upload, subscriber.upload = subscriber.upload, None
        if upload is not None:
            self._disk.submit(upload.incoming.close, lambda _: None)

    def _pump(self, subscriber: Subscriber) -> None:
        """Read as many chunks as there are credits for; the disk's thread keeps them in order."""
        download, session = subscriber.download, subscriber.session
        while download is not None and subscriber.credits > 0 and session.has_room:
            chunk = download.take()
            if chunk is None:
                return
            subscriber.credits -= 1
            session.reading_bytes += chunk[1]
            place = self._disk.store.path(download.stem.sha256)
            then = partial(self._was_read, subscriber, download, chunk)
            self._disk.submit(partial(_read, place, *chunk), then)

    def _was_read(
        self,
        subscriber: Subscriber,
        download: Download,
        chunk: tuple[int, int],
        outcome: bytes | Exception,
    ) -> None:
        offset, size_bytes = chunk
        subscriber.session.reading_bytes -= size_bytes
        if subscriber.download is not download:
            return
        name, request = download.stem.name, subscriber.request
        if isinstance(outcome, Exception) or len(outcome) != size_bytes:
            subscriber.download = None
            error = ServerError(f"the stem {name!r} is gone; submit the job again")
            failed = Failed(code=error.code, message=str(error), request=request)
            self._send(subscriber.session, failed)
        else:
            message = Stem(request=request, stem=name, offset=offset)
            self._send(subscriber.session, message, outcome)


def _read(path: Path, offset: int, size_bytes: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size_bytes)


def _as_error(error: Exception) -> StembridgeError:
    if isinstance(error, StembridgeError):
        return error
    return ServerError(f"the server cannot store the audio: {error}")
