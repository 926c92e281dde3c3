"""Where servers are: a remote one, or the user's own sidecar, which is started if missing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from bridge.bundles.bundle import find_bundle, list_bundles, register
from bridge.errors import ServerError, foreign_errors
from bridge.files import (
    cache_directory,
    has_ipc,
    models_directory,
    runtime_directory,
    take_failure,
)
from bridge.processes import child_environment, python_command
from bridge.wire.keys import KeyPair
from bridge.wire.messages import ModelRef
from bridge.wire.sockets import Address, find_address

if TYPE_CHECKING:
    from filelock import FileLock

# How often to try for the right to start the sidecar.
_RETRY_S: Final = 0.5


class Location(Protocol):
    """Where a server is, and what to do if it does not answer."""

    def address(self) -> Address:
        """Return its address."""
        ...

    def identity(self) -> KeyPair | None:
        """Return the key to present, if the server asks for one."""
        ...

    def missing(self) -> None:
        """Note that no server answers there."""
        ...

    def found(self) -> None:
        """Note that a server answered."""
        ...


class Remote:
    """A server that is run by somebody else."""

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
    """The user's own sidecar; of several clients that miss it, one starts it.

    Parameters
    ----------
    directory, cache : Path or None
        Its runtime directory and its disk store, by default the user's; see `bridge.files`.
    idle_timeout_s : float
        A sidecar started here stops after this long without clients and jobs.
    ipc : bool or None
        Whether to use ipc sockets rather than loopback ports; None where the system has them.
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
        self._starting: FileLock | None = None
        self._tried_s = -_RETRY_S

    def address(self) -> Address:
        """Return the address of its private sockets."""
        return find_address(self.directory, ipc=self._ipc)

    def identity(self) -> None:
        """Return None: whoever can open the directory is authorised."""

    def missing(self) -> None:
        """Start it, unless another client is doing so.

        Raises
        ------
        ServerError
            If no process can be started, or it ended at once.
        """
        if self._starting is not None:
            self._check_started()
            return
        if time.monotonic() - self._tried_s < _RETRY_S:
            return
        self._tried_s = time.monotonic()
        with foreign_errors("cannot start the sidecar", ServerError):
            from filelock import FileLock, Timeout  # here, since the import takes a while

            # Held until the sidecar answers: whoever gets the lock next finds it running.
            lock = FileLock(self.directory / "start.lock", mode=0o600, thread_local=False)
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                self._starting = lock
                self._start()

    def found(self) -> None:
        """Release the lock, so that others can start it again should it stop."""
        if self._starting is not None:
            self._starting.release()
            self._starting = None

    def _check_started(self) -> None:
        """Raise the reason if the sidecar that was started here has failed."""
        reason = take_failure(self.directory, started=False)
        if reason:
            self.found()
            raise ServerError(f"the sidecar could not be started: {reason}")

    def reference(self, model: str | os.PathLike[str]) -> ModelRef:
        """Return the reference by which it knows a model; one in a directory is registered.

        Raises
        ------
        ModelError
            If there is no such model.
        ServerError
            If the folders of models cannot be read.
        """
        try:
            path = find_bundle(model)
            if isinstance(model, str) and list_bundles().get(model) == path and model.isprintable():
                return ModelRef(model)
            return register(models_directory(self.directory), path)
        except OSError as error:
            with foreign_errors(f"cannot look up the model {os.fspath(model)!r}", ServerError):
                raise error

    def _start(self) -> None:
        options = [
            *("--directory", str(self.directory)),
            *("--cache", str(self._cache)),
            *("--idle-timeout", str(self._idle_timeout_s)),
            *([] if self._ipc else ["--no-ipc"]),
            "--detach",
        ]
        flags = getattr(subprocess, "DETACHED_PROCESS", 0)
        take_failure(self.directory, started=False)  # of an earlier attempt
        try:
            with (self.directory / "sidecar.err").open("ab") as errors:
                process = subprocess.Popen(
                    python_command("bridge.sidecar", *options),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    env=child_environment(),
                    # Nothing is looked for in the user's folder, which can be removed.
                    cwd=self.directory,
                    creationflags=flags,
                )
            if sys.platform != "win32":
                process.wait(timeout=20)
        except BaseException:
            self.found()
            raise
