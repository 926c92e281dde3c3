"""The user's own sidecar: where it is, and starting it when none answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Protocol

from bridge.bundles.bundle import find_bundle, list_bundles
from bridge.bundles.catalogue import register
from bridge.errors import ServerError
from bridge.lockfile import LockFile
from bridge.places import cache_directory, has_ipc, models_directory, runtime_directory
from bridge.wire.descriptors import ModelRef
from bridge.wire.endpoints import Address, find_address
from bridge.wire.keys import KeyPair

_RETRY_S: Final = 0.5


class Place(Protocol):
    """Where a server is to be found, and what to do if it is not."""

    def address(self) -> Address:
        """Return where to look."""
        ...

    def identity(self) -> KeyPair | None:
        """Return the key to show, if the server asks for one."""
        ...

    def missing(self) -> None:
        """Take note that nobody answers there."""
        ...

    def found(self) -> None:
        """Take note that a server answered."""
        ...


class Remote:
    """A server that somebody else runs."""

    def __init__(self, address: Address, identity: KeyPair | None = None) -> None:
        self._address = address
        self._identity = identity

    def address(self) -> Address:
        """Return the address that was given."""
        return self._address

    def identity(self) -> KeyPair | None:
        """Return the key that was given."""
        return self._identity

    def missing(self) -> None:
        """Do nothing: it may come back."""

    def found(self) -> None:
        """Do nothing."""


class LocalSidecar:
    """The sidecar of this user, started if it is missing; of several who miss it one does.

    Parameters
    ----------
    directory, cache : Path or None
        Its runtime directory and its disk store, by default the user's; see `bridge.places`.
    idle_timeout_s : float
        A sidecar started here leaves after so long without clients and jobs.
    ipc : bool or None
        Whether it is reached through ipc sockets or loopback ports; None: as the system allows.
    """

    def __init__(
        self,
        directory: Path | None = None,
        cache: Path | None = None,
        idle_timeout_s: float = 600.0,
        *,
        ipc: bool | None = None,
    ) -> None:
        self._ipc = has_ipc() if ipc is None else ipc
        self.directory = runtime_directory(directory)
        self._cache = cache_directory(cache)
        self._idle_timeout_s = idle_timeout_s
        self._starting = LockFile(self.directory / "start.lock")
        self._holding = False
        self._tried_s = -_RETRY_S

    def address(self) -> Address:
        """Return the address of its private sockets."""
        return find_address(self.directory, ipc=self._ipc)

    def identity(self) -> None:
        """Return none: who may open the directory is let in."""

    def missing(self) -> None:
        """Start it, unless somebody is doing so.

        Raises
        ------
        ServerError
            If no process can be started.
        """
        if self._holding or time.monotonic() - self._tried_s < _RETRY_S:
            return
        self._tried_s = time.monotonic()
        if self._starting.acquire():
            # Until it answers: whoever gets the lock after that finds it running.
            self._holding = True
            self._start()

    def found(self) -> None:
        """Let others start it again, should it go."""
        if self._holding:
            self._starting.release()
            self._holding = False

    def reference(self, model: str | os.PathLike[str]) -> ModelRef:
        """Return how to ask it for a model, which is registered if it is a directory.

        Raises
        ------
        ModelError
            If there is no such model.
        """
        path = find_bundle(model)
        if isinstance(model, str) and list_bundles().get(model) == path:
            return ModelRef(model)
        return register(models_directory(self.directory), path)

    def _start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "bridge.sidecar",
            *("--directory", str(self.directory)),
            *("--cache", str(self._cache)),
            *("--idle-timeout", str(self._idle_timeout_s)),
            *([] if self._ipc else ["--no-ipc"]),
            "--detach",
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        flags = getattr(subprocess, "DETACHED_PROCESS", 0)
        try:
            with (self.directory / "sidecar.err").open("ab") as errors:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    env=environment,
                    creationflags=flags,
                )
            if sys.platform != "win32":
                process.wait(timeout=20)
        except (OSError, subprocess.SubprocessError) as error:
            self.found()
            raise ServerError(f"cannot start the sidecar: {error}") from error
