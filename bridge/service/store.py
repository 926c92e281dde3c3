"""The disk store: blobs named by their own checksum, and small records that point at them.

``objects/ab/abcd...`` holds raw bytes whose SHA-256 is the file's name; ``records/<kind>/<key>``
holds a msgpack value after its own SHA-256. Whatever is written goes to a temporary file first,
is synced to the disk and only then renamed into place, so that a reader finds all of an entry or
none, whoever is killed and whenever the power fails.
Every read of an entry that this process did not just write is checked; a damaged entry is removed
and counts as absent. Several processes may use one store at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from bridge.protocol import Buffer
from bridge.service.incoming import Incoming, explained

T = TypeVar("T")
_PIECE_BYTES: Final = 1 << 20


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
        with explained(root):
            for name in ("objects", "records", "incoming"):
                (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Return where the blob with that checksum is, or would be."""
        return self.root / "objects" / sha256[:2] / sha256

    def create(self, sha256: str | None, size_bytes: int) -> Incoming:
        """Begin to write a blob; its checksum may be known in advance."""
        return Incoming(self._temporary(), self.path, sha256, size_bytes)

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
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def verify(self, sha256: str, size_bytes: int) -> bool:
        """Say whether a blob is there and whole; a damaged one is removed."""
        try:
            with self.path(sha256).open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False
        if not whole:
            self.discard(sha256)
        # Of another size than its checksum belongs to is only what somebody claims.
        return whole and self.touch(sha256, size_bytes)

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
            with explained(self.root):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with temporary.open("xb", buffering=0) as file:
                    file.write(hashlib.sha256(data).digest() + data)
                    os.fsync(file.fileno())
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
