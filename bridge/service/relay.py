"""The relay between clients and the server's ZeroMQ sockets, which bounds what they may use.

ZeroMQ buffers every part of an unfinished message, accepts any number of connections, and aborts
the process when it runs out of file descriptors. So clients connect to the relay, which passes
their bytes on to ZeroMQ through a private socket, unchanged. It counts connections and bytes,
stops reading from a peer whose bytes the server has not dealt with, and disconnects one that does
not finish its message.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import zmq

from bridge.errors import ServerError
from bridge.service.logs import log
from bridge.wire.codec import CHUNK_BYTES
from bridge.wire.messages import WINDOW_CHUNKS
from bridge.wire.sockets import Inbox, tcp_address

# More than the largest message and the beginning of the next.
UNFINISHED_BYTES: Final = 8 << 20
# More than one request may have in flight.
HELD_BYTES: Final = (WINDOW_CHUNKS + 1) * CHUNK_BYTES
# A peer that has sent that much and still not finished a message after this long never will.
_UNFINISHED_S: Final = 2.0
# A connection that has not greeted by then is no client: ours greet at once.
_SILENT_S: Final = 3.0
_GREETING: Final = b"\xff"  # the first byte of every ZMTP connection since version 2
# Read at a time: a quarter of a chunk, so that peers get turns within one.
_PIECE_BYTES: Final = 1 << 20
_BACKLOG: Final = 128  # the usual limit of the system
# How often deadlines are looked at; the shortest of them is _PAUSE_S.
_TICK_S: Final = 0.25
# No connections are accepted for this long once file descriptors are used up.
_PAUSE_S: Final = 0.2
# How long a connection that is ending may still send what it was given.
_LINGER_S: Final = 1.0
# ZeroMQ accepts and greets in its own thread, within milliseconds unless the machine is busy.
_ACCEPT_S: Final = 2.0
# A generous bound on what a frame costs on the wire beyond its content.
_FRAME_OVERHEAD_BYTES: Final = 64

# Descriptors reserved for ZeroMQ to accept with: more than one connection takes.
_SPARE: Final = 4
# What the server has open without any client, rounded up generously.
_OWN_DESCRIPTORS: Final = 64
# Two ends here and one of ZeroMQ's.
_PER_CONNECTION: Final = 3
_FEWEST: Final = 16
_MOST: Final = 1024 if sys.platform != "win32" else 200  # of what `select` takes there


@dataclass
class _Entrance:
    """A listening socket, and the address of the ZeroMQ socket behind it."""

    listener: socket.socket
    local: bool
    address: str | tuple[str, int]


@dataclass(eq=False)
class Connection:
    """One client's connection to one channel.

    Attributes
    ----------
    local : bool
        Whether it came through the private sockets of this user.
    proven : bool
        Whether its last message came from an authorised peer; others are dropped first.
    unfinished_bytes : int
        Passed on to ZeroMQ, and not yet received from it as a message.
    held_bytes : int
        Received, and not yet dealt with: audio on its way to the disk.
    unread_bytes : int
        Given to ZeroMQ for this client, and not yet sent out.
    """

    relay: Relay
    local: bool
    outer: socket.socket
    entrance: _Entrance
    proven: bool = False
    unfinished_bytes: int = 0
    held_bytes: int = 0
    unread_bytes: int = 0
    inner: socket.socket | None = None
    name: object = None
    incoming: memoryview = field(default_factory=lambda: memoryview(b""))
    outgoing: memoryview = field(default_factory=lambda: memoryview(b""))
    changed_s: float = field(default_factory=time.monotonic)
    ending_s: float | None = None
    paused: bool = False

    @property
    def full(self) -> bool:
        """Whether nothing more may be read from the client for now."""
        return self.unfinished_bytes >= UNFINISHED_BYTES or self.held_bytes >= HELD_BYTES

    def took(self, frames: int, size_bytes: int, *, proven: bool) -> None:
        """Note that a message of the client was received from ZeroMQ."""
        with self.relay.lock:
            self.proven = proven
            self.changed_s = time.monotonic()
            taken = size_bytes + frames * _FRAME_OVERHEAD_BYTES
            self.unfinished_bytes = max(0, self.unfinished_bytes - taken)
        self.relay.resume(self)

    def hold(self, size_bytes: int) -> None:
        """Note that received bytes wait for the disk."""
        with self.relay.lock:
            self.held_bytes += size_bytes

    def let_go(self, size_bytes: int) -> None:
        """Note that held bytes were dealt with."""
        with self.relay.lock:
            self.held_bytes -= size_bytes
        self.relay.resume(self)

    def gave(self, size_bytes: int) -> None:
        """Note that bytes for the client were given to ZeroMQ."""
        with self.relay.lock:
            self.unread_bytes += size_bytes


class Relay:
    """Accepts connections and passes their bytes on, in a thread of its own.

    Parameters
    ----------
    directory : Path
        The server's private directory, for the sockets to ZeroMQ.
    ipc : bool
        Whether they are ipc sockets there, or loopback ports.
    """

    def __init__(self, directory: Path, *, ipc: bool) -> None:
        self._directory = directory
        self._ipc = ipc
        self.most = _connection_limit()
        self.lock = threading.Lock()
        self._entrances: list[_Entrance] = []
        self._connections: dict[Connection, None] = {}  # oldest first
        self._by_name: dict[object, Connection] = {}
        self._names = itertools.count()
        self._commands: Inbox[Callable[[], None]] = Inbox()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._commands.fileno(), selectors.EVENT_READ, self._run_commands)
        self._buffer = bytearray(_PIECE_BYTES)
        self._paused_until_s = 0.0
        # Reserved for ZeroMQ, which aborts the process if it cannot accept a connection.
        self._spare: list[int] = []
        self._ending_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="relay")

    # -- called by the server's threads ----------------------------------------------------

    def listen(self, target: zmq.Socket[bytes], endpoint: str, *, local: bool) -> str:
        """Listen at an endpoint on behalf of a ROUTER socket; return the endpoint with its port.

        Raises
        ------
        ServerError
            If the endpoint cannot be listened at.
        """
        try:
            listener, bound = _listener(endpoint)
        except (OSError, UnicodeError) as error:
            raise ServerError(f"cannot listen at {endpoint}: {error}") from error
        address: str | tuple[str, int]
        if self._ipc:
            address = f"{self._directory}/r{len(self._entrances)}.sock"
            target.bind(f"ipc://{address}")
        else:
            address = ("127.0.0.1", target.bind_to_random_port("tcp://127.0.0.1"))
        self._entrances.append(_Entrance(listener, local, address))
        return bound

    def start(self) -> None:
        """Begin to accept."""
        self._listen()
        self._spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(_SPARE)]
        self._thread.start()

    def connection(self, descriptor: int) -> Connection | None:
        """Return the connection behind a descriptor of ZeroMQ's, if it is still there."""
        try:
            end = socket.socket(fileno=descriptor)
            try:
                return self._by_name.get(end.getpeername())
            finally:
                end.detach()  # the descriptor stays ZeroMQ's
        except OSError:
            return None

    def drop(self, connection: Connection) -> None:
        """Disconnect a client."""
        self._commands.put(lambda: self._close(connection))

    def close(self) -> None:
        """End the thread; what was given to ZeroMQ is sent first, if clients read it."""
        self._commands.put(self._begin_end)
        if self._thread.ident is not None:
            self._thread.join()
        for connection in list(self._connections):
            self._close(connection)
        for entrance in self._entrances:
            entrance.listener.close()
        for spare in self._spare:
            os.close(spare)
        self._selector.close()
        self._commands.close()

    def resume(self, connection: Connection) -> None:
        """Read from a client again, if it was paused and no longer needs to be."""
        if connection.paused and not connection.full:
            self._commands.put(lambda: self._watch(connection))

    # -- in the relay's thread -------------------------------------------------------------

    def _run(self) -> None:
        while self._ending_s is None or (
            self._connections and time.monotonic() - self._ending_s < _LINGER_S
        ):
            for key, events in self._selector.select(_TICK_S):
                if isinstance(key.data, tuple):
                    connection, side = key.data
                    self._move(connection, side, events)
                else:
                    key.data()
            self._look_after()

    def _run_commands(self) -> None:
        for command in self._commands.drain():
            command()

    def _begin_end(self) -> None:
        self._ending_s = time.monotonic()
        for connection in list(self._connections):
            if connection.inner is None:
                self._close(connection)

    def _look_after(self) -> None:
        """Disconnect peers that stay silent or never finish a message."""
        now = time.monotonic()
        for connection in list(self._connections):
            if connection.inner is None:
                if now - connection.changed_s > _SILENT_S:
                    self._close(connection)
            elif connection.ending_s is not None:
                if now - connection.ending_s > _LINGER_S:
                    self._close(connection)
            elif (
                connection.unfinished_bytes >= UNFINISHED_BYTES
                and now - connection.changed_s > _UNFINISHED_S
            ):
                log("unfinished message", logging.WARNING, bytes=connection.unfinished_bytes)
                self._close(connection)
        if self._paused_until_s and now > self._paused_until_s:
            self._paused_until_s = 0.0
            self._refill()
            self._listen()

    def _listen(self) -> None:
        for one in self._entrances:
            self._selector.register(one.listener, selectors.EVENT_READ, partial(self._accept, one))

    def _accept(self, entrance: _Entrance) -> None:
        if self._ending_s is not None:
            return
        try:
            outer, _ = entrance.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as error:
            self._out_of_descriptors(error)
            return
        outer.setblocking(False)
        if outer.family != socket.AF_UNIX:
            outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, entrance.local, outer, entrance)
        if not self._make_room(entrance.local):
            outer.close()
            return
        with self.lock:
            self._connections[connection] = None
        self._watch(connection)

    def _make_room(self, local: bool) -> bool:
        """Make room for another connection; half of all are reserved for this user's own clients.

        The oldest peer that has not proven itself is dropped.
        """
        most = self.most if local else self.most // 2
        peers = [one for one in self._connections if local or not one.local]
        if len(peers) < most:
            return True
        unproven = next((one for one in peers if not one.proven), None)
        if unproven is None:
            log("too many connections", logging.WARNING, connections=len(peers))
            return False
        self._close(unproven)
        return True

    def _out_of_descriptors(self, error: OSError) -> None:
        """Drop unproven peers, and accept nobody for a moment."""
        if not self._paused_until_s:
            log("cannot accept a connection", logging.WARNING, error=str(error))
        for connection in [one for one in self._connections if not one.proven]:
            self._close(connection)
        if not self._paused_until_s:
            self._paused_until_s = time.monotonic() + _PAUSE_S
            for one in self._entrances:
                self._selector.unregister(one.listener)

    def _open_inner(self, connection: Connection) -> bool:
        """Connect to ZeroMQ for a client that speaks its protocol."""
        if not self._refill():
            log("out of file descriptors", logging.WARNING)
            return False
        try:
            while self._spare:
                os.close(self._spare.pop())
            inner = self._connect(connection.entrance.address)
            connection.inner, connection.name = inner, inner.getsockname()
            self._by_name[connection.name] = connection
            # ZeroMQ greets once it has accepted, which it can with the descriptors released above.
            return bool(select.select([inner], [], [], _ACCEPT_S)[0])
        except OSError as error:
            log("cannot serve a connection", logging.WARNING, error=str(error))
            return False
        finally:
            self._refill()

    def _connect(self, address: str | tuple[str, int]) -> socket.socket:
        """Connect to ZeroMQ, with a name by which `connection` finds it again."""
        if isinstance(address, tuple):
            inner = socket.create_connection(address)
        else:
            inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            name = self._directory / f"c{next(self._names)}.sock"
            try:
                name.unlink(missing_ok=True)
                inner.bind(str(name))
                inner.connect(address)
            except BaseException:
                inner.close()
                raise
            finally:
                name.unlink(missing_ok=True)
        inner.setblocking(False)
        return inner

    def _refill(self) -> bool:
        """Reserve spare descriptors again; say whether there are enough to go on."""
        with contextlib.suppress(OSError):
            while len(self._spare) < _SPARE:
                self._spare.append(os.open(os.devnull, os.O_RDONLY))
        return len(self._spare) > _SPARE // 2

    def _move(self, connection: Connection, side: str, events: int) -> None:
        if connection not in self._connections:
            return
        try:
            if side == "outer":
                if events & selectors.EVENT_READ:
                    self._read_outer(connection)
                if events & selectors.EVENT_WRITE:
                    self._write_outer(connection)
            else:
                if events & selectors.EVENT_READ:
                    self._read_inner(connection)
                if events & selectors.EVENT_WRITE:
                    self._write_inner(connection)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._close(connection)
            return
        if connection in self._connections:
            self._watch(connection)

    def _read_outer(self, connection: Connection) -> None:
        size_bytes = connection.outer.recv_into(self._buffer)
        data = memoryview(self._buffer)[:size_bytes]
        if connection.inner is None and (
            bytes(data[:1]) != _GREETING or not self._open_inner(connection)
        ):
            self._close(connection)
        elif not data:
            connection.outgoing = memoryview(b"")
            connection.ending_s = time.monotonic()
        else:
            with self.lock:
                connection.unfinished_bytes += len(data)
                connection.changed_s = time.monotonic()
            connection.incoming = data
            self._write_inner(connection)
            connection.incoming = memoryview(bytes(connection.incoming))

    def _write_inner(self, connection: Connection) -> None:
        if connection.inner is not None and connection.incoming:
            with contextlib.suppress(BlockingIOError):
                sent = connection.inner.send(connection.incoming)
                connection.incoming = connection.incoming[sent:]

    def _read_inner(self, connection: Connection) -> None:
        if connection.inner is None:
            return
        size_bytes = connection.inner.recv_into(self._buffer)
        if not size_bytes:
            connection.incoming = memoryview(b"")
            connection.ending_s = time.monotonic()
            return
        connection.outgoing = memoryview(self._buffer)[:size_bytes]
        self._write_outer(connection)
        connection.outgoing = memoryview(bytes(connection.outgoing))

    def _write_outer(self, connection: Connection) -> None:
        if not connection.outgoing:
            return
        with contextlib.suppress(BlockingIOError):
            sent = connection.outer.send(connection.outgoing)
            connection.outgoing = connection.outgoing[sent:]
            with self.lock:
                connection.unread_bytes = max(0, connection.unread_bytes - sent)

    def _watch(self, connection: Connection) -> None:
        """Register for what can happen next on both sides; close when an ending one is drained."""
        if connection not in self._connections:
            return
        outer = inner = 0
        ending = connection.ending_s is not None
        if connection.outgoing:
            outer |= selectors.EVENT_WRITE
        elif not ending:
            inner |= selectors.EVENT_READ
        if connection.incoming:
            inner |= selectors.EVENT_WRITE
        elif not ending:
            # Paused first, so that a thread that makes room in between knows to resume it.
            connection.paused = True
            if not connection.full:
                connection.paused = False
                outer |= selectors.EVENT_READ
        if ending and not connection.outgoing and not connection.incoming:
            self._close(connection)
            return
        self._register(connection, connection.outer, "outer", outer)
        if connection.inner is not None:
            self._register(connection, connection.inner, "inner", inner)

    def _register(self, connection: Connection, one: socket.socket, side: str, events: int) -> None:
        known = self._selector.get_map().get(one.fileno())
        if known is None:
            if events:
                self._selector.register(one, events, (connection, side))
        elif not events:
            self._selector.unregister(one)
        elif known.events != events:
            self._selector.modify(one, events, (connection, side))

    def _close(self, connection: Connection) -> None:
        with self.lock:
            if self._connections.pop(connection, 0) == 0:
                return
        self._by_name.pop(connection.name, None)
        for one in (connection.outer, connection.inner):
            if one is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(one)
                one.close()


def _connection_limit() -> int:
    """Raise the limit of file descriptors as far as allowed; return how many connections fit."""
    if sys.platform == "win32":
        return _MOST
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in (resource.RLIM_INFINITY, hard):
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 16)
        # macOS allows fewer than it says.
        for limit in (wanted, 10_240):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                soft = limit
                break
    if soft == resource.RLIM_INFINITY:
        return _MOST
    return max(_FEWEST, min(_MOST, (soft - _OWN_DESCRIPTORS) // _PER_CONNECTION))


def _listener(endpoint: str) -> tuple[socket.socket, str]:
    """Listen at an ipc or TCP endpoint; return the socket, and the endpoint with its port."""
    if endpoint.startswith("ipc://"):
        path = Path(endpoint.removeprefix("ipc://"))
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: str | tuple[str, int] = str(path)
    else:
        host, port = tcp_address(endpoint)
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1
        )
        address = ("" if host == "*" else host.strip("[]"), 0 if port == "*" else int(port))
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    if isinstance(address, str):
        return listener, endpoint
    host, port = listener.getsockname()[:2]
    return listener, f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
