"""Where requests come in: the messages of the job channel, and the sessions they belong to."""

from __future__ import annotations

import contextlib

from bridge.bundles.catalogue import Catalogue
from bridge.errors import InputError, ModelError, ProtocolError, StembridgeError
from bridge.protocol import Buffer
from bridge.service.jobs import Job, Subscriber, job_key
from bridge.service.limits import check_limits
from bridge.service.records import JOBS, RESULTS, JobRecord, ResultRecord
from bridge.service.service import Send, Service
from bridge.service.sessions import Peer, Session, Sessions
from bridge.service.store import Store
from bridge.validation import check_prompts, check_settings
from bridge.wire.descriptors import Limits
from bridge.wire.messages import (
    Attach,
    Audio,
    Credit,
    Failed,
    Fetch,
    Join,
    Joined,
    Message,
    Release,
    Submit,
)


class Desk:
    """Turns messages into jobs and requests of `Service`; called under its lock.

    Parameters
    ----------
    server_id : str
        Names this run of the server.
    service, sessions, catalogue, store, limits
        What it works with.
    send : callable
        Queues a message to a peer on the job channel.
    """

    def __init__(
        self,
        *,
        server_id: str,
        service: Service,
        sessions: Sessions,
        catalogue: Catalogue,
        store: Store,
        limits: Limits,
        send: Send,
    ) -> None:
        self._server_id = server_id
        self._service = service
        self._sessions = sessions
        self._catalogue = catalogue
        self._store = store
        self._limits = limits
        self._send_to = send

    def handle(self, peer: Peer, message: Message, payload: Buffer | None) -> None:
        """Take a message of the job channel."""
        session = self._sessions.at(peer)
        try:
            if isinstance(message, Join):
                self._join(peer, message)
            elif session is None:
                raise ProtocolError("join a session before anything else on the job channel")
            else:
                self._sessions.heard(session.id)
                self._take(session, message, payload)
        except StembridgeError as error:
            request: int | None = getattr(message, "request", None)
            if session is not None and request is not None:
                self._service.release((session.id, request))
            self._send_to(peer, Failed(code=error.code, message=str(error), request=request), None)

    def resume_kept(self) -> None:
        """Go on with the kept jobs that an earlier run of the server did not finish."""
        for key in self._store.record_keys(JOBS):
            record = self._store.read_record(JOBS, key, JobRecord)
            # A model that is gone may come back: its jobs stay on record.
            with contextlib.suppress(ModelError):
                if record is not None:
                    path, _ = self._catalogue.find(record.model)
                    self._service.resume(Job(key, record, str(path), keep=True))

    def end_session(self, session_id: str) -> None:
        """Drop all that a session asked for."""
        session = self._sessions.close(session_id)
        for place in list(self._service.table.requests):
            if place[0] == session_id:
                self._service.release(place)
        if session is not None and session.owner == session.id:
            self._service.forget(session.id)

    def tick(self) -> None:
        """Do what time asks for: end silent sessions, tell who waits where it stands."""
        for session_id in self._sessions.gone():
            self.end_session(session_id)
        self._service.tell_positions()

    def _take(self, session: Session, message: Message, payload: Buffer | None) -> None:
        if isinstance(message, Submit):
            self._submit(session, message)
        elif isinstance(message, Attach):
            self._attach(session, message)
        elif isinstance(message, Release):
            self._service.release((session.id, message.request))
        elif isinstance(message, Audio | Fetch | Credit):
            self._move(session, message, payload)
        else:
            raise ProtocolError(f"{type(message).__name__} does not belong on the job channel")

    def _join(self, peer: Peer, message: Join) -> None:
        session = self._sessions.get(message.session)
        if session is None or session.binding != peer[0]:
            raise ProtocolError("unknown session; say hello again")
        self._sessions.bind(session, peer)
        for place in list(self._service.table.requests):
            if place[0] == session.id and place[1] not in message.requests:
                self._service.release(place)
        self._service.send(session, Joined(server_id=self._server_id))

    def _submit(self, session: Session, message: Submit) -> None:
        audio = message.audio
        settings = check_settings(message.settings)
        prompts = check_prompts(message.prompts, audio.duration_s)
        path, manifest = self._catalogue.find(message.model)
        key = job_key(audio, prompts, settings, manifest)
        table = self._service.table
        others = table.of_owner(session.owner, (session.id, message.request))
        check_limits(self._limits, audio, others)
        job = table.jobs.get(key)
        if job is None:
            job = Job(key, JobRecord(message.model, audio, prompts, settings), str(path))
        job.keep = job.keep or message.keep
        subscriber = Subscriber(session, message.request, message.partial, has_audio=True)
        self._service.attach(job, subscriber)

    def _attach(self, session: Session, message: Attach) -> None:
        job = self._service.table.jobs.get(message.key)
        if job is None:
            result = self._store.read_record(RESULTS, message.key, ResultRecord)
            if result is None:
                raise InputError(f"the server knows no job {message.key}; submit it with its audio")
            path, _ = self._catalogue.find(result.job.model)
            job = Job(message.key, result.job, str(path))
        subscriber = Subscriber(session, message.request, message.partial, has_audio=False)
        self._service.attach(job, subscriber)

    def _move(
        self, session: Session, message: Audio | Fetch | Credit, payload: Buffer | None
    ) -> None:
        found = self._service.table.requests.get((session.id, message.request))
        if found is None:
            return  # released or failed a moment ago; what was in flight no longer matters
        job, subscriber = found
        traffic = self._service.traffic
        if isinstance(message, Audio):
            traffic.receive(job, subscriber, message.offset, payload or b"")
        elif isinstance(message, Fetch):
            traffic.fetch(job, subscriber, message.stem, message.offset)
        else:
            traffic.credit(subscriber, message.credits)
