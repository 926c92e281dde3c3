"""The server's sockets: where they are bound, and who may connect to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq
from zmq.auth.thread import ThreadAuthenticator

from bridge.errors import InputError
from bridge.service.relay import Relay
from bridge.wire.keys import KeyPair, KeyRing
from bridge.wire.sockets import Address, is_loopback, private_address, router, tcp_address

# How long a closing socket may still send, such as why the server stops.
LINGER_MS: Final = 500

Context = zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True)
class Binding:
    """A pair of a server's sockets, bound.

    Attributes
    ----------
    index : int
        Its index among the server's bindings.
    control, jobs : zmq.Socket
        ROUTER sockets.
    address : Address
        Where clients find them.
    local : bool
        Whether only the user of this machine can reach them.
    """

    index: int
    control: zmq.Socket[bytes]
    jobs: zmq.Socket[bytes]
    address: Address
    local: bool

    @property
    def jobs_port(self) -> int | None:
        """Port of the job socket, if it uses TCP."""
        endpoint = str(self.address.jobs)
        return int(endpoint.rpartition(":")[2]) if endpoint.startswith("tcp:") else None


class Authenticator:
    """Makes bindings, and admits holders of authorised keys.

    Parameters
    ----------
    context : zmq.Context
    relay : Relay
        Through which clients connect.
    ring : KeyRing
        The server's own keys and the authorised ones.
    """

    def __init__(self, context: Context, relay: Relay, ring: KeyRing) -> None:
        self._context = context
        self._relay = relay
        self._ring = ring
        self._thread: ThreadAuthenticator | None = None
        self._count = 0

    def bind_private(self, directory: Path, *, ipc: bool) -> Binding:
        """Bind for this user alone: in a private directory, or with a key on loopback."""
        if ipc:
            return self._bind(private_address(directory), local=True, pair=None)
        server, client = _new_pair(), _new_pair()
        self._admit("local", lambda key: key == client.public)
        address = Address("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", client.secret, server.public)
        return self._bind(address, local=True, pair=server)

    def bind_remote(self, endpoint: str) -> Binding:
        """Bind for holders of authorised keys.

        Raises
        ------
        InputError
            If the endpoint is malformed, or the server has no key.
        ServerError
            If the endpoint cannot be listened at, or others could have written the keys.
        """
        host, port = tcp_address(endpoint)
        try:
            pair = self._ring.identity()
        except InputError as error:
            place = "" if is_loopback(host) else ", since others can reach it"
            raise InputError(
                f"{endpoint} is served to holders of keys only{place}: {error}"
            ) from error
        self._admit("remote", self._ring.allows)
        jobs_port = "*" if port == "*" else str(int(port) + 1)
        address = Address(f"tcp://{host}:{port}", f"tcp://{host}:{jobs_port}")
        return self._bind(address, local=False, pair=pair)

    def allows(self, user: str) -> bool:
        """Say whether a key is still authorised."""
        return self._ring.allows(user)

    def close(self) -> None:
        """Stop admitting clients."""
        if self._thread is not None:
            self._thread.stop()

    def _admit(self, domain: str, allows: Callable[[str], bool]) -> None:
        if self._thread is None:
            self._thread = ThreadAuthenticator(self._context)
            self._thread.start()
        self._thread.configure_curve_callback(domain, credentials_provider=_Callback(allows))

    def _bind(self, address: Address, *, local: bool, pair: KeyPair | None) -> Binding:
        sockets = [router(self._context), router(self._context)]
        if pair is not None:
            for socket in sockets:
                socket.setsockopt(zmq.CURVE_SERVER, 1)
                socket.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)
                socket.setsockopt_string(zmq.ZAP_DOMAIN, "local" if local else "remote")
        try:
            control, jobs = (
                self._relay.listen(socket, endpoint, local=local)
                for socket, endpoint in zip(
                    sockets, (address.control, str(address.jobs)), strict=True
                )
            )
        except BaseException:
            for socket in sockets:
                socket.close()
            raise
        bound = Address(control, jobs, address.token, address.server_key)
        self._count += 1
        return Binding(self._count - 1, sockets[0], sockets[1], bound, local)


class _Callback:
    """Answers pyzmq's question whether a key is authorised."""

    def __init__(self, allows: Callable[[str], bool]) -> None:
        self._allows = allows

    def callback(self, domain: str, key: bytes) -> bool:
        del domain
        return self._allows(key.decode("ascii", "replace"))


def _new_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())
