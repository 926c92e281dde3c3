"""The sidecar's process: sockets, threads, start and end.

Threads: the job channel (this one), the control channel, two for the disk, and the one that
watches the workers. None of them computes; that happens in `bridge.service.worker`'s processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import zmq

from bridge.bundles.bundle import list_bundles
from bridge.bundles.catalogue import Catalogue
from bridge.errors import ServerError, StembridgeError
from bridge.lockfile import LockFile
from bridge.places import log_file, models_directory
from bridge.protocol import Buffer, decode, encode
from bridge.service.archive import Archive
from bridge.service.bindings import Binding, Door
from bridge.service.control import PACKAGE, Control
from bridge.service.desk import Desk
from bridge.service.logs import log, set_up
from bridge.service.metrics import Metrics
from bridge.service.pool import Pool
from bridge.service.server_config import ServerConfig
from bridge.service.service import Service
from bridge.service.sessions import Peer, Sessions
from bridge.service.spool import Spool
from bridge.service.store import Store
from bridge.service.tasks import Event, Load
from bridge.service.workers import Workers
from bridge.wire.endpoints import ADDRESS_FILE
from bridge.wire.inbox import Inbox
from bridge.wire.keys import KeyRing
from bridge.wire.messages import Failed, JobProgress, Message, Partial
from bridge.wire.sockets import receive_frames

LOCK: Final = "server.lock"
_TICK_S: Final = 0.1
_BURST: Final = 64


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
        self._lock = LockFile(config.directory / LOCK)
        if not self._lock.acquire():
            raise AlreadyRunning(f"a server is running in {config.directory} already")
        with contextlib.ExitStack() as ending:
            ending.callback(self._lock.release)
            self._set_up(config, ending)
            # From here on it is `run` that ends what was begun.
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
        self._id = secrets.token_hex(8)
        self._store = Store(config.cache, config.cache_limit_bytes)
        self._store.sweep()
        self._sessions = Sessions(config.grace_s)
        self._spool = Spool("disk", self._inbox.put)
        ending.callback(self._spool.close)
        self._catalogue = Catalogue(models_directory(config.directory), config.models)
        self._service = Service(Archive(self._store, self._spool), self._send, config.engine)
        self._desk = Desk(
            server_id=self._id,
            service=self._service,
            sessions=self._sessions,
            catalogue=self._catalogue,
            store=self._store,
            limits=config.limits,
            send=self._send,
        )
        self._door = Door(self._context, KeyRing(config.keys))
        ending.callback(self._door.close)
        self._bindings = [self._door.bind_private(config.directory, ipc=config.ipc)]
        self._bindings += [self._door.bind_remote(endpoint) for endpoint in config.binds]

    def stop(self) -> None:
        """Make `run` return; safe from any thread and from a signal handler."""
        self._stopping.set()
        self._inbox.put(lambda: None)

    def run(self) -> None:
        """Serve until stopped, or idle for too long."""
        with self._ending as ending:
            ending.callback(log, "stopped")
            pool = self._hire()
            ending.callback(pool.close)
            self._service.workers = pool
            control = Control(
                bindings=self._bindings,
                allows=self._door.allows,
                service=self._service,
                desk=self._desk,
                sessions=self._sessions,
                catalogue=self._catalogue,
                store=self._store,
                limits=self._config.limits,
                memory=self._memory,
                server_id=self._id,
                wake=lambda: self._inbox.put(lambda: None),
                stop=self.stop,
            )
            ending.callback(control.close)
            if self._config.metrics is not None:
                metrics = Metrics(self._config.metrics, control.status)
                ending.callback(metrics.close)
                log("metrics", port=metrics.port)
            self._announce()
            ending.callback((self._config.directory / ADDRESS_FILE).unlink, missing_ok=True)
            log("started", pid=os.getpid(), endpoints=self._endpoints(), version=PACKAGE)
            self._begin(pool)
            self._serve()

    def _begin(self, pool: Workers) -> None:
        """Take up what an earlier run left, and check what was asked for."""
        with self._service.lock:
            self._desk.resume_kept()
        options = self._config.engine
        if options.providers is not None:
            # Whether they are there is known before anybody waits for a job.
            for path in [*self._config.models, *list_bundles().values()][:1]:
                pool.load(Load(str(path), options))

    def _hire(self) -> Workers:
        config = self._config
        if config.ray is not None:
            from bridge.service.farm import Farm

            return Farm(config.ray, config.workers, self._post_event)
        endpoint = f"ipc://{config.directory}/workers.sock" if config.ipc else "tcp://127.0.0.1:*"
        return Pool(endpoint, config.workers, self._post_event)

    def _endpoints(self) -> list[str]:
        return [binding.address.control for binding in self._bindings]

    def _announce(self) -> None:
        """Tell clients where the server is; the file appears whole or not at all."""
        path = self._config.directory / ADDRESS_FILE
        partial_path = path.with_suffix(".new")
        partial_path.unlink(missing_ok=True)
        partial_path.touch(mode=0o600)
        partial_path.write_bytes(msgspec.json.encode(self._bindings[0].address))
        partial_path.replace(path)

    def _send(self, peer: Peer, message: Message, payload: Buffer | None) -> None:
        self._outbox.append((peer, message, payload))

    def _post_event(self, event: Event, payload: Buffer | None) -> None:
        self._inbox.put(partial(self._service.worker_event, event, payload))

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._inbox.fileno(), zmq.POLLIN)
        for binding in self._bindings:
            poller.register(binding.jobs, zmq.POLLIN)
        last_tick = idle_since = time.monotonic()
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
                    self._desk.tick()
                if self._sessions or any(job.open for job in self._service.table.jobs.values()):
                    idle_since = now
            self._flush()
            if self._service.provider_error is not None:
                log("provider", logging.ERROR, error=str(self._service.provider_error))
                raise self._service.provider_error
            timeout_s = self._config.idle_timeout_s
            if timeout_s is not None and now - idle_since > timeout_s:
                log("idle for too long", seconds=timeout_s)
                return

    def _receive(self, index: int, binding: Binding) -> None:
        for _ in range(_BURST):  # others get their turn however much one client sends
            received = receive_frames(binding.jobs)
            if received is None:
                return
            identity, frames, _ = received
            peer = (index, identity)
            try:
                message, payload = decode(frames)
                with self._service.lock:
                    self._desk.handle(peer, message, payload)
            except StembridgeError as error:
                failed = Failed(code=error.code, message=str(error))
                self._outbox.append((peer, failed, None))

    def _flush(self) -> None:
        while self._outbox:
            peer, message, payload = self._outbox.popleft()
            index, identity = peer
            frames = [identity, *encode(message, payload)]
            try:
                self._bindings[index].jobs.send_multipart(frames, zmq.NOBLOCK, copy=False)
            except zmq.Again:
                # A client that does not read. Progress is repeated anyway; anything else it
                # would miss for good, so that it has to begin again.
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
                self._desk.end_session(session.id)


class AlreadyRunning(ServerError):
    """Another server holds the lock."""


def serve(config: ServerConfig) -> None:
    """Run a server in this process until it is stopped, interrupted, or idle for too long.

    Raises
    ------
    ServerError
        If one runs already, or it cannot be started.
    ProviderError
        If a provider asked for is not there or not really used, and nothing may stand in.
    """
    server = Server(config)

    def leave(*_: object) -> None:
        server.stop()

    previous = {name: signal.signal(name, leave) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run()
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
