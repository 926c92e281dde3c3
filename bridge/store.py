"""The disk store: blobs named by their own checksum, and small records that point at them.

``objects/ab/abcd...`` holds raw bytes whose SHA-256 is the file's name; ``records/<kind>/<key>``
holds a msgpack value after its own SHA-256. Whatever is written goes to a temporary file first,
is synced, and is renamed into place, so that a reader finds all of an entry or none. Every read
of an entry that this process did not just write is checked; a damaged entry is removed and
counts as absent. Several processes may use one store at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import msgspec

from bridge.errors import ServerError
from bridge.protocol import Buffer

T = TypeVar("T")
_PIECE_BYTES: Final = 1 << 20
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """A store in a directory, made if missing.

    Parameters
    ----------
    root : Path
        Its directory.
    limit_bytes : int
        Size to which `trim` brings it back.

    Raises
    ------
    ServerError
        By every writing method, if the disk is full or cannot be written.
    """

    def __init__(self, root: Path, limit_bytes: int = 10 << 30) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        with _explained(root):
            for name in ("objects", "records", "incoming"):
                (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Return where the blob with that checksum is, or would be."""
        return self.root / "objects" / sha256[:2] / sha256

    def create(self, sha256: str | None, size_bytes: int) -> Incoming:
        """Begin to write a blob; its checksum may be known in advance."""
        return Incoming(self, sha256, size_bytes)

    def put(self, data: Buffer) -> str:
        """Write a blob and return its checksum."""
        view = memoryview(data).cast("B")
        with self.create(None, len(view)) as incoming:
            for start in range(0, len(view), _PIECE_BYTES):
                incoming.write(view[start : start + _PIECE_BYTES])
            incoming.commit()
            return incoming.sha256

    def touch(self, sha256: str, size_bytes: int) -> bool:
        """Mark a blob as just used; False if it is absent or of another size."""
        path = self.path(sha256)
        try:
            if path.stat().st_size != size_bytes:
                path.unlink()
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def verify(self, sha256: str, size_bytes: int) -> bool:
        """Say whether a blob is there and whole; a damaged one is removed."""
        if not self.touch(sha256, size_bytes):
            return False
        try:
            with self.path(sha256).open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False
        if not whole:
            self.discard(sha256)
        return whole

    def discard(self, sha256: str) -> None:
        """Remove a blob, if it is there."""
        with contextlib.suppress(OSError):
            self.path(sha256).unlink()

    def write_record(self, kind: str, key: str, value: Any) -> None:
        """Write a record, replacing one of the same kind and key."""
        data = msgspec.msgpack.encode(value)
        path = self.root / "records" / kind / key
        temporary = self._temporary()
        try:
            with _explained(self.root):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with temporary.open("xb") as file:
                    file.write(hashlib.sha256(data).digest() + data)
                    _sync(file)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def read_record(self, kind: str, key: str, type_: type[T]) -> T | None:
        """Read a record, or None if it is absent; a damaged one is removed."""
        path = self.root / "records" / kind / key
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        try:
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return msgspec.msgpack.decode(data[32:], type=type_)
        except msgspec.MsgspecError:
            pass
        self.delete_record(kind, key)
        return None

    def delete_record(self, kind: str, key: str) -> None:
        """Remove a record, if it is there."""
        with contextlib.suppress(OSError):
            (self.root / "records" / kind / key).unlink()

    def record_keys(self, kind: str) -> list[str]:
        """List the keys of all records of a kind, oldest first."""
        entries = sorted(
            (mtime, path.name) for path, _, mtime in _files(self.root / "records" / kind)
        )
        return [name for _, name in entries]

    def usage(self) -> tuple[int, int]:
        """Return the store's size in bytes and how many entries it has."""
        sizes = [size for _, size, _ in _files(self.root)]
        return sum(sizes), len(sizes)

    def trim(self, pinned: Collection[str] = (), *, kept_kinds: Collection[str] = ()) -> int:
        """Remove the entries used longest ago until the store is within its limit.

        Parameters
        ----------
        pinned : collection of str
            Checksums of blobs that must stay.
        kept_kinds : collection of str
            Kinds of records that must stay.

        Returns
        -------
        int
            Bytes removed.
        """
        files = [*_files(self.root / "objects"), *_files(self.root / "records")]
        surplus = sum(size for _, size, _ in files) - self.limit_bytes
        removed = 0
        for path, size, _ in sorted(files, key=lambda entry: entry[2]):
            if removed >= surplus:
                break
            if path.name in pinned or path.parent.name in kept_kinds:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                removed += size
        return removed

    def sweep(self, pid: int | None = None) -> None:
        """Remove what a writer that died left behind.

        Parameters
        ----------
        pid : int or None
            Process id of the dead; None for all, where no other process uses the store.
        """
        for path, _, _ in _files(self.root / "incoming"):
            if pid is None or path.name.startswith(f"{pid}-"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _temporary(self) -> Path:
        return self.root / "incoming" / f"{os.getpid()}-{secrets.token_hex(12)}"


class Incoming:
    """A blob being written; a context manager that removes what was not committed."""

    def __init__(self, store: Store, expected: str | None, size_bytes: int) -> None:
        self._expected = expected
        self.size_bytes = size_bytes
        self.written = 0
        self._store = store
        self._digest = hashlib.sha256()
        self._path = store._temporary()
        with _explained(store.root):
            self._file: io.FileIO = self._path.open("xb", buffering=0)

    @property
    def sha256(self) -> str:
        """Checksum of what was written so far."""
        return self._digest.hexdigest()

    def write(self, data: Buffer) -> None:
        """Append bytes."""
        with _explained(self._store.root):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self._digest.update(data)
        self.written += len(data)

    def commit(self) -> bool:
        """Move the blob into its place; False, and nothing kept, if its checksum is another."""
        whole = self.written == self.size_bytes and self._expected in (None, self.sha256)
        if whole:
            target = self._store.path(self.sha256)
            with _explained(self._store.root):
                _sync(self._file)
                self._file.close()
                target.parent.mkdir(exist_ok=True, mode=0o700)
                self._path.replace(target)
        self.close()
        return whole

    def close(self) -> None:
        """Let go; removes the temporary file if there still is one."""
        # Closing flushes, and a full disk must not keep the file from being removed.
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sync(file: BinaryIO | io.FileIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _files(root: Path) -> Iterator[tuple[Path, int, int]]:
    """Yield path, size in bytes and time of last use (ns) of every file below `root`."""
    try:
        entries = list(os.scandir(root))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                stat = entry.stat(follow_symlinks=False)
                yield Path(entry.path), stat.st_size, stat.st_mtime_ns
        except OSError:
            continue  # removed by another process meanwhile


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn what the operating system says about a write into one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise ServerError(
                f"the server's disk is full ({root}: {error.strerror}); free some space, or "
                "start it with a smaller --cache-limit or another --cache"
            ) from error
        raise ServerError(f"the server cannot write its cache: {error}") from error
