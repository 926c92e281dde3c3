"""Asking a server one thing on its control channel: what status, stop, jobs, cancel, logs need."""

from __future__ import annotations

from typing import TypeVar

import zmq

from bridge.errors import ProtocolError, ServerError, from_code
from bridge.protocol import decode, encode
from bridge.wire.endpoints import Address
from bridge.wire.messages import Failed, Message
from bridge.wire.sockets import dealer

M = TypeVar("M", bound=Message)


def ask(address: Address, question: Message, kind: type[M], timeout_s: float = 3.0) -> M:
    """Send one control message and wait for the answer.

    Parameters
    ----------
    address : Address
        Of the server.
    question : Message
        One of `bridge.wire.control_messages`.
    kind : type
        The answer to expect.
    timeout_s : float
        How long to wait.

    Raises
    ------
    ServerError
        If nothing answers.
    StembridgeError
        What the server answered, if it refused.
    """
    with zmq.Context() as context, dealer(context, address) as socket:
        with socket.get_monitor_socket(zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED) as monitor:
            socket.connect(address.control)
            socket.send_multipart(encode(question))
            zmq.select([socket, monitor], [], [], timeout_s)
            socket.disable_monitor()
        # A server that leaves answers first, and what came before the end can still be read.
        if not socket.poll(0):
            raise ServerError(f"no server answers at {address.control}")
        answer, _ = decode(socket.recv_multipart())
    if isinstance(answer, Failed):
        raise from_code(answer.code, answer.message)
    if not isinstance(answer, kind):
        raise ProtocolError(f"expected {kind.__name__}, got {type(answer).__name__}")
    return answer
