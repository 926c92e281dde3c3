"""Addresses: the pair of sockets, control and jobs, at which a server is reached."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq
from msgspec import Struct

from bridge.errors import InputError

_TCP: Final = re.compile(r"tcp://(\[[^\]]+\]|[^:/]+):(\d+|\*)")


class Address(Struct, frozen=True):
    """Where a server is.

    Attributes
    ----------
    control : str
        ZeroMQ endpoint of the control channel.
    jobs : str or None
        That of the job channel; None if the server's greeting tells its port.
    token : str or None
        Password where a loopback port stands in for a private socket.
    """

    control: str
    jobs: str | None = None
    token: str | None = None

    def jobs_endpoint(self, port: int | None) -> str:
        """Return the endpoint of the job channel, given the port in the greeting."""
        if self.jobs is not None:
            return self.jobs
        host = self.control.rpartition(":")[0]
        return f"{host}:{port}"


def private_address(directory: Path) -> Address:
    """Return the ipc address of the sidecar with that runtime directory."""
    return Address(f"ipc://{directory}/control.sock", f"ipc://{directory}/jobs.sock")


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


@dataclass(frozen=True)
class Binding:
    """A pair of a server's sockets, bound.

    Attributes
    ----------
    index : int
        Place among the server's bindings.
    control, jobs : zmq.Socket
        ROUTER sockets.
    endpoint : str
        Where the control socket is bound.
    jobs_port : int or None
        Port of the job socket if it is a TCP one.
    local : bool
        Whether only the user of this machine can reach it.
    """

    index: int
    control: zmq.Socket[bytes]
    jobs: zmq.Socket[bytes]
    endpoint: str
    jobs_port: int | None
    local: bool
