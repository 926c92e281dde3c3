"""One connection of a client to one server: two sockets, their monitors, and the heartbeat."""

from __future__ import annotations

import time
from typing import Final, TypeVar

import zmq

from bridge.connection.exchange import Outgoing
from bridge.errors import ProtocolError, from_code
from bridge.protocol import HEARTBEAT_S, SILENCE_S, Buffer, decode, encode
from bridge.wire.control_messages import Ping, Pong, Welcome
from bridge.wire.endpoints import Address
from bridge.wire.keys import KeyPair
from bridge.wire.messages import Failed, Joined, Message
from bridge.wire.sockets import dealer

M = TypeVar("M")

_EVENTS: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_AUTH


class Lost(Exception):
    """The connection is gone, or was never made."""


class Channel:
    """One connection to one server: the two sockets, their monitors and the heartbeat."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: Address,
        identity: KeyPair | None,
        inbox: int,
    ) -> None:
        self._context = context
        self._identity = identity
        self._address = address
        self._inbox = inbox
        self._poller = zmq.Poller()
        self._poller.register(inbox, zmq.POLLIN)
        self._monitors: list[zmq.Socket[bytes]] = []
        self._sockets: list[zmq.Socket[bytes]] = []
        self._jobs: zmq.Socket[bytes] | None = None
        try:
            self._control = self._connect(address.control)
        except BaseException:
            self.__exit__()  # nobody else could, of a channel that was never made
            raise
        self._heard_s = time.monotonic()
        self._pinged_s = 0.0
        self._number = 0
        self.alive = True

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        for socket in self._sockets:
            socket.disable_monitor()
            socket.close()
        for monitor in self._monitors:
            monitor.close()

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = dealer(self._context, self._address, self._identity)
        self._sockets.append(socket)
        monitor = socket.get_monitor_socket(_EVENTS)
        self._monitors.append(monitor)
        self._poller.register(monitor, zmq.POLLIN)
        self._poller.register(socket, zmq.POLLIN)
        socket.connect(endpoint)
        return socket

    def join(self, welcome: Welcome) -> None:
        """Connect the job channel."""
        self._jobs = self._connect(self._address.jobs_endpoint(welcome.jobs_port))

    def tell(self, message: Message) -> None:
        """Send on the control channel."""
        self._push(self._control, message, None)

    def send(self, outgoing: list[Outgoing]) -> None:
        """Send on the job channel."""
        for message, payload in outgoing:
            if self._jobs is not None:
                self._push(self._jobs, message, payload)

    def _push(self, socket: zmq.Socket[bytes], message: Message, payload: Buffer | None) -> None:
        try:
            socket.send_multipart(encode(message, payload), zmq.NOBLOCK, copy=payload is None)
        except zmq.Again:
            raise Lost("the server takes no messages") from None

    def wait_control(self, kind: type[M]) -> M:
        """Wait for one answer on the control channel."""
        deadline_s = time.monotonic() + SILENCE_S
        while True:
            self._wait(deadline_s)
            message = self._receive(self._control)
            if message is None:
                continue
            if isinstance(message[0], Failed):
                raise from_code(message[0].code, message[0].message)
            if isinstance(message[0], kind):
                self._heard_s = time.monotonic()
                return message[0]

    def wait_joined(self) -> None:
        """Wait until the server has joined the job channel to the session."""
        deadline_s = time.monotonic() + SILENCE_S
        while True:
            self._wait(deadline_s)
            message = None if self._jobs is None else self._receive(self._jobs)
            if message is not None and isinstance(message[0], Joined):
                return
            if message is not None and isinstance(message[0], Failed):
                raise Lost(message[0].message)

    def _wait(self, deadline_s: float) -> None:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise Lost("the server does not answer")
        # The inbox may be readable all the time; it is emptied when the connection stands.
        sockets = [one for one in (self._control, self._jobs, *self._monitors) if one is not None]
        zmq.select(sockets, [], [], left_s)
        self._check_monitors()

    def _check_monitors(self) -> None:
        for monitor in self._monitors:
            if monitor.poll(0):
                raise Lost("the connection was closed")

    def poll(self, session: str) -> list[tuple[Message, Buffer | None]]:
        """Wait for something to happen, and return the messages of the job channel.

        Raises
        ------
        Lost
            If the connection closed, the server fell silent, or it knows the session no more.
        """
        now = time.monotonic()
        if now - self._pinged_s >= HEARTBEAT_S:
            self._number += 1
            self._pinged_s = now
            self.tell(Ping(session=session, number=self._number))
        ready = dict(
            self._poller.poll(int(1000 * max(0.0, self._pinged_s + HEARTBEAT_S - now)) + 1)
        )
        while (answer := self._receive(self._control)) is not None:
            self._heard_s = time.monotonic()
            if isinstance(answer[0], Pong) and not answer[0].known:
                raise Lost("the server does not know this session")
        messages: list[tuple[Message, Buffer | None]] = []
        if self._jobs is not None and self._jobs in ready:
            while len(messages) < 64 and (message := self._receive(self._jobs)) is not None:
                messages.append(message)
        if not messages:
            self._check_monitors()
            if time.monotonic() - self._heard_s > SILENCE_S:
                raise Lost("the server fell silent")
        return messages

    def _receive(self, socket: zmq.Socket[bytes]) -> tuple[Message, Buffer | None] | None:
        try:
            frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        try:
            return decode([frame.buffer for frame in frames])
        except ProtocolError as error:
            raise Lost(str(error)) from error
