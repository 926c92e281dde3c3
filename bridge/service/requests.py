"""The job channel: its messages become requests for jobs, each in its session."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Sequence

from msgspec.structs import replace

from bridge.bundles.bundle import ModelIndex
from bridge.errors import InputError, ModelError, ProtocolError, StembridgeError
from bridge.request import SAMPLE_RATES_HZ, check_prompts, check_settings
from bridge.service.jobs import LOCAL, Job, Subscriber, failure, job_key, kin_key, revised
from bridge.service.logs import log
from bridge.service.relay import Connection
from bridge.service.service import Send, Service
from bridge.service.sessions import Caller, Peer, Session, Sessions
from bridge.store import JOBS, RESULTS, KeptJob, ResultRecord, Store
from bridge.wire.codec import Buffer
from bridge.wire.messages import (
    Attach,
    Audio,
    AudioInfo,
    Credit,
    Fetch,
    Join,
    Joined,
    Limits,
    Message,
    Release,
    Submit,
)


class Requests:
    """Turns messages into calls of `Service`; its lock is held.

    Parameters
    ----------
    server_id : str
        Identifies this run of the server.
    service, sessions, model_index, store, limits
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
        model_index: ModelIndex,
        store: Store,
        limits: Limits,
        send: Send,
    ) -> None:
        self._server_id = server_id
        self._service = service
        self._sessions = sessions
        self._model_index = model_index
        self._store = store
        self._limits = limits
        self._send_to = send

    def handle(
        self,
        peer: Peer,
        user: str,
        connection: Connection | None,
        message: Message,
        payload: Buffer | None,
    ) -> None:
        """Handle a message of the job channel from an authorised or local user."""
        session = self._sessions.at(peer)
        try:
            if isinstance(message, Join):
                self._join(peer, user, connection, message)
            elif session is None or session.user != user:
                raise ProtocolError("join a session before anything else on the job channel")
            else:
                self._sessions.touch(session.id)
                self._take(session, message, payload)
        except StembridgeError as error:
            self._refuse(peer, session, message, error)
        except Exception as error:  # one bad request must not stop the service
            log("request failed", logging.ERROR, traceback=traceback.format_exc())
            self._refuse(peer, session, message, StembridgeError(repr(error)))

    def _refuse(
        self, peer: Peer, session: Session | None, message: Message, error: StembridgeError
    ) -> None:
        request: int | None = getattr(message, "request", None)
        if session is not None and request is not None:
            self._service.release((session.id, request))
        self._send_to(peer, failure(error, request), None)

    def resume_kept(self) -> None:
        """Resume the kept jobs that an earlier run of the server did not finish."""
        for key in self._store.record_keys(JOBS):
            kept = self._store.read_record(JOBS, key, KeptJob)
            # A model that is gone may come back: its jobs stay on record.
            with contextlib.suppress(ModelError):
                if kept is not None:
                    path, manifest = self._model_index.find(kept.asked.model)
                    kin = kin_key(kept.asked, manifest)
                    self._service.resume(Job(key, kept.asked, path, set(kept.keepers), kin))

    def open_session(self, caller: Caller, resume: str | None) -> Session:
        """Begin or resume a session; may be called from any thread.

        Raises
        ------
        InputError
            If there are too many.
        """
        with self._service.lock:
            busy = {session_id for session_id, _ in self._service.table.requests}
            session, closed = self._sessions.open(caller, resume, busy)
            if closed is not None and closed.local:
                self._service.forget(closed.id)
            return session

    def remote_owners(self) -> set[str]:
        """Return the keys that have a session or a kept job here."""
        kept = {one for job in self._service.table.jobs.values() for one in job.keepers}
        return (self._sessions.users() | kept) - {LOCAL}

    def end_owner(self, owner: str) -> None:
        """End the sessions of a key, and cancel the jobs kept for it."""
        for session_id in self._sessions.of(owner):
            self.end_session(session_id)
        self._service.stop_keeping(owner)
        self._service.forget(owner)

    def end_session(self, session_id: str) -> None:
        """End a session and release its requests."""
        session = self._sessions.close(session_id)
        for place in list(self._service.table.requests):
            if place[0] == session_id:
                self._service.release(place)
        if session is not None and session.local:
            self._service.forget(session.id)

    def tick(self) -> None:
        """Do what falls due: end silent sessions, report positions in the queue."""
        for session_id in self._sessions.silent():
            self.end_session(session_id)
        self._service.replace_stalled(self._sessions.grace_s)
        for _, subscriber in list(self._service.table.requests.values()):
            self._service.transfers.go_on(subscriber)
        self._service.send_positions()

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

    def _join(self, peer: Peer, user: str, connection: Connection | None, message: Join) -> None:
        session = self._sessions.get(message.session)
        if session is None or session.binding != peer[0] or session.user != user:
            raise ProtocolError("unknown session; say hello again")
        self._sessions.bind(session, peer, connection)
        for place in list(self._service.table.requests):
            if place[0] == session.id and place[1] not in message.requests:
                self._service.release(place)
        self._service.send(session, Joined(server_id=self._server_id))

    def _submit(self, session: Session, message: Submit) -> None:
        audio = message.audio
        low, high = SAMPLE_RATES_HZ
        if not low <= audio.sample_rate <= high:
            raise InputError(
                f"a sample rate of {audio.sample_rate} Hz; expected {low} to {high} Hz"
            )
        settings = check_settings(message.settings)
        prompts = check_prompts(message.prompts, audio.duration_s)
        stems = [prompt.stem for prompt in prompts]
        shown = [video.stem for video in audio.videos]
        if len(set(shown)) < len(shown) or not set(shown) <= set(stems):
            raise InputError(
                f"videos of {', '.join(shown)}; expected at most one of each of {', '.join(stems)}"
            )
        path, manifest = self._model_index.find(message.model)
        key = job_key(audio, prompts, settings, manifest)
        asked = Submit(
            request=0, model=message.model, audio=audio, prompts=prompts, settings=settings
        )
        kin = kin_key(asked, manifest)
        if message.revises and key not in self._service.table.jobs:
            key, asked = revised(key, replace(asked, revises=message.revises), kin, self._store)
        self._check_limits(session, message.request, key, audio)
        job = self._service.table.jobs.get(key)
        if job is None:
            job = Job(key, asked, path, kin=kin)
        subscriber = Subscriber(session, message.request, message.partial, has_audio=True)
        self._service.attach(job, subscriber, session.user if message.keep else None)

    def _attach(self, session: Session, message: Attach) -> None:
        job = self._service.table.jobs.get(message.key)
        if job is None:
            result = self._store.read_record(RESULTS, message.key, ResultRecord)
            if result is None:
                raise InputError(f"the server knows no job {message.key}; submit it with its audio")
            path, _ = self._model_index.find(result.job.model)
            job = Job(message.key, result.job, path)
        self._check_limits(session, message.request, job.key, job.asked.audio)
        subscriber = Subscriber(session, message.request, message.partial, has_audio=False)
        self._service.attach(job, subscriber)

    def _check_limits(self, session: Session, request: int, key: str, audio: AudioInfo) -> None:
        """Check the limits of a client as they would be with this request."""
        held = self._service.table.of_owner(session.owner, (session.id, request), key)
        check_limits(self._limits, audio, held)

    def _move(
        self, session: Session, message: Audio | Fetch | Credit, payload: Buffer | None
    ) -> None:
        found = self._service.table.requests.get((session.id, message.request))
        if found is None:
            return  # it has just been released or failed; what was in flight no longer matters
        job, subscriber = found
        transfers = self._service.transfers
        if isinstance(message, Audio):
            transfers.receive(job, subscriber, message.offset, payload or b"")
        elif isinstance(message, Fetch):
            transfers.fetch(job, subscriber, message.stem, message.offset)
        else:
            transfers.credit(subscriber, message.credits)
            for place, (_, other) in list(self._service.table.requests.items()):
                if place[0] == session.id:
                    transfers.go_on(other)


