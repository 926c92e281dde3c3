"""Making sockets alike everywhere, and reading messages from strangers with care."""

from __future__ import annotations

from typing import Final

import zmq

from bridge.errors import InputError
from bridge.protocol import MAX_FRAME_BYTES, Buffer
from bridge.wire.endpoints import Address
from bridge.wire.keys import KeyPair

USER: Final = "stembridge"
_MOST_FRAMES: Final = 3
# What encryption may add to a frame before ZeroMQ looks at its size.
_WRAPPING_BYTES: Final = 256
_WORTH_A_VIEW: Final = 1 << 16
_NEVER_MS: Final = 24 * 3600 * 1000


def router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Make a server's socket: refuses huge frames, and says when a peer is gone."""
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + _WRAPPING_BYTES)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # Fewer bytes than this wait for a client that does not read; see `bridge.service.server`.
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
    if address.server_key is not None and identity is None:
        raise InputError("the server asks for a key; make one with: stembridge keys new")
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + _WRAPPING_BYTES)
    # Not -1: a socket that may not reconnect at all drops what it received but was not asked
    # for yet, as soon as the other side closes. A server's last answer would be lost.
    socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
    if address.server_key is not None and identity is not None:
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
    tuple of (bytes, list of buffers, str), or None
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
            # Headers are small and looked at closely; audio stays where it was received.
            frames.append(frame.bytes if len(frame) < _WORTH_A_VIEW else frame.buffer)
    return identity, frames, user
