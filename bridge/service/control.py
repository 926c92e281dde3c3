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

from bridge.bundles.bundle import ModelIndex
from bridge.errors import InputError, ProtocolError, StembridgeError
from bridge.request import Settings
from bridge.service.jobs import failure
from bridge.service.logs import LogMemory, log
from bridge.service.relay import Relay
from bridge.service.requests import Requests
from bridge.service.service import Service
from bridge.service.sessions import Caller, Sessions
from bridge.service.sockets import LINGER_MS, Binding
from bridge.store import Store
from bridge.wire.codec import HEARTBEAT_S, VERSION, decode, encode, major, product
from bridge.wire.messages import (
    Bye,
    Cancel,
    Failed,
    GetJobs,
    GetLogs,
    GetStatus,
    Hello,
    Jobs,
    Limits,
    Logs,
    Message,
    Ok,
    Ping,
    Pong,
    Shutdown,
    Status,
    Welcome,
)
from bridge.wire.sockets import Inbox, receive

CAPABILITIES: Final = ("attach", "keep", "partial")


class Control:
    """Serves the control channels of all bindings from a thread of its own.

    Parameters
    ----------
    bindings : list of Binding
        Their control sockets are used by this thread alone from now on.
    allows : callable
        Says whether a key is still authorised.
    relay, service, requests, sessions, model_index, store, limits, memory
        What its answers describe.
    server_id : str
        Identifies this run of the server.
    wake : callable
        Wakes the job thread to send what was queued.
    stop : callable
        Stops the server.
    problems : callable
        Returns what keeps the server from working normally.
    """

    def __init__(
        self,
        *,
        bindings: list[Binding],
        allows: Callable[[str], bool],
        relay: Relay,
        service: Service,
        requests: Requests,
        sessions: Sessions,
        model_index: ModelIndex,
        store: Store,
        limits: Limits,
        memory: LogMemory,
        server_id: str,
        wake: Callable[[], None],
        stop: Callable[[], None],
        problems: Callable[[], tuple[str, ...]],
    ) -> None:
        self._bindings = bindings
        self._allows = allows
        self._relay = relay
        self._problems = problems
        self._service = service
        self._requests = requests
        self._model_index = model_index
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
            binding.control.close(linger=LINGER_MS)

    def _serve(self, binding: Binding) -> None:
        received = receive(binding.control)
        if received is None:
            return
        connection = self._relay.connection(received.number)
        allowed = binding.local or self._allows(received.user)
        if connection is not None:
            connection.took(received.count, received.size_bytes, proven=allowed)
        if not allowed:
            return  # its key was revoked; the job thread ends its sessions
        caller = Caller(binding, received.user, connection)
        answer: Message
        try:
            message, _ = decode(received.frames)
            answer = self._answer(caller, message)
        except StembridgeError as error:
            answer = failure(error)
        except Exception as error:  # one bad request must not stop the service
            log("control failed", logging.ERROR, error=repr(error))
            answer = Failed(code="internal", message=repr(error))
        # A peer that is gone, or does not read, misses the answer.
        try:
            frames = encode(answer)
            if connection is not None:
                connection.gave(sum(map(len, frames)))
            binding.control.send_multipart([received.identity, *frames], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise

    def _answer(self, caller: Caller, message: Message) -> Message:
        answer: Message
        match message:
            case Ping():
                known = self._sessions.touch(message.session, caller.user)
                answer = Pong(number=message.number, known=known)
            case Hello():
                answer = self._greet(caller, message)
            case Bye():
                answer = self._part(caller, message)
            case Cancel():
                answer = self._cancel(caller, message)
            case GetStatus():
                answer = self.status()
            case GetJobs():
                answer = self._list_jobs(caller)
            case GetLogs() | Shutdown() if not caller.local:
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

    def _part(self, caller: Caller, message: Bye) -> Ok:
        with self._service.lock:
            if self._sessions.touch(message.session, caller.user):
                self._requests.end_session(message.session)
        self._wake()
        return Ok()

    def _list_jobs(self, caller: Caller) -> Jobs:
        table = self._service.table
        with self._service.lock:
            history = tuple(table.history) if caller.local else ()
            jobs = table.jobs.values()
            visible = [job for job in jobs if caller.local or caller.user in job.owners]
            return Jobs(jobs=(*history, *(job.info() for job in visible)))

    def _greet(self, caller: Caller, message: Hello) -> Welcome:
        if major(message.protocol) != major(VERSION):
            raise ProtocolError(
                f"the client speaks protocol {message.protocol}, the server {VERSION}; "
                "install the same version of stembridge on both sides"
            )
        session = self._requests.open_session(caller, message.session)
        log("hello", session=session.id[:8], client=message.client, local=caller.local)
        return Welcome(
            protocol=VERSION,
            server=product(),
            server_id=self._server_id,
            session=session.id,
            jobs_port=caller.binding.jobs_port,
            settings=tuple(field.name for field in fields(Settings)),
            capabilities=CAPABILITIES,
            models=self._model_index.names(),
            limits=self._limits,
            heartbeat_s=HEARTBEAT_S,
            grace_s=self._sessions.grace_s,
        )

    def _cancel(self, caller: Caller, message: Cancel) -> Ok:
        count = 0
        with self._service.lock:
            if message.session is not None and message.request is not None:
                if self._sessions.touch(message.session, caller.user):
                    place = (message.session, message.request)
                    count += self._service.release(place, cancel=True)
            elif message.key is not None:
                job = self._service.table.jobs.get(message.key)
                if job is not None and job.open:
                    if not caller.local and job.owners != {caller.user}:
                        raise InputError("this job is not yours alone to cancel")
                    self._service.cancel(job)
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
            except (psutil.Error, OSError):
                continue  # it has just ended, or we are out of file descriptors
        cache_bytes, entries = self._service.cache_usage()
        with service.lock:
            states = [job.state for job in service.table.jobs.values()]
            return Status(
                server=product(),
                protocol=VERSION,
                server_id=self._server_id,
                pid=os.getpid(),
                uptime_s=time.monotonic() - self._started,
                provider=next(iter(service.loaded.values()), None),
                models=self._model_index.names(),
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
                problems=self._problems(),
            )
