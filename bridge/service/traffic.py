"""Moving audio between clients and the store, chunk by chunk, as credits allow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from bridge.errors import InputError, ServerError, StembridgeError
from bridge.protocol import Buffer
from bridge.service.jobs import PREVIEW_BYTES, Job, Subscriber
from bridge.service.replies import partial as partial_stem
from bridge.service.sessions import Session
from bridge.service.spool import Spool
from bridge.service.store import Store
from bridge.service.tasks import Preview
from bridge.service.transfer import Download, Upload
from bridge.wire.messages import WINDOW_CHUNKS, Credit, Failed, Message, SendAudio, Stem


class Send(Protocol):
    """Sends a message to a session."""

    def __call__(self, session: Session, message: Message, payload: Buffer | None = None) -> None:
        """Queue it, if the session listens."""
        ...


class Traffic:
    """Uploads and downloads of all requests. All disk work happens in the spool's thread.

    Parameters
    ----------
    store, spool
        Where audio lies, and who reads and writes it.
    send : Send
    came : callable
        Called with the job when its mixture is in the store.
    failed : callable
        Called with the job, the subscriber and the error when it will not come.
    """

    def __init__(
        self,
        store: Store,
        spool: Spool,
        send: Send,
        came: Callable[[Job], None],
        failed: Callable[[Job, Subscriber, StembridgeError], None],
    ) -> None:
        self._store = store
        self._spool = spool
        self._send = send
        self._came = came
        self._failed = failed

    def begin_upload(self, job: Job, subscriber: Subscriber) -> None:
        """Ask a client for the mixture."""
        audio = job.record.audio
        incoming = self._store.create(audio.sha256, audio.size_bytes)
        subscriber.upload = Upload(incoming, audio)
        message = SendAudio(request=subscriber.request, offset=0, credits=WINDOW_CHUNKS)
        self._send(subscriber.session, message)

    def receive(self, job: Job, subscriber: Subscriber, offset: int, data: Buffer) -> None:
        """Take a chunk of the mixture.

        Raises
        ------
        ProtocolError
            If it is out of order or without credit.
        """
        upload = subscriber.upload
        if upload is None:
            return  # the audio came from somebody else meanwhile
        upload.accept(offset, len(data))
        work = partial(upload.incoming.write, data)
        self._spool.submit(work, partial(self._written, job, subscriber, upload))
        if upload.complete:
            then = partial(self._committed, job, subscriber, upload)
            self._spool.submit(upload.incoming.commit, then)

    def _written(self, job: Job, subscriber: Subscriber, upload: Upload, outcome: object) -> None:
        if subscriber.upload is not upload:
            return
        if isinstance(outcome, Exception):
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
        if outcome is True:
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
            If the offset is not one of it.
        """
        stems = () if job.result is None or job.state != "done" else job.result.stems
        info = next((info for info in stems if info.name == stem), None)
        if info is None:
            raise InputError(f"the job has no finished stem {stem!r}")
        subscriber.download = Download(info, offset)
        self._pump(subscriber)

    def preview(self, job: Job, preview: Preview, data: Buffer) -> None:
        """Send a preview to whoever wants it, now or when there is room."""
        for subscriber in job.subscribers.values():
            waiting = sum(len(kept) for _, kept in subscriber.previews)
            # One for which a client has no room for long is not worth keeping.
            if subscriber.partial and waiting + len(data) <= PREVIEW_BYTES:
                subscriber.previews.append((partial_stem(subscriber, preview), data))
                self._send_previews(subscriber)

    def _send_previews(self, subscriber: Subscriber) -> None:
        while subscriber.previews and subscriber.credits > 0:
            subscriber.credits -= 1
            self._send(subscriber.session, *subscriber.previews.popleft())

    def credit(self, subscriber: Subscriber, credits: int) -> None:
        """Note that a client has room for more chunks."""
        subscriber.credits = min(WINDOW_CHUNKS, subscriber.credits + credits)
        self._send_previews(subscriber)
        self._pump(subscriber)

    def stop(self, subscriber: Subscriber) -> None:
        """Give up what is on its way."""
        upload, subscriber.upload, subscriber.download = subscriber.upload, None, None
        subscriber.previews.clear()
        if upload is not None:
            self._spool.submit(upload.incoming.close, lambda _: None)

    def _pump(self, subscriber: Subscriber) -> None:
        """Read as many chunks as there are credits for; the spool keeps them in order."""
        download = subscriber.download
        while download is not None and subscriber.credits > 0:
            chunk = download.take()
            if chunk is None:
                return
            subscriber.credits -= 1
            place = self._store.path(download.stem.sha256)
            then = partial(self._was_read, subscriber, download, chunk)
            self._spool.submit(partial(_read, place, *chunk), then)

    def _was_read(
        self,
        subscriber: Subscriber,
        download: Download,
        chunk: tuple[int, int],
        outcome: bytes | Exception,
    ) -> None:
        if subscriber.download is not download:
            return
        offset, size_bytes = chunk
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
