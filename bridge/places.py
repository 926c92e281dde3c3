"""Where the service keeps its sockets, notes, logs and cache on this machine."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

import platformdirs

from bridge.errors import ServerError

RUNTIME_VARIABLE: Final = "STEMBRIDGE_RUNTIME_DIR"
CACHE_VARIABLE: Final = "STEMBRIDGE_CACHE_DIR"

# Unix puts 108 bytes, macOS 104, into the address of a socket; our names take 16.
_LONGEST_DIRECTORY: Final = 84


def has_ipc() -> bool:
    """Say whether ipc sockets work here."""
    return sys.platform != "win32"


def runtime_directory(chosen: Path | None = None) -> Path:
    """Return the directory of the user's sidecar, made private if it has to be made.

    Parameters
    ----------
    chosen : Path or None
        A directory to use instead of the one in the environment variable
        ``STEMBRIDGE_RUNTIME_DIR``, or of the user's own.

    Raises
    ------
    ServerError
        If others could enter it, or its name is too long for a socket.
    """
    if chosen is None:
        if variable := os.environ.get(RUNTIME_VARIABLE):
            chosen = Path(variable)
        elif (xdg := os.environ.get("XDG_RUNTIME_DIR")) and Path(xdg).is_dir():
            chosen = Path(xdg) / "stembridge"
        elif has_ipc():
            chosen = Path(tempfile.gettempdir()) / f"stembridge-{os.getuid()}"
        else:
            chosen = Path(platformdirs.user_runtime_dir("stembridge"))
    path = chosen.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise ServerError(f"cannot make {path} for the server's sockets: {error}") from error
    if has_ipc():
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise ServerError(
                f"{path} is not a directory of yours; remove it, or set {RUNTIME_VARIABLE}"
            )
        if status.st_mode & 0o077:
            raise ServerError(f"others may enter {path}; run: chmod 700 '{path}'")
        if len(os.fsencode(path)) > _LONGEST_DIRECTORY:
            raise ServerError(
                f"{path} is too long for a socket; set {RUNTIME_VARIABLE} to a shorter one"
            )
    return path


def cache_directory(chosen: Path | None = None) -> Path:
    """Return the directory of the disk store; it need not exist.

    Parameters
    ----------
    chosen : Path or None
        Goes before the environment variable ``STEMBRIDGE_CACHE_DIR``, which goes before the
        user's cache directory.
    """
    if chosen is None:
        variable = os.environ.get(CACHE_VARIABLE)
        chosen = Path(variable) if variable else Path(platformdirs.user_cache_dir("stembridge"))
    return chosen.absolute()


def log_file(directory: Path) -> Path:
    """Return the log of the server whose runtime directory is given."""
    return directory / "server.log"


def models_directory(directory: Path) -> Path:
    """Return where bundles are registered with that server; see `bridge.bundles.catalogue`."""
    return directory / "models"
