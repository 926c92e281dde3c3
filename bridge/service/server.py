"""The sidecar's process: sockets, threads, start and end.

Threads: the job channel (this one), the control channel, the relay that clients connect to, one
for the disk, and the one that watches the workers. None of them computes; that happens in
processes of their own. If one of them fails, the server stops and says why rather than run on
with a part missing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import zmq
from filelock import FileLock, Timeout

from bridge.bundles.bundle import ModelIndex, list_bundles
from bridge.errors import ServerError, StembridgeError
from bridge.files import (
    has_ipc,
    log_file,
    models_directory,
    take_failure,
    write_failure,
    write_whole,
)
from bridge.service.control import Control
from bridge.service.jobs import failure
from bridge.service.logs import Metrics, log, set_up
from bridge.service.relay import Relay
from bridge.service.requests import Requests
from bridge.service.service import Service
from bridge.service.sessions import Peer, Sessions
from bridge.service.sockets import LINGER_MS, Authenticator, Binding
from bridge.service.transfers import Disk
from bridge.store import Store
from bridge.wire.codec import Buffer, decode, encode, product
from bridge.wire.keys import KeyRing
from bridge.wire.messages import Failed, JobProgress, Limits, Message, Partial
from bridge.wire.sockets import ADDRESS_FILE, Inbox, receive
from bridge.workers.local import Pool, Workers
from bridge.workers.messages import EngineOptions, Event, Load

LOCK: Final = "server.lock"
# The server cannot run without these.
_THREADS: Final = ("control", "relay", "workers")
# How often to look whether the runtime directory is still there.
_LOOK_S: Final = 1.0
# How often to do what falls due: positions in the queue, silent sessions, revoked keys.
_TICK_S: Final = 0.1
# Messages read from one binding before the other gets its turn.
_BURST: Final = 64


@dataclass(frozen=True)
class ServerConfig:
    """How a server runs.

    Attributes
    ----------
    directory : Path
        Its private runtime directory.
    cache : Path
        Its disk store.
    cache_limit_bytes : int
    models : tuple of Path
        Bundles that requests may name, besides the installed ones.
    engine : EngineOptions
        Execution providers and memory for the workers.
    idle_timeout_s : float or None
        It stops after this long without clients and jobs; None for never.
    grace_s : float
        How long the jobs of a silent client go on.
    workers : int
        Jobs computed at a time.
    binds : tuple of str
        Endpoints ``tcp://HOST:PORT`` for holders of authorised keys.
    keys : Path or None
        Directory of the keys, if not the user's.
    ipc : bool
        Whether this user's clients connect through ipc sockets or loopback ports.
    limits : Limits
        Per client.
    ray : str or None
        Address of a Ray cluster that computes in place of local processes.
    metrics : str or None
        ``HOST:PORT`` of the Prometheus endpoint, if one is wanted.
    console : bool
        Whether the log also goes to standard error.
    """

    directory: Path
    cache: Path
    cache_limit_bytes: int = 10 << 30
    models: tuple[Path, ...] = ()
    engine: EngineOptions = field(default_factory=EngineOptions)
    idle_timeout_s: float | None = None
    grace_s: float = 10.0
    workers: int = 1
    binds: tuple[str, ...] = ()
    keys: Path | None = None
    ipc: bool = field(default_factory=has_ipc)
    limits: Limits = field(default_factory=Limits)
    ray: str | None = None
    metrics: str | None = None
    console: bool = False


class Server:
    """A sidecar. At most one runs per runtime directory.

    Parameters
    ----------
    config : ServerConfig

    Raises
    ------
    ServerError
        If one runs there already, or the sockets or the store cannot be made.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._lock = FileLock(config.directory / LOCK, mode=0o600, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise AlreadyRunning(f"a server is running in {config.directory} already") from None
        with contextlib.ExitStack() as ending:
            ending.callback(self._lock.release)
            self._locked_file = (config.directory / LOCK).stat()
            self._set_up(config, ending)
            # From here on `run` cleans up.
            self._ending = ending.pop_all()

    def _set_up(self, config: ServerConfig, ending: contextlib.ExitStack) -> None:
        self._memory = set_up(log_file(config.directory), console=config.console)
        ending.callback(self._memory.detach)
        self._stopping = threading.Event()
        self._inbox: Inbox[Callable[[], None]] = Inbox()
        ending.callback(self._inbox.close)
        self._outbox: deque[tuple[Peer, Message, Buffer | None]] = deque()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        ending.callback(self._context.destroy)
        self._relay = Relay(config.directory, ipc=config.ipc)
        ending.callback(self._relay.close)
        self._id = secrets.token_hex(8)
        self._store = Store(config.cache, config.cache_limit_bytes, pinned=self._pinned)
        self._store.sweep()
        self._sessions = Sessions(config.grace_s)
        disk = Disk(self._store, self._inbox.put)
        ending.callback(disk.close)
        self._model_index = ModelIndex(models_directory(config.directory), config.models)
        self._service = Service(disk, self._send)
        self._requests = Requests(
            server_id=self._id,
            service=self._service,
            sessions=self._sessions,
            model_index=self._model_index,
            store=self._store,
            limits=config.limits,
            send=self._send,
        )
        self._authenticator = Authenticator(self._context, self._relay, KeyRing(config.keys))
        ending.callback(self._authenticator.close)
        self._bindings = [self._authenticator.bind_private(config.directory, ipc=config.ipc)]
        self._bindings += [self._authenticator.bind_remote(one) for one in config.binds]
        self._failure: ServerError | None = None
        self._earlier = _earlier_failure(config.directory)

    def stop(self) -> None:
        """Make `run` return; safe from any thread and from a signal handler."""
        self._stopping.set()
        self._inbox.put(lambda: None)

    def run(self) -> None:
        """Serve until stopped, or idle for too long."""
        with self._ending as ending:
            ending.callback(log, "stopped")
            ending.callback(setattr, threading, "excepthook", threading.excepthook)
            threading.excepthook = self._thread_failed
            ending.callback(self._close_jobs)
            pool = self._start_workers()
            ending.callback(pool.close)
            self._service.workers = pool
            control = Control(
                bindings=self._bindings,
                allows=self._authenticator.allows,
                relay=self._relay,
                service=self._service,
                requests=self._requests,
                sessions=self._sessions,
                model_index=self._model_index,
                store=self._store,
                limits=self._config.limits,
                memory=self._memory,
                server_id=self._id,
                wake=lambda: self._inbox.put(lambda: None),
                stop=self.stop,
                problems=self._problems,
            )
            ending.callback(control.close)
            self._relay.start()
            if self._config.metrics is not None:
                metrics = Metrics(self._config.metrics, control.status)
                ending.callback(metrics.close)
                log("metrics", port=metrics.port)
            log("started", pid=os.getpid(), endpoints=self._endpoints(), version=product())
            self._announce()
            ending.callback((self._config.directory / ADDRESS_FILE).unlink, missing_ok=True)
            self._begin(pool)
            try:
                self._serve()
            except Exception as error:
                self._send_reason(error)
                raise

    def _begin(self, pool: Workers) -> None:
        """Resume the jobs of an earlier run, and check the provider that was asked for."""
        with self._service.lock:
            self._requests.resume_kept()
        if self._config.engine.providers is not None:
            # A missing provider is found out before anyone waits for a job.
            for path in [*self._config.models, *list_bundles().values()][:1]:
                pool.load(Load(path))

    def _start_workers(self) -> Workers:
        config = self._config
        if config.ray is not None:
            from bridge.workers.ray import RayWorkers

            return RayWorkers(config.ray, config.workers, config.engine, self._post_event)
        return Pool(config.directory, config.workers, config.engine, self._post_event)

    def _endpoints(self) -> list[str]:
        return [binding.address.control for binding in self._bindings]

    def _announce(self) -> None:
        """Write the file that tells clients where the server is."""
        path = self._config.directory / ADDRESS_FILE
        write_whole(path, msgspec.json.encode(self._bindings[0].address), private=True)

    def _pinned(self) -> set[str]:
        with self._service.lock:
            return self._service.table.pinned()

    def _problems(self) -> tuple[str, ...]:
        """Return what keeps the server from working normally."""
        return tuple(filter(None, (self._service.problem, self._earlier)))

    def _thread_failed(self, arguments: threading.ExceptHookArgs) -> None:
        """Stop the server because one of its threads failed."""
        name = "a thread" if arguments.thread is None else arguments.thread.name
        text = "".join(traceback.format_exception(arguments.exc_value))
        log("thread failed", logging.ERROR, thread=name, traceback=text)
        if name in _THREADS:
            self._failure = ServerError(f"the server's {name} failed: {arguments.exc_value!r}")
            self.stop()

    def _send_reason(self, error: Exception) -> None:
        """Tell all clients why the server stops."""
        reason = _reason(error)
        # For the next server, which reports it in its status.
        with contextlib.suppress(OSError):
            write_failure(self._config.directory, reason, started=True)
        failed = Failed(code="server", message=reason)
        for peer in self._sessions.peers():
            self._send(peer, failed, None)
        with contextlib.suppress(Exception):
            self._flush()

    def _close_jobs(self) -> None:
        for binding in self._bindings:
            binding.jobs.close(linger=LINGER_MS)

    def _send(self, peer: Peer, message: Message, payload: Buffer | None) -> None:
        self._outbox.append((peer, message, payload))

    def _post_event(self, event: Event, payload: Buffer | None) -> None:
        self._inbox.put(partial(self._service.worker_event, event, payload))

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._inbox.fileno(), zmq.POLLIN)
        for binding in self._bindings:
            poller.register(binding.jobs, zmq.POLLIN)
        last_tick = idle_since = last_look = time.monotonic()
        while not self._stopping.is_set():
            poller.poll(int(_TICK_S * 1000))
            for index, binding in enumerate(self._bindings):
                self._receive(index, binding)
            now = time.monotonic()
            with self._service.lock:
                for outcome in self._inbox.drain():
                    outcome()
                if now - last_tick >= _TICK_S:
                    last_tick = now
                    self._requests.tick()
                    self._revoke()
                if self._sessions or any(job.open for job in self._service.table.jobs.values()):
                    idle_since = now
            self._flush()
            if self._service.provider_error is not None:
                log("provider", logging.ERROR, error=str(self._service.provider_error))
                raise self._service.provider_error
            if now - last_look > _LOOK_S:
                last_look = now
                if not self._lock_is_in_place():
                    raise ServerError(f"{self._config.directory} was removed or replaced")
            timeout_s = self._config.idle_timeout_s
            if timeout_s is not None and now - idle_since > timeout_s:
                log("idle for too long", seconds=timeout_s)
                return
        if self._failure is not None:
            raise self._failure

    def _lock_is_in_place(self) -> bool:
        """Say whether the locked file is still where other servers look for it."""
        try:
            return os.path.samestat(self._locked_file, (self._config.directory / LOCK).stat())
        except OSError:
            return False

    def _revoke(self) -> None:
        """Drop the sessions and jobs of keys that were revoked."""
        for owner in self._requests.remote_owners():
            if not self._authenticator.allows(owner):
                log("key revoked", owner=owner)
                self._requests.end_owner(owner)

    def _receive(self, index: int, binding: Binding) -> None:
        for _ in range(_BURST):  # so that others get their turn, however much one client sends
            received = receive(binding.jobs)
            if received is None:
                return
            peer = (index, received.identity)
            connection = self._relay.connection(received.number)
            allowed = binding.local or self._authenticator.allows(received.user)
            if connection is not None:
                connection.took(received.count, received.size_bytes, proven=allowed)
            if not allowed:
                continue
            try:
                message, payload = decode(received.frames)
                with self._service.lock:
                    self._requests.handle(peer, received.user, connection, message, payload)
            except StembridgeError as error:
                self._send(peer, failure(error), None)

    def _flush(self) -> None:
        while self._outbox:
            peer, message, payload = self._outbox.popleft()
            index, identity = peer
            frames = [identity, *encode(message, payload)]
            session = self._sessions.at(peer)
            if session is not None and session.connection is not None:
                session.connection.gave(sum(map(len, frames[1:])))
            try:
                # Copied: to send without a copy, pyzmq opens sockets of its own, which fails when
                # the file descriptors are used up.
                self._bindings[index].jobs.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                # A client that does not read. It may miss progress, which is repeated anyway; for
                # want of anything else it has to start again.
                if not isinstance(message, JobProgress | Partial):
                    self._drop(peer)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise

    def _drop(self, peer: Peer) -> None:
        session = self._sessions.at(peer)
        if session is not None:
            log("client reads nothing", logging.WARNING, session=session.id[:8])
            with self._service.lock:
                self._requests.end_session(session.id)
            if session.connection is not None:
                self._relay.drop(session.connection)


class AlreadyRunning(ServerError):
    """Another server is running in the directory."""


def serve(config: ServerConfig) -> None:
    """Run a server in this process until it is stopped, interrupted, or idle for too long.

    Raises
    ------
    ServerError
        If one runs already, or it cannot be started.
    ProviderError
        If a requested provider is missing or unused, and there is no fallback.
    """
    try:
        server = Server(config)
    except AlreadyRunning:
        raise
    except Exception as error:
        # For the process that started it and waits for it.
        with contextlib.suppress(OSError):
            write_failure(config.directory, _reason(error), started=False)
        raise
    # Nothing is imported or loaded from the folder it was started in, not even by workers on a
    # cluster, and the folder can be removed.
    os.chdir(config.directory)

    def stop(*_: object) -> None:
        server.stop()

    previous = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run()
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _earlier_failure(directory: Path) -> str:
    """Return why the previous server ended, if it failed."""
    reason = take_failure(directory, started=True)
    return reason and f"the server before this one ended: {reason}"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, StembridgeError) else repr(error)
