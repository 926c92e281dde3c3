"""Addresses of servers, ZeroMQ sockets with their options, and careful reading of messages."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
import zmq
from msgspec import Struct

from bridge.errors import InputError, ServerError, foreign_errors
from bridge.wire.codec import MAX_FRAME_BYTES, Buffer
from bridge.wire.keys import KeyPair

ADDRESS_FILE: Final = "server.json"
_TCP: Final = re.compile(r"tcp://(\[[^\]]+\]|[^:/]+):(\d+|\*)")


class Address(Struct, frozen=True):
    """Where a server is.

    Attributes
    ----------
    control : str
        ZeroMQ endpoint of the control channel.
    jobs : str or None
        That of the job channel; None if the server's greeting gives its port.
    token : str or None
        Secret CURVE key for this user's clients, where a loopback port stands in for a private
        socket; new at every start of the server.
    server_key : str or None
        Public CURVE key that the server must prove to hold.
    """

    control: str
    jobs: str | None = None
    token: str | None = None
    server_key: str | None = None

    def jobs_endpoint(self, port: int | None) -> str:
        """Return the endpoint of the job channel, given the port in the greeting."""
        if self.jobs is not None:
            return self.jobs
        host = self.control.rpartition(":")[0]
        return f"{host}:{port}"


def private_address(directory: Path) -> Address:
    """Return the ipc address of the sidecar with that runtime directory."""
    return Address(f"ipc://{directory}/control.sock", f"ipc://{directory}/jobs.sock")


def find_address(directory: Path, *, ipc: bool) -> Address:
    """Return where the sidecar with that runtime directory listens.

    Without ipc its ports and keys are in a file in the directory; if there is none yet, the
    address is one where no server answers.
    """
    if ipc:
        return private_address(directory)
    try:
        return msgspec.json.decode((directory / ADDRESS_FILE).read_bytes(), type=Address)
    except (OSError, msgspec.MsgspecError):
        return Address("tcp://127.0.0.1:1", "tcp://127.0.0.1:1")


def tcp_address(endpoint: str) -> tuple[str, str]:
    """Check a TCP endpoint and split it into host and port.

    Raises
    ------
    InputError
        If it is not of the form ``tcp://HOST:PORT``; the port may be ``*``.
    """
    match = _TCP.fullmatch(endpoint)
    if match is None or (match[2] != "*" and not 0 < int(match[2]) < 65536):
        raise InputError(f"{endpoint!r}: expected tcp://HOST:PORT, e.g. tcp://0.0.0.0:7780")
    return match[1], match[2]


def is_loopback(host: str) -> bool:
    """Say whether a host can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_MOST_FRAMES: Final = 3
# What encryption may add to a frame before ZeroMQ checks its size.
_WRAPPING_BYTES: Final = 256
_WORTH_A_VIEW: Final = 1 << 16
_NEVER_MS: Final = 24 * 3600 * 1000
# A client's context and two channels with their monitors take 15, and a start of a sidecar 4.
_CLIENT_FILES: Final = 24
T = TypeVar("T")


def router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Make a server's socket, which refuses huge frames and reports peers that are gone."""
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + _WRAPPING_BYTES)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # Fewer bytes than this wait for a client that does not read; see `bridge.service.server`.
    socket.setsockopt(zmq.SNDHWM, 1000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
    return socket


def check_free_files() -> None:
    """Return if this process may open as many files as a client's sockets need.

    To be called before sockets are made: where files run out in the middle, ZeroMQ ends the whole
    process, which may be somebody's DAW.

    Raises
    ------
    ServerError
        It may not.
    """
    opened: list[int] = []
    try:
        with foreign_errors("cannot make the sockets for a server", ServerError):
            for _ in range(_CLIENT_FILES):
                opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], address: Address, identity: KeyPair | None = None
) -> zmq.Socket[bytes]:
    """Make a client's socket. It does not reconnect, since what was in flight must be asked anew.

    Raises
    ------
    InputError
        If the server asks for a key and none is given.
    """
    if address.token is not None and address.server_key is not None:
        public = zmq.curve_public(address.token.encode()).decode()
        identity = KeyPair(public, address.token)
    if address.server_key is not None and identity is None:
        raise InputError("the server asks for a key; make one with: stembridge keys new")
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + _WRAPPING_BYTES)
    # Not -1: a socket that never reconnects drops what was received but not read as soon as
    # the other side closes, and a server's last answer would be lost.
    socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
    if address.server_key is not None and identity is not None:
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, address.server_key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, identity.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, identity.secret)
    return socket


@dataclass
class Received:
    """One message from a ROUTER socket.

    Attributes
    ----------
    identity : bytes
        The peer's routing id.
    frames : list of buffers
        At most one more than any message has.
    user : str
        Public key of an authenticated peer, or "".
    number : int
        Descriptor of the connection it came through; -1 if unknown.
    count, size_bytes : int
        Of all its frames.
    """

    identity: bytes
    frames: list[Buffer] = field(default_factory=list)
    user: str = ""
    number: int = -1
    count: int = 0
    size_bytes: int = 0


def receive(socket: zmq.Socket[bytes]) -> Received | None:
    """Take one message from a ROUTER socket, if one waits."""
    try:
        received = Received(socket.recv(zmq.NOBLOCK))
    except zmq.Again:
        return None
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        if received.count == 0:
            with contextlib.suppress(zmq.ZMQError):
                received.number = int(frame.get(zmq.SRCFD))
            with contextlib.suppress(zmq.ZMQError):
                received.user = str(frame.get("User-Id") or "")
        if received.count < _MOST_FRAMES:
            # Headers are small and copied; audio stays where it was received.
            view = frame.bytes if len(frame) < _WORTH_A_VIEW else frame.buffer
            received.frames.append(view)
        received.count += 1
        received.size_bytes += len(frame)
    return received


class Inbox(Generic[T]):
    """Items put by any thread, drained by the one that polls `reader`.

    Attributes
    ----------
    reader : socket
        Readable while items wait.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor of `reader`."""
        return self.reader.fileno()

    def put(self, item: T) -> None:
        """Append an item and wake the poller; after `close` the item is dropped."""
        self._items.append(item)
        # A full socket buffer holds enough wake-ups already.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def drain(self) -> list[T]:
        """Take all items, in the order they were put."""
        with contextlib.suppress(OSError):
            while self.reader.recv(4096):
                pass
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items

    def close(self) -> None:
        """Close both ends."""
        self.reader.close()
        self._writer.close()
