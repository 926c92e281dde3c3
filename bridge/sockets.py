"""Making sockets alike everywhere, and reading messages from strangers with care."""

from __future__ import annotations

from typing import Final

import zmq

from bridge.endpoints import Address
from bridge.errors import InputError
from bridge.keys import KeyPair
from bridge.protocol import MAX_FRAME_BYTES, Buffer

USER: Final = "stembridge"
_MOST_FRAMES: Final = 3


def router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Make a server's socket: refuses huge frames, and says when a peer is gone."""
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # Fewer bytes than this wait for a client that does not read; see `bridge.server`.
    socket.setsockopt(zmq.SNDHWM, 1000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
    return socket


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], address: Address, identity: KeyPair | None = None
) -> zmq.Socket[bytes]:
    """Make a client's socket. It does not reconnect: what was under way must be asked anew.

    Raises
    ------
    InputError
        If the server asks for a key and none is given.
    """
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
    if address.server_key is not None:
        if identity is None:
            raise InputError("the server asks for a key; make one with: stembridge keys new")
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, address.server_key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, identity.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, identity.secret)
    elif address.token is not None:
        socket.setsockopt_string(zmq.PLAIN_USERNAME, USER)
        socket.setsockopt_string(zmq.PLAIN_PASSWORD, address.token)
    return socket


def receive_frames(
    socket: zmq.Socket[bytes],
) -> tuple[bytes, list[Buffer], str] | None:
    """Take one message from a ROUTER socket, if one waits.

    Returns
    -------
    tuple of (bytes, list of bytes, str), or None
        The peer's routing id, its frames (one more than any message has, if it sent more), and
        the user id that authentication gave it, or "".
    """
    try:
        identity = socket.recv(zmq.NOBLOCK)
    except zmq.Again:
        return None
    frames: list[Buffer] = []
    user = ""
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        if not frames:
            try:
                user = str(frame.get("User-Id") or "")
            except zmq.ZMQError:
                user = ""
        if len(frames) < _MOST_FRAMES:
            frames.append(frame.bytes)
    return identity, frames, user
