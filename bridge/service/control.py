"""The control channel: heartbeats, status, lists, cancellation. Its thread computes nothing.

It never waits for the job channel, so that a ping is answered however much audio is moving.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

import psutil
import zmq
from msgspec.structs import fields

from bridge.bundles.catalogue import Catalogue
from bridge.errors import InputError, ProtocolError, StembridgeError
from bridge.protocol import HEARTBEAT_S, VERSION, decode, encode, major
from bridge.request import Settings
from bridge.service.bindings import Binding
from bridge.service.desk import Desk
from bridge.service.logs import LogMemory, log
from bridge.service.service import Service
from bridge.service.sessions import Sessions
from bridge.service.store import Store
from bridge.wire.control_messages import (
    Bye,
    Cancel,
    GetJobs,
    GetLogs,
    GetStatus,
    Hello,
    Jobs,
    Logs,
    Ok,
    Ping,
    Pong,
    Shutdown,
    Status,
    Welcome,
)
from bridge.wire.descriptors import Limits
from bridge.wire.inbox import Inbox
from bridge.wire.messages import Failed, Message
from bridge.wire.sockets import receive_frames

CAPABILITIES: Final = ("attach", "keep", "partial")
PACKAGE: Final = "stembridge/0.1.0"
_LAST_WORDS_MS: Final = 500


class Control:
    """Answers the control channels of all bindings in a thread of its own.

    Parameters
    ----------
    bindings : list of Binding
        Their control sockets belong to the thread from now on.
    allows : callable
        Says whether the holder of a key is still let in.
    service, desk, sessions, catalogue, store, limits, memory
        What it speaks about.
    server_id : str
        Names this run of the server.
    wake : callable
        Makes the job thread look at what was queued for it.
    stop : callable
        Ends the server.
    """

    def __init__(
        self,
        *,
        bindings: list[Binding],
        allows: Callable[[str], bool],
        service: Service,
        desk: Desk,
        sessions: Sessions,
        catalogue: Catalogue,
        store: Store,
        limits: Limits,
        memory: LogMemory,
        server_id: str,
        wake: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._bindings = bindings
        self._allows = allows
        self._service = service
        self._desk = desk
        self._catalogue = catalogue
        self._sessions = sessions
        self._store = store
        self._limits = limits
        self._memory = memory
        self._server_id = server_id
        self._wake = wake
        self._stop = stop
        self._started = time.monotonic()
        self._ending: Inbox[None] = Inbox()
        self._thread = threading.Thread(target=self._run, name="control")
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the sockets."""
        self._ending.put(None)
        self._thread.join()
        self._ending.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._ending.fileno(), zmq.POLLIN)
        for binding in self._bindings:
            poller.register(binding.control, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._ending.fileno() in ready:
                break
            for binding in self._bindings:
                if binding.control in ready:
                    self._serve(binding)
        for binding in self._bindings:
            binding.control.close(linger=_LAST_WORDS_MS)

    def _serve(self, binding: Binding) -> None:
        received = receive_frames(binding.control)
        if received is None:
            return
        identity, frames, user = received
        if not binding.local and not self._allows(user):
            self._revoked(user)
            return
        try:
            message, _ = decode(frames)
            answer = self._answer(binding, user, message)
        except StembridgeError as error:
            answer = Failed(code=error.code, message=str(error))
        except Exception as error:  # one bad request must not end the service
            log("control failed", logging.ERROR, error=repr(error))
            answer = Failed(code="internal", message=repr(error))
        # A peer that left, or reads nothing, gets nothing.
        try:
            binding.control.send_multipart([identity, *encode(answer)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise

    def _revoked(self, user: str) -> None:
        """End the sessions of somebody whose key was revoked; no answer."""
        with self._service.lock:
            for session_id in self._sessions.of(user):
                self._desk.end_session(session_id)
        self._wake()

    def _answer(self, binding: Binding, user: str, message: Message) -> Message:
        answer: Message
        match message:
            case Ping():
                answer = Pong(number=message.number, known=self._sessions.heard(message.session))
            case Hello():
                answer = self._greet(binding, user, message)
            case Bye():
                answer = self._part(message)
            case Cancel():
                answer = self._cancel(binding, user, message)
            case GetStatus():
                answer = self.status()
            case GetJobs():
                answer = self._list_jobs(binding, user)
            case GetLogs() | Shutdown() if not binding.local:
                name = type(message).__name__
                raise ProtocolError(f"{name} is for the user of the server's machine only")
            case GetLogs():
                answer = Logs(lines=self._memory.newest(message.lines))
            case Shutdown():
                log("shutdown asked for")
                self._stop()
                answer = Ok()
            case _:
                name = type(message).__name__
                raise ProtocolError(f"{name} does not belong on the control channel")
        return answer

    def _part(self, message: Bye) -> Ok:
        with self._service.lock:
            self._desk.end_session(message.session)
        self._wake()
        return Ok()

    def _list_jobs(self, binding: Binding, user: str) -> Jobs:
        table = self._service.table
        with self._service.lock:
            history = tuple(table.history) if binding.local else ()
            visible = [job for job in table.jobs.values() if binding.local or user in job.owners]
            return Jobs(jobs=(*history, *(job.info() for job in visible)))

    def _greet(self, binding: Binding, user: str, message: Hello) -> Welcome:
        if major(message.protocol) != major(VERSION):
            raise ProtocolError(
                f"the client speaks protocol {message.protocol}, the server {VERSION}; "
                "install the same version of stembridge on both sides"
            )
        session = self._sessions.open(user, binding.index, binding.local, message.session)
        log("hello", session=session.id[:8], client=message.client, local=binding.local)
        return Welcome(
            protocol=VERSION,
            server=PACKAGE,
            server_id=self._server_id,
            session=session.id,
            jobs_port=binding.jobs_port,
            settings=tuple(field.name for field in fields(Settings)),
            capabilities=CAPABILITIES,
            models=self._catalogue.names(),
            limits=self._limits,
            heartbeat_s=HEARTBEAT_S,
            grace_s=self._sessions.grace_s,
        )

    def _cancel(self, binding: Binding, user: str, message: Cancel) -> Ok:
        count = 0
        with self._service.lock:
            if message.session is not None and message.request is not None:
                count += self._service.release((message.session, message.request), cancel=True)
            elif message.key is not None:
                job = self._service.table.jobs.get(message.key)
                if job is not None and job.open:
                    if not binding.local and job.owners != {user}:
                        raise InputError("this job is not yours alone to cancel")
                    self._service.abort(job)
                    count += 1
            else:
                raise ProtocolError("cancel names neither a request of a session nor a job")
        self._wake()
        return Ok(count=count)

    def status(self) -> Status:
        """Gather the state of the server; may be called from any thread."""
        memory_bytes = 0
        service = self._service
        pids = [] if service.workers is None else service.workers.pids()
        for pid in (os.getpid(), *pids):
            try:
                memory_bytes += psutil.Process(pid).memory_info().rss
            except psutil.Error:
                continue  # it ended just now
        cache_bytes, entries = self._store.usage()
        with service.lock:
            states = [job.state for job in service.table.jobs.values()]
            return Status(
                server=PACKAGE,
                protocol=VERSION,
                server_id=self._server_id,
                pid=os.getpid(),
                uptime_s=time.monotonic() - self._started,
                provider=next(iter(service.loaded.values()), None),
                models=self._catalogue.names(),
                loaded=tuple(service.loaded),
                workers=len(pids),
                memory_bytes=memory_bytes,
                sessions=len(self._sessions),
                queued=states.count("queued"),
                running=states.count("running"),
                finished=service.table.finished,
                cache_bytes=cache_bytes,
                cache_limit_bytes=self._store.limit_bytes,
                cache_entries=entries,
                endpoints=tuple(binding.address.control for binding in self._bindings),
            )
