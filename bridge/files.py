"""Files and folders of this machine.

Files from elsewhere are read in bounds and without waiting, files of ours are written whole or not
at all. Where things are kept is decided here: a server's sockets, logs and cache, a user's files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import platformdirs

from bridge.errors import ServerError, foreign_errors

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, without waiting for the other end of a pipe.

    Raises
    ------
    OSError
        It cannot be opened, or is not a regular file; `strerror` says what it is.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    _require_regular(path, os.stat(path).st_mode)
    handle = os.open(path, flags | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        # Checked again on the open file, which may not be the one that was looked at.
        _require_regular(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def sha256_of_file(path: Path) -> str:
    """Compute the SHA-256 of a regular file, in hexadecimal; raises as `open_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular(path: Path) -> None:
    """Return if a path leads to a regular file.

    Raises
    ------
    OSError
        It leads nowhere, or to something else; `strerror` says what.
    """
    _require_regular(path, os.stat(path).st_mode)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Read a whole file.

    Parameters
    ----------
    path : Path
    most_bytes : int
        More than such a file ever has.

    Raises
    ------
    OSError
        It cannot be read, is not a regular file, or is larger than that.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # The size is no guarantee: the file may be growing.
        content = b"" if size > most_bytes else file.read(most_bytes + 1)
    if size > most_bytes or len(content) > most_bytes:
        raise OSError(
            errno.EFBIG,
            f"it has {max(size, len(content))} bytes, expected at most {most_bytes}",
            os.fspath(path),
        )
    return content


_DEEPEST: Final = 32
# Texts that do not end go to the end of what they could be, so that nothing is looked at twice.
_TEXT_OR_COMMENT: Final = re.compile(
    r"""
    "{3}(?:\\.|[^\\])*?(?:"{3}|\Z) | '{3}.*?(?:'{3}|\Z)
    | "(?:\\.|[^"\\\n])*+"? | '[^'\n]*+'? | \#[^\n]*+
    """,
    re.DOTALL | re.VERBOSE,
)
_BRACKET: Final = re.compile(r"[][{}\n]")
# Names of tables and keys in more parts than any file of ours has levels.
_LONG_KEY: Final = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){32}")


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML that anybody may have written; a byte order mark, as Windows writes it, is allowed.

    Raises
    ------
    ValueError
        It is not TOML, or nests deeper than 32 levels, for which tomllib would take memory and
        stack without bound.
    """
    text = text.removeprefix("\ufeff")
    bare = _TEXT_OR_COMMENT.sub("x", text)
    depth = deepest = 0
    for mark in _BRACKET.finditer(bare):
        if mark.group() in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark.group() in "]}":
            depth -= 1
    if deepest > _DEEPEST or _LONG_KEY.search(bare):
        raise ValueError(f"it nests deeper than {_DEEPEST} levels, which nothing of ours does")
    # For numbers with thousands of digits, impossible dates and the like, tomllib lets other errors
    # through than its own.
    try:
        return tomllib.loads(text)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"not TOML: {error}") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it to the file's own name at the end.

    A reader finds either all of the new file or what was there before; after an error, the latter.

    Parameters
    ----------
    path : Path
        The file to be, in a folder that exists.

    Yields
    ------
    Path
        A hidden name in the same folder, unique to this writer.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes, *, private: bool = False, sync: bool = False) -> None:
    """Write a file in one step, replacing any file of that name.

    Parameters
    ----------
    path : Path
    data : bytes
    private : bool
        Whether only this user may read it.
    sync : bool
        Whether to wait until the content is on the disk, so that it survives a power failure.

    Raises
    ------
    OSError
        It cannot be written; an existing file of that name is unchanged.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    mode = 0o600 if private else 0o666
    with replacing(path) as partial, os.fdopen(os.open(partial, flags, mode), "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"expected a file, got {kind}", os.fspath(path))


RUNTIME_VARIABLE: Final = "STEMBRIDGE_RUNTIME_DIR"
CACHE_VARIABLE: Final = "STEMBRIDGE_CACHE_DIR"

_NAME: Final = "stembridge"
_FAILURES: Final = {True: "ended.txt", False: "not-started.txt"}

# The address of a socket has room for 108 bytes on Linux, 104 on macOS; our names take 16.
_LONGEST_DIRECTORY: Final = 84


def has_ipc() -> bool:
    """Say whether ipc sockets work here."""
    return sys.platform != "win32"


def runtime_directory(chosen: Path | None = None) -> Path:
    """Return the runtime directory of the user's sidecar; it is created, private, if missing.

    Parameters
    ----------
    chosen : Path or None
        Takes precedence over the environment variable ``STEMBRIDGE_RUNTIME_DIR``, which takes
        precedence over the user's own.

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
            with foreign_errors("no folder for the server's sockets", ServerError):
                chosen = Path(tempfile.gettempdir()) / f"stembridge-{os.getuid()}"
        else:
            chosen = Path(platformdirs.user_runtime_dir(_NAME, appauthor=False))
    path = chosen.absolute()
    try:
        make_folders(path)
        status = path.lstat()
    except OSError as error:
        raise ServerError(f"cannot make {path} for the server's sockets: {error}") from error
    if has_ipc():
        try:
            os.fspath(path).encode()
        except UnicodeEncodeError:
            raise ServerError(
                f"{os.fsencode(path)!r} is not UTF-8; set {RUNTIME_VARIABLE} to another directory"
            ) from None
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


def private_directory(path: Path) -> None:
    """Create a directory for this user alone, with its parents, or check an existing one.

    An existing one that others could read is closed to them. One that others could write to is
    refused, since its content may be theirs.

    Raises
    ------
    ServerError
        If it cannot be made, belongs to somebody else, or was open to others for writing.
    """
    try:
        make_folders(path)
        status = path.stat()
        if not has_ipc():
            return  # on Windows a user's folders are private, and modes mean nothing
        if status.st_uid != os.getuid():
            raise ServerError(f"{path} belongs to another user; use a directory of your own")
        if status.st_mode & 0o022:
            raise ServerError(
                f"others could write to {path}, so what is in it cannot be trusted; look at it, "
                f"then run: chmod 700 '{path}'"
            )
        if status.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ServerError(f"cannot make {path} private: {error}") from error


def make_folders(path: Path) -> None:
    """Create a directory and its missing parents, each with mode 0700."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            one.mkdir(mode=0o700)
            one.chmod(0o700)  # whatever the umask took away
    if missing and not missing[0].is_dir():
        raise NotADirectoryError(f"{missing[0]} is not a directory")


def write_failure(directory: Path, reason: str, *, started: bool) -> None:
    """Record why a server failed, or could not be started."""
    path = directory / _FAILURES[started]
    write_whole(path, reason.encode("utf-8", "backslashreplace"))


def take_failure(directory: Path, *, started: bool) -> str:
    """Return why a server failed or could not be started, if that was recorded, and delete it."""
    path = directory / _FAILURES[started]
    try:
        reason = path.read_text(encoding="utf-8")
        path.unlink()
    except (OSError, UnicodeDecodeError):
        return ""
    return reason


def cache_directory(chosen: Path | None = None) -> Path:
    """Return the directory of the disk store; it need not exist.

    Parameters
    ----------
    chosen : Path or None
        Takes precedence over the environment variable ``STEMBRIDGE_CACHE_DIR``, which takes
        precedence over the user's cache directory.
    """
    if chosen is None:
        variable = os.environ.get(CACHE_VARIABLE)
        chosen = Path(variable or platformdirs.user_cache_dir(_NAME, appauthor=False))
    return chosen.absolute()


def data_directory() -> Path:
    """Return the directory of the user's models, presets and what else is kept; it need not exist.

    Whoever trusts what lies in it calls `private_directory` before.
    """
    return Path(platformdirs.user_data_dir(_NAME, appauthor=False))


def config_directory(program: str = _NAME, *, roaming: bool = False) -> Path:
    """Return the directory of the user's settings of a program; it need not exist.

    Parameters
    ----------
    program : str
        This one, another, or "" for the directory that holds those of all.
    roaming : bool
        Whether the program keeps them where Windows carries them between machines.
    """
    return Path(platformdirs.user_config_dir(program, appauthor=False, roaming=roaming))


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` expanded, unless it names the home of an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def log_file(directory: Path) -> Path:
    """Return the log of the server whose runtime directory is given."""
    return directory / "server.log"


def models_directory(directory: Path) -> Path:
    """Return where bundles are registered with that server; see `bridge.bundles.bundle`."""
    return directory / "models"
