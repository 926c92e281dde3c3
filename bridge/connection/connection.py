"""The client's connection to a server, kept alive and renewed in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import zmq

from bridge.connection.job import JobHandle, Outgoing, Request
from bridge.connection.local import Location
from bridge.errors import (
    Cancelled,
    ProtocolError,
    ServerError,
    StembridgeError,
    foreign_errors,
    from_code,
)
from bridge.wire.codec import (
    HEARTBEAT_S,
    SILENCE_S,
    VERSION,
    Buffer,
    decode,
    encode,
    major,
    product,
)
from bridge.wire.keys import KeyPair
from bridge.wire.messages import (
    Bye,
    Cancel,
    Failed,
    Hello,
    Join,
    Joined,
    Message,
    Ping,
    Pong,
    Release,
    Welcome,
)
from bridge.wire.sockets import Address, Inbox, check_free_files, dealer

_EVENTS: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
# Short beside the start of a sidecar, for which a client waits that way.
_RETRY_S: Final = 0.03
# A request during which this many servers ended is likely why they did.
_MOST_ENDS: Final = 3
M = TypeVar("M", bound=Message)


class ConnectionLost(Exception):
    """The connection broke, or could not be made."""


class Channels:
    """One attempt at a connection: the control and the job channel, and the heartbeat."""

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
            self.__exit__()  # nobody else can close what was never returned
            raise
        self._heard_s = time.monotonic()
        self._pinged_s = 0.0
        self._number = 0

    def __enter__(self) -> Channels:
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

    def send_control(self, message: Message) -> None:
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
            raise ConnectionLost("the server takes no messages") from None

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
        """Wait until the server has assigned the job channel to the session."""
        deadline_s = time.monotonic() + SILENCE_S
        while True:
            self._wait(deadline_s)
            message = None if self._jobs is None else self._receive(self._jobs)
            if message is not None and isinstance(message[0], Joined):
                return
            if message is not None and isinstance(message[0], Failed):
                raise ConnectionLost(message[0].message)

    def _wait(self, deadline_s: float) -> None:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise ConnectionLost("the server does not answer")
        # Not on the inbox, which stays readable until it is drained once connected.
        sockets = [one for one in (self._control, self._jobs, *self._monitors) if one is not None]
        zmq.select(sockets, [], [], left_s)
        self._check_monitors()

    def _check_monitors(self) -> None:
        for monitor in self._monitors:
            if monitor.poll(0):
                raise ConnectionLost("the connection was closed")

    def poll(self, session: str) -> list[tuple[Message, Buffer | None]]:
        """Wait for something to happen, and return the messages on the job channel.

        Raises
        ------
        ConnectionLost
            If the connection closed, the server fell silent, or it no longer knows the session.
        """
        now = time.monotonic()
        if now - self._pinged_s >= HEARTBEAT_S:
            self._number += 1
            self._pinged_s = now
            self.send_control(Ping(session=session, number=self._number))
        ready = dict(
            self._poller.poll(int(1000 * max(0.0, self._pinged_s + HEARTBEAT_S - now)) + 1)
        )
        while (answer := self._receive(self._control)) is not None:
            self._heard_s = time.monotonic()
            if isinstance(answer[0], Pong) and not answer[0].known:
                raise ConnectionLost("the server does not know this session")
        messages: list[tuple[Message, Buffer | None]] = []
        if self._jobs is not None and self._jobs in ready:
            while len(messages) < 64 and (message := self._receive(self._jobs)) is not None:
                messages.append(message)
        if not messages:
            self._check_monitors()
            if time.monotonic() - self._heard_s > SILENCE_S:
                raise ConnectionLost("the server fell silent")
        return messages

    def _receive(self, socket: zmq.Socket[bytes]) -> tuple[Message, Buffer | None] | None:
        try:
            frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        try:
            return decode([frame.buffer for frame in frames])
        except ProtocolError as error:
            raise ConnectionLost(str(error)) from error


class Connection:
    """A connection that is made, watched and renewed in a thread of its own.

    Callers post requests to its inbox and wait on their jobs; nothing they do touches a socket.

    Parameters
    ----------
    location : Location
        Where the server is.
    connect_timeout_s : float
        How long to wait for a server before open requests fail.
    timeout_s : float
        How long a request may go without progress.

    Raises
    ------
    ServerError
        If the system has no socket or no thread for it.
    """

    def __init__(self, location: Location, connect_timeout_s: float, timeout_s: float) -> None:
        self._location = location
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._requests: dict[int, Request] = {}
        self._session: str | None = None
        self._settings: tuple[str, ...] = ()
        self._closing = False
        self._lost_since: float | None = time.monotonic()
        self._end_reason = ""
        self._channels: Channels | None = None
        self._thread = threading.Thread(target=self._run, name="stembridge-client", daemon=True)
        check_free_files()
        with contextlib.ExitStack() as ending, foreign_errors("cannot open a client", ServerError):
            self._inbox: Inbox[Callable[[], None]] = Inbox()
            ending.callback(self._inbox.close)
            self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            ending.callback(self._context.term)
            self._thread.start()
            ending.pop_all()

    @property
    def connected(self) -> bool:
        """Whether a server answers."""
        return self._channels is not None

    def open(self, request: Request) -> None:
        """Begin a request."""
        self._inbox.put(lambda: self._open(request))

    def cancel(self, number: int, handle: JobHandle) -> None:
        """Cancel a request, even before it was begun."""
        error = Cancelled("the job was cancelled")
        self._inbox.put(lambda: self._cancel(number, handle, error))

    def close(self) -> None:
        """Say goodbye and end the thread; open requests fail."""
        self._inbox.put(self._close)
        self._thread.join()

    # -- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        with self._context:
            while not self._closing:
                reason = self._attempt()
                if not self._closing:
                    self._on_lost(reason)
        self._fail_all(ServerError("the client was closed"))
        self._location.found()
        self._inbox.close()

    def _attempt(self) -> str:
        """Connect, and stay connected for as long as possible; return why it ended."""
        try:
            address, identity = self._location.address(), self._location.identity()
            check_free_files()
            inbox = self._inbox.fileno()
            with Channels(self._context, address, identity, inbox) as channels:
                self._stay_connected(channels)
            return "closed"
        except ConnectionLost as lost:
            return str(lost)
        except Exception as error:
            return self._fail_all(error)
        finally:
            self._channels = None

    def _on_lost(self, reason: str) -> None:
        """Wait a moment; fail the open requests if it has been too long."""
        if self._lost_since is None:
            self._lost_since = time.monotonic()
        if time.monotonic() - self._lost_since > self._connect_timeout_s:
            said = f" (it said before it ended: {self._end_reason})" if self._end_reason else ""
            self._fail_all(ServerError(f"no server answers: {reason}{said}"))
        try:
            self._location.missing()
        except Exception as error:
            self._fail_all(error)
        # With nothing to do there is no hurry; a request ends the wait.
        pause_s = _RETRY_S if self._requests or self._session is None else 5 * HEARTBEAT_S
        zmq.select([self._inbox.fileno()], [], [], pause_s)
        self._run_commands()

    def _run_commands(self) -> None:
        for command in self._inbox.drain():
            command()

    def _stay_connected(self, channels: Channels) -> None:
        hello = Hello(protocol=VERSION, client=product(), session=self._session)
        channels.send_control(hello)
        welcome = channels.wait_control(Welcome)
        if major(welcome.protocol) != major(VERSION):
            raise ProtocolError(
                f"the server speaks protocol {welcome.protocol}, the client {VERSION}; "
                "install the same version of stembridge on both sides"
            )
        self._session = welcome.session
        channels.join(welcome)
        channels.send([(Join(session=welcome.session, requests=tuple(self._requests)), None)])
        channels.wait_joined()
        self._channels, self._lost_since, self._end_reason = channels, None, ""
        self._location.found()
        self._settings = welcome.settings
        for request in list(self._requests.values()):
            self._begin(request, channels)
        while not self._closing:
            for message, payload in channels.poll(welcome.session):
                self._receive_message(message, payload)
            self._run_commands()
            self._watch()
        channels.send_control(Bye(session=welcome.session))
        with contextlib.suppress(ConnectionLost, StembridgeError):
            channels.wait_control(Message)

    def _receive_message(self, message: Message, payload: Buffer | None) -> None:
        number = getattr(message, "request", None)
        if isinstance(message, Failed) and number is None:
            self._count_end(message.message)
            raise ConnectionLost(message.message)
        request = self._requests.get(-1 if number is None else number)
        if request is None or self._channels is None:
            return  # it has just been cancelled
        try:
            self._channels.send(request.take(message, payload))
        except ProtocolError as error:
            self._channels.send([(Release(request=request.number), None)])
            request.handle.finish(error)
        if request.handle.done():
            del self._requests[request.number]

    def _count_end(self, reason: str) -> None:
        """Fail the requests during which one server after another has ended."""
        self._end_reason = reason
        for request in list(self._requests.values()):
            request.ends += 1
            if request.ends >= _MOST_ENDS:
                del self._requests[request.number]
                error = ServerError(f"the server ended {request.ends} times: {reason}")
                request.handle.finish(error)

    def _watch(self) -> None:
        now = time.monotonic()
        for request in list(self._requests.values()):
            if request.waits:
                request.sign_s = now  # the queue may be long; it is enough that the server is alive
                continue
            timeout_s = self._timeout_s if request.timeout_s is None else request.timeout_s
            if now - request.sign_s > timeout_s:
                error = ServerError(
                    f"the job made no progress for {timeout_s:g} s and was cancelled; "
                    "a larger timeout_s waits longer"
                )
                self._cancel(request.number, request.handle, error)

    def _open(self, request: Request) -> None:
        if request.handle.done():
            return
        if self._lost_since is not None:
            # A new request restarts the wait for a server.
            self._lost_since = time.monotonic()
        self._requests[request.number] = request
        if self._channels is not None:
            self._begin(request, self._channels)

    def _begin(self, request: Request, channels: Channels) -> None:
        try:
            channels.send(request.begin(self._settings))
        except ProtocolError as error:
            del self._requests[request.number]
            request.handle.finish(error)

    def _cancel(self, number: int, handle: JobHandle, error: StembridgeError) -> None:
        begun = self._requests.pop(number, None) is not None
        if begun and self._channels is not None and self._session is not None:
            self._channels.send_control(Cancel(session=self._session, request=number))
        handle.finish(error)

    def _fail_all(self, error: Exception) -> str:
        """End every request with an error, and return what it says.

        What is no error of ours becomes one: not even a bug may leave callers waiting.
        """
        try:
            with foreign_errors("the client failed", ServerError):
                raise error
        except StembridgeError as known:
            requests, self._requests = self._requests, {}
            for request in requests.values():
                request.handle.finish(known)
            return str(known)

    def _close(self) -> None:
        self._closing = True


def ask(address: Address, question: Message, kind: type[M], timeout_s: float = 3.0) -> M:
    """Send one control message and wait for the answer.

    Parameters
    ----------
    address : Address
        Of the server.
    question : Message
        One of `bridge.wire.messages`.
    kind : type
        The answer to expect.
    timeout_s : float
        How long to wait.

    Raises
    ------
    ServerError
        If nothing answers.
    StembridgeError
        If the server refused.
    """
    check_free_files()
    with zmq.Context() as context, dealer(context, address) as socket:
        with socket.get_monitor_socket(zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED) as monitor:
            socket.connect(address.control)
            socket.send_multipart(encode(question))
            zmq.select([socket, monitor], [], [], timeout_s)
            socket.disable_monitor()
        # A server that stops answers first, which can still be read after it closed.
        if not socket.poll(0):
            raise ServerError(f"no server answers at {address.control}")
        answer, _ = decode(socket.recv_multipart())
    if isinstance(answer, Failed):
        raise from_code(answer.code, answer.message)
    if not isinstance(answer, kind):
        raise ProtocolError(f"expected {kind.__name__}, got {type(answer).__name__}")
    return answer
