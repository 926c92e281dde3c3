"""The server's sockets: where they are bound, and who may connect to them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq
from zmq.auth.thread import ThreadAuthenticator

from bridge.errors import InputError, ServerError
from bridge.wire.endpoints import Address, is_loopback, private_address, tcp_address
from bridge.wire.keys import KeyPair, KeyRing
from bridge.wire.sockets import USER, router

Context = zmq.Context[zmq.Socket[bytes]]

_LOCAL: Final = "local"
_REMOTE: Final = "remote"


@dataclass(frozen=True)
class Binding:
    """A pair of a server's sockets, bound.

    Attributes
    ----------
    index : int
        Place among the server's bindings.
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
        """Port of the job socket, if it is a TCP one."""
        endpoint = str(self.address.jobs)
        return int(endpoint.rpartition(":")[2]) if endpoint.startswith("tcp:") else None


class Door:
    """Makes bindings, and asks whoever knocks for a key.

    Parameters
    ----------
    context : zmq.Context
    ring : KeyRing
        The server's own keys, and whom it lets in.
    """

    def __init__(self, context: Context, ring: KeyRing) -> None:
        self._context = context
        self._ring = ring
        self._authenticator: ThreadAuthenticator | None = None
        self._count = 0

    def bind_private(self, directory: Path, *, ipc: bool) -> Binding:
        """Bind for this user alone: in a private directory, or with a password on loopback."""
        if ipc:
            return self._bind(private_address(directory), local=True, pair=None, token=None)
        token = secrets.token_hex(32)
        self._started().configure_plain(domain=_LOCAL, passwords={USER: token})
        address = Address("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", token)
        return self._bind(address, local=True, pair=None, token=token)

    def bind_remote(self, endpoint: str) -> Binding:
        """Bind for holders of authorised keys.

        Raises
        ------
        InputError
            If the endpoint is none, or there is no key for the server.
        """
        host, port = tcp_address(endpoint)
        try:
            pair = self._ring.identity()
        except InputError as error:
            place = "" if is_loopback(host) else ", since others can reach it"
            raise InputError(
                f"{endpoint} is served to holders of keys only{place}: {error}"
            ) from error
        self._started().configure_curve_callback(domain=_REMOTE, credentials_provider=self._ring)
        jobs_port = "*" if port == "*" else str(int(port) + 1)
        address = Address(f"tcp://{host}:{port}", f"tcp://{host}:{jobs_port}")
        return self._bind(address, local=False, pair=pair, token=None)

    def allows(self, user: str) -> bool:
        """Say whether a key that was let in still is."""
        return self._ring.allows(user)

    def close(self) -> None:
        """Stop asking."""
        if self._authenticator is not None:
            self._authenticator.stop()

    def _started(self) -> ThreadAuthenticator:
        if self._authenticator is None:
            self._authenticator = ThreadAuthenticator(self._context)
            self._authenticator.start()
        return self._authenticator

    def _bind(
        self, address: Address, *, local: bool, pair: KeyPair | None, token: str | None
    ) -> Binding:
        sockets: list[zmq.Socket[bytes]] = []
        for endpoint in (address.control, str(address.jobs)):
            socket = router(self._context)
            if pair is not None:
                socket.setsockopt(zmq.CURVE_SERVER, 1)
                socket.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)
                socket.setsockopt_string(zmq.ZAP_DOMAIN, _REMOTE)
            elif token is not None:
                socket.setsockopt(zmq.PLAIN_SERVER, 1)
                socket.setsockopt_string(zmq.ZAP_DOMAIN, _LOCAL)
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                socket.close()
                for other in sockets:
                    other.close()
                raise ServerError(f"cannot listen at {endpoint}: {error}") from error
            sockets.append(socket)
        control, jobs = sockets
        bound = Address(
            control.getsockopt_string(zmq.LAST_ENDPOINT),
            jobs.getsockopt_string(zmq.LAST_ENDPOINT),
            token,
        )
        self._count += 1
        return Binding(self._count - 1, control, jobs, bound, local)