def check_limits(limits: Limits, audio: AudioInfo, held: Sequence[Job]) -> None:
    """Check a new job of a client against its limits.

    Parameters
    ----------
    limits : Limits
    audio : AudioInfo
        Of the new job.
    held : sequence of Job
        The jobs that count against the client: see `JobTable.of_owner`.

    Raises
    ------
    InputError
        If the new job would pass a limit; the message has the numbers.
    """
    if limits.open_jobs is not None and len(held) >= limits.open_jobs:
        raise InputError(
            f"{len(held)} jobs are open or not fetched, and this server allows a client "
            f"{limits.open_jobs}; wait for one to finish, and fetch or release it"
        )
    size_bytes = audio.size_bytes + sum(job.size_bytes for job in held)
    if limits.upload_bytes is not None and size_bytes > limits.upload_bytes:
        raise InputError(
            f"the audio of the open jobs and the stems that were not fetched would come to "
            f"{size_bytes} bytes, and this server allows a client {limits.upload_bytes}; wait for "
            "a job to finish, fetch or release it, or send less audio"
        )
    open_s = sum(job.asked.audio.duration_s for job in held if job.open)
    minutes = (audio.duration_s + open_s) / 60
    if limits.audio_minutes is not None and minutes > limits.audio_minutes:
        raise InputError(
            f"the open jobs would come to {minutes:.1f} minutes of audio, and this server allows "
            f"a client {limits.audio_minutes:g}; wait for a job to finish, or send less audio"
        )
