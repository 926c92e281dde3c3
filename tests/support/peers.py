"""A peer that speaks the protocol by hand, to do what our client never would."""

from __future__ import annotations

import hashlib
from types import TracebackType
from typing import TypeVar

import numpy as np
import zmq

from bridge.connection.local import LocalSidecar
from bridge.request import Prompt
from bridge.wire.codec import VERSION, Buffer, decode, encode
from bridge.wire.messages import (
    AudioInfo,
    Hello,
    Join,
    Joined,
    Message,
    ModelRef,
    Ping,
    Submit,
    Welcome,
)
from bridge.wire.sockets import Address
from tests.support.sidecars import RATE, Sidecar

M = TypeVar("M", bound=Message)


class Peer:
    """Two sockets and no manners of their own."""

    def __init__(self, address: Address) -> None:
        self.context = zmq.Context()
        self.control = self.context.socket(zmq.DEALER)
        self.jobs = self.context.socket(zmq.DEALER)
        for socket in (self.control, self.jobs):
            socket.linger = 0
        self.control.connect(address.control)
        self.jobs.connect(str(address.jobs))
        self.session = ""

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.control.close()
        self.jobs.close()
        self.context.term()

    def hello(self) -> Welcome:
        self.tell(Hello(protocol=VERSION, client="test"))
        welcome = self.hear(Welcome)
        self.session = welcome.session
        self.send(Join(session=self.session))
        self.receive(Joined)
        return welcome

    def tell(self, message: Message) -> None:
        self.control.send_multipart(encode(message))

    def hear(self, kind: type[M]) -> M:
        return self._await(self.control, kind)

    def send(self, message: Message, payload: Buffer | None = None) -> None:
        self.jobs.send_multipart(encode(message, payload))

    def receive(self, kind: type[M]) -> M:
        return self._await(self.jobs, kind)

    def _await(self, socket: zmq.Socket[bytes], kind: type[M]) -> M:
        """Wait for a message of a kind, with heartbeats meanwhile."""
        while True:
            if not socket.poll(200):
                if self.session:
                    self.tell(Ping(session=self.session, number=0))
                continue
            message, _ = decode(socket.recv_multipart())
            if isinstance(message, kind):
                return message

    def silent(self, patience_s: float = 0.3) -> bool:
        return not self.jobs.poll(int(1000 * patience_s))


def peer(server: Sidecar) -> Peer:
    """A peer at a server of the tests."""
    return Peer(LocalSidecar(server.directory, server.cache).address())


def submission(
    server: Sidecar, mixture: np.ndarray, request: int = 1, text: str = "half", **options
) -> Submit:
    """A request for one stem, with the bundle of formulas."""
    sha256 = hashlib.sha256(mixture.tobytes()).hexdigest()
    reference = LocalSidecar(server.directory, server.cache).reference(server.bundle)
    return Submit(
        request=request,
        model=ModelRef(reference.name, reference.sha256),
        audio=AudioInfo(sha256, RATE, *mixture.shape),
        prompts=(Prompt(text),),
        **options,
    )
