"""The client's thread: it owns the sockets, keeps the heartbeat, and begins again when needed.

Callers put requests into its inbox and wait on handles; nothing they do touches a socket.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

import zmq

from bridge.connection.channel import Channel, Lost
from bridge.connection.exchange import Exchange
from bridge.connection.handle import JobHandle
from bridge.connection.local import Place
from bridge.errors import Cancelled, ProtocolError, ServerError, StembridgeError
from bridge.protocol import HEARTBEAT_S, VERSION, Buffer, major
from bridge.wire.control_messages import Bye, Cancel, Hello, Welcome
from bridge.wire.inbox import Inbox
from bridge.wire.messages import Failed, Join, Message, Release

_RETRY_S: Final = 0.03


class Link:
    """A connection that is made, watched and remade in a thread of its own.

    Parameters
    ----------
    place : Place
        Where the server is.
    connect_timeout_s : float
        How long no server may answer before the open requests fail.
    timeout_s : float
        How long a request may go without a sign of progress.
    """

    def __init__(self, place: Place, connect_timeout_s: float, timeout_s: float) -> None:
        self._place = place
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._inbox: Inbox[Callable[[], None]] = Inbox()
        self._exchanges: dict[int, Exchange] = {}
        self._session: str | None = None
        self._settings: tuple[str, ...] = ()
        self._closing = False
        self._lost_since: float | None = time.monotonic()
        self._channel: Channel | None = None
        self._thread = threading.Thread(target=self._run, name="stembridge-client", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether a server answers now."""
        return self._channel is not None

    def open(self, exchange: Exchange) -> None:
        """Begin a request."""
        self._inbox.put(lambda: self._open(exchange))

    def cancel(self, request: int, handle: JobHandle) -> None:
        """Give a request up, even before it was begun."""
        error = Cancelled("the job was cancelled")
        self._inbox.put(lambda: self._give_up(request, handle, error))

    def close(self) -> None:
        """Say goodbye and end the thread; open requests fail."""
        self._inbox.put(self._close)
        self._thread.join()

    # -- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        with zmq.Context() as context:
            while not self._closing:
                reason = self._attempt(context)
                if not self._closing:
                    self._on_lost(reason)
        self._fail_all(ServerError("the client was closed"))
        self._place.found()
        self._inbox.close()

    def _attempt(self, context: zmq.Context[zmq.Socket[bytes]]) -> str:
        """Connect, and stay connected as long as it goes; returns why it ended."""
        try:
            address, identity = self._place.address(), self._place.identity()
            with Channel(context, address, identity, self._inbox.fileno()) as channel:
                self._converse(channel)
            return "closed"
        except Lost as lost:
            return str(lost)
        except StembridgeError as error:
            self._fail_all(error)
            return str(error)
        except Exception as error:  # a defect of ours must not leave callers waiting
            self._fail_all(ServerError(f"the client failed: {error!r}"))
            return repr(error)
        finally:
            self._channel = None

    def _on_lost(self, reason: str) -> None:
        """Wait a moment, and give up on the open requests once it has been long enough."""
        if self._lost_since is None:
            self._lost_since = time.monotonic()
        if time.monotonic() - self._lost_since > self._connect_timeout_s:
            self._fail_all(ServerError(f"no server answers: {reason}"))
        try:
            self._place.missing()
        except ServerError as error:
            self._fail_all(error)
        # With nothing to do there is no hurry, and a request wakes the poller.
        pause_s = _RETRY_S if self._exchanges or self._session is None else 5 * HEARTBEAT_S
        zmq.select([self._inbox.fileno()], [], [], pause_s)
        self._obey()

    def _obey(self) -> None:
        for command in self._inbox.drain():
            command()

    def _converse(self, channel: Channel) -> None:
        hello = Hello(protocol=VERSION, client="stembridge/python", session=self._session)
        channel.tell(hello)
        welcome = channel.wait_control(Welcome)
        if major(welcome.protocol) != major(VERSION):
            raise ProtocolError(
                f"the server speaks protocol {welcome.protocol}, the client {VERSION}; "
                "install the same version of stembridge on both sides"
            )
        self._session = welcome.session
        channel.join(welcome)
        channel.send([(Join(session=welcome.session, requests=tuple(self._exchanges)), None)])
        channel.wait_joined()
        self._channel, self._lost_since = channel, None
        self._place.found()
        self._settings = welcome.settings
        for exchange in list(self._exchanges.values()):
            self._begin(exchange, channel)
        while not self._closing:
            for message, payload in channel.poll(welcome.session):
                self._take(message, payload)
            self._obey()
            self._watch()
        if channel.alive:
            channel.tell(Bye(session=welcome.session))
            with contextlib.suppress(Lost, StembridgeError):
                channel.wait_control(object)

    def _take(self, message: Message, payload: Buffer | None) -> None:
        request = getattr(message, "request", None)
        if isinstance(message, Failed) and request is None:
            raise Lost(message.message)
        exchange = self._exchanges.get(-1 if request is None else request)
        if exchange is None or self._channel is None:
            return  # given up a moment ago
        try:
            self._channel.send(exchange.take(message, payload))
        except ProtocolError as error:
            self._channel.send([(Release(request=exchange.request), None)])
            exchange.handle.finish(None, error)
        if exchange.handle.done():
            del self._exchanges[exchange.request]

    def _watch(self) -> None:
        now = time.monotonic()
        for exchange in list(self._exchanges.values()):
            if exchange.waits:
                exchange.sign_s = now  # the line may be long; that the server lives is enough
                continue
            timeout_s = self._timeout_s if exchange.timeout_s is None else exchange.timeout_s
            if now - exchange.sign_s > timeout_s:
                error = ServerError(
                    f"the job made no progress for {timeout_s:g} s and was given up; "
                    "a larger timeout_s waits longer"
                )
                self._give_up(exchange.request, exchange.handle, error)

    def _open(self, exchange: Exchange) -> None:
        if exchange.handle.done():
            return
        if self._lost_since is not None:
            # A request begins the wait for a server anew.
            self._lost_since = time.monotonic()
        self._exchanges[exchange.request] = exchange
        if self._channel is not None:
            self._begin(exchange, self._channel)

    def _begin(self, exchange: Exchange, channel: Channel) -> None:
        try:
            channel.send(exchange.begin(self._settings))
        except ProtocolError as error:
            del self._exchanges[exchange.request]
            exchange.handle.finish(None, error)

    def _give_up(self, request: int, handle: JobHandle, error: StembridgeError) -> None:
        begun = self._exchanges.pop(request, None) is not None
        if begun and self._channel is not None and self._session is not None:
            self._channel.tell(Cancel(session=self._session, request=request))
        handle.finish(None, error)

    def _fail_all(self, error: StembridgeError) -> None:
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.handle.finish(None, error)

    def _close(self) -> None:
        self._closing = True
