"""Addresses: the pair of sockets, control and jobs, at which a server is reached."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from bridge.errors import InputError

ADDRESS_FILE: Final = "server.json"
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
    server_key : str or None
        Public CURVE key of a server that asks for keys.
    """

    control: str
    jobs: str | None = None
    token: str | None = None
    server_key: str | None = None

    def jobs_endpoint(self, port: int | None) -> str:
        """Return the endpoint of the job channel, given the port in the greeting."""
        if self.jobs is not None:
            return self.jobs
        host = self.control.rpartition(":")[0]
        return f"{host}:{port}"


def private_address(directory: Path) -> Address:
    """Return the ipc address of the sidecar with that runtime directory."""
    return Address(f"ipc://{directory}/control.sock", f"ipc://{directory}/jobs.sock")


def find_address(directory: Path, *, ipc: bool) -> Address:
    """Return where the sidecar with that runtime directory listens.

    Without ipc its ports and its password are in a file in the directory; if there is none yet,
    the address is one at which nobody answers.
    """
    if ipc:
        return private_address(directory)
    try:
        return msgspec.json.decode((directory / ADDRESS_FILE).read_bytes(), type=Address)
    except (OSError, msgspec.MsgspecError):
        return Address("tcp://127.0.0.1:1", "tcp://127.0.0.1:1")


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
