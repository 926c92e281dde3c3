"""The disk store: blobs named by their own checksum, and small records that point at them.

``objects/ab/abcd...`` holds raw bytes whose SHA-256 is the file's name; ``records/<kind>/<key>``
holds a msgpack value after its own SHA-256. Whatever is written goes to a temporary file first,
is synced to the disk and only then renamed into place, so that a reader finds all of an entry or
none of it, even after a crash or a power failure.
Every read of an entry that this process did not just write is checked; a damaged entry is removed
and counts as absent. Several processes may use one store at once. On a full disk the entries
used longest ago make room, and folders that were removed are made again.

The records of jobs, results and checkpoints are at the end.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from bridge.errors import ServerError
from bridge.files import CACHE_VARIABLE, make_folders, private_directory
from bridge.scratch import FileArray, LongArray, pieces
from bridge.separation import Levels, Report
from bridge.wire.codec import Buffer
from bridge.wire.messages import AudioInfo, StemInfo, Submit

T = TypeVar("T")
JOBS: Final = "jobs"  # jobs that are to be kept: the one kind of record that is never evicted
_FOLDERS: Final = ("objects", "records", "incoming")
_MOST_VERIFIED: Final = 4096
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """A store in a private directory, which is created if missing.

    Parameters
    ----------
    root : Path
        Its directory.
    limit_bytes : int
        Size that `trim` reduces it to.
    pinned : callable
        Returns the checksums of blobs that must not be evicted now.

    Attributes
    ----------
    usage : tuple of (int, int)
        Size in bytes and number of entries as `trim` or `measure` last found them.

    Raises
    ------
    ServerError
        Here if others could write to the directory; in every writing method if the disk is full
        of what cannot be evicted, or cannot be written.
    """

    def __init__(
        self,
        root: Path,
        limit_bytes: int = 10 << 30,
        pinned: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self.usage = (0, 0)
        self._pinned = pinned
        self._verified: dict[str, tuple[int, ...]] = {}
        self._make_folders()

    def path(self, sha256: str) -> Path:
        """Return where the blob with that checksum is, or would be."""
        return self.root / "objects" / sha256[:2] / sha256

    def create(self, sha256: str | None, size_bytes: int) -> Incoming:
        """Begin to write a blob; its checksum may be known in advance."""
        return Incoming(self, sha256, size_bytes)

    def put(self, *parts: Buffer | LongArray) -> str:
        """Write a blob of bytes and arrays, one after the other, and return its checksum."""
        arrays = [
            part if isinstance(part, FileArray | np.ndarray) else np.frombuffer(part, np.uint8)
            for part in parts
        ]
        try:
            return self._put(arrays)
        except Vanished:
            return self._put(arrays)

    def _put(self, arrays: Sequence[npt.NDArray[Any] | FileArray]) -> str:
        with self.create(None, sum(array.nbytes for array in arrays)) as incoming:
            for array in arrays:
                for piece in pieces(array):
                    incoming.write(piece)
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
        """Say whether a blob is there and undamaged; a damaged one is removed.

        One that nobody has written to since it was verified here is not read again.
        """
        path = self.path(sha256)
        try:
            known = self._verified.get(sha256) == _state(path)
            # A wrong size is only a false claim; the blob itself may be good.
            claimed = self.touch(sha256, size_bytes)
            state = _state(path)
            if not known:
                with path.open("rb") as file:
                    whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
                if not whole:
                    self.discard(sha256)
                    return False
        except OSError:
            return False
        if len(self._verified) >= _MOST_VERIFIED:
            self._verified.clear()
        self._verified[sha256] = state
        return claimed

    def discard(self, sha256: str) -> None:
        """Remove a blob, if it is there."""
        with contextlib.suppress(OSError):
            self.path(sha256).unlink()

    def write_record(self, kind: str, key: str, value: Any) -> None:
        """Write a record, replacing one of the same kind and key."""
        data = msgspec.msgpack.encode(value)
        path = self.root / "records" / kind / key
        with self.create(None, 32 + len(data)) as incoming:
            incoming.write(hashlib.sha256(data).digest() + data)
            incoming.commit(path)

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

    def measure(self) -> tuple[int, int]:
        """Return the size of the store in bytes and the number of its entries."""
        sizes = [size for _, size, _ in _files(self.root)]
        self.usage = sum(sizes), len(sizes)
        return self.usage

    def trim(self) -> int:
        """Remove the entries used longest ago until the store is within its limit.

        Returns
        -------
        int
            Bytes removed.
        """
        removed = self._evict(self.measure()[0] - self.limit_bytes)
        if removed:
            self.measure()
        return removed

    def make_room(self, size_bytes: int) -> bool:
        """Evict at least that many bytes; False if there was nothing to evict."""
        return self._evict(max(size_bytes, 1)) > 0

    def reserve(self, size_bytes: int) -> None:
        """Make room for a number of bytes before they are written.

        Raises
        ------
        OSError
            If there is too little room even with everything evicted.
        """
        while (lacking := size_bytes - shutil.disk_usage(self.root).free) > 0:
            if not self.make_room(lacking):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sweep(self, pid: int | None = None) -> None:
        """Remove what dead writers left behind.

        Parameters
        ----------
        pid : int or None
            Process id of the dead writer; None for all, if no other process uses the store.
        """
        for path, _, _ in _files(self.root / "incoming"):
            if pid is None or path.name.startswith(f"{pid}-"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def open_temporary(self) -> tuple[io.FileIO, Path]:
        """Open a new temporary file; its folders are made again if they are gone."""
        path = self.root / "incoming" / f"{os.getpid()}-{secrets.token_hex(12)}"
        try:
            return path.open("xb", buffering=0), path
        except FileNotFoundError:
            self._make_folders()
            return path.open("xb", buffering=0), path

    def _make_folders(self) -> None:
        with explained(self.root):
            try:
                private_directory(self.root)
            except ServerError as error:
                raise ServerError(
                    f"the server cannot use its cache: {error}; set {CACHE_VARIABLE} to another "
                    "directory"
                ) from error
            for name in _FOLDERS:
                (self.root / name).mkdir(exist_ok=True, mode=0o700)

    def _evict(self, surplus_bytes: int) -> int:
        if surplus_bytes <= 0:
            return 0
        pinned = self._pinned()
        files = [*_files(self.root / "objects"), *_files(self.root / "records")]
        removed = 0
        for path, size, _ in sorted(files, key=lambda entry: entry[2]):
            if removed >= surplus_bytes:
                break
            if path.name in pinned or path.parent.name == JOBS:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                removed += size
        return removed


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes whenever a file is written to, or replaced."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class Incoming:
    """An entry being written; a context manager that removes what was not committed.

    Parameters
    ----------
    store : Store
        Where it goes.
    expected : str or None
        Its checksum, if known in advance.
    size_bytes : int

    Raises
    ------
    ServerError
        Here and in the writing methods, if the disk is full or cannot be written.
    """

    def __init__(self, store: Store, expected: str | None, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.written = 0
        self._store = store
        self._expected = expected
        self._digest = hashlib.sha256()
        with explained(store.root):
            self._file, self._path = store.open_temporary()

    @property
    def sha256(self) -> str:
        """Checksum of what was written so far."""
        return self._digest.hexdigest()

    def write(self, data: Buffer) -> None:
        """Append bytes."""
        with explained(self._store.root):
            if not self.written:
                self._store.reserve(self.size_bytes)
            view = memoryview(data)
            while view:
                view = view[self._with_room(partial(self._file.write, view)) :]
        self._digest.update(data)
        self.written += len(data)

    def commit(self, place: Path | None = None) -> bool:
        """Move the entry into place; if its checksum is wrong keep nothing and return False.

        Parameters
        ----------
        place : Path or None
            None for the place of a blob.
        """
        sha256 = self.sha256
        whole = self.written == self.size_bytes and self._expected in (None, sha256)
        if whole:
            target = self._store.path(sha256) if place is None else place
            with explained(self._store.root):
                self._with_room(lambda: os.fsync(self._file.fileno()))
                self._file.close()
                self._with_room(partial(make_folders, target.parent))
                self._path.replace(target)
        self.close()
        return whole

    def close(self) -> None:
        """Close the entry; what was not committed is removed."""
        # Closing flushes, and a full disk must not keep the file from being removed.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Call `work`, which needs room on the disk, and make room for as long as that helps."""
        while True:
            try:
                return work()
            except OSError as error:
                needed = self.size_bytes - self.written
                if error.errno not in _FULL or not self._store.make_room(needed):
                    raise

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Vanished(ServerError):
    """The entry being written was removed; it can be written again."""


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn the operating system's error about a write into a clear one."""
    try:
        yield
    except OSError as error:
        if error.errno in (*_FULL, errno.EFBIG):
            raise ServerError(
                f"the server's disk is full ({place}: {error.strerror}); free some space, or "
                "start it with a smaller --cache-limit or another --cache"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise Vanished(f"the server's cache was removed meanwhile: {error}") from error
        raise ServerError(f"the server cannot write its cache: {error}") from error


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


RESULTS: Final = "results"
LATEST: Final = "latest"  # of jobs that can revise each other, the key of the one made last
CHECKPOINTS: Final = "checkpoints"


class KeptJob(Struct, frozen=True):
    """What is needed to start a job again after a restart."""

    asked: Submit
    # Who asked to keep it: public keys, or "" for the user of the server's machine.
    keepers: tuple[str, ...]


class ResultRecord(Struct, frozen=True, tag="finished"):
    """A finished job, and where its stems are; a worker's last message about it, too."""

    key: str
    job: Submit
    report: Report
    stems: tuple[StemInfo, ...]
    # What a job has to have in common with this one to revise it, and what that takes.
    kin: str = ""
    levels: Levels | None = None


class ArrayRecord(Struct, frozen=True):
    """A float32 array in the store, in C order and little endian."""

    sha256: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the array."""
        return 4 * math.prod(self.shape)


class Checkpoint(Struct, frozen=True):
    """The state of a job's flow after some of its steps."""

    step: int
    state: ArrayRecord


def find_result(store: Store, key: str, audio: AudioInfo) -> tuple[ResultRecord | None, bool]:
    """Look for a job's result with all its stems undamaged, and for its mixture.

    Returns
    -------
    result : ResultRecord or None
    audio_ready : bool
        Whether the mixture is there and undamaged; not looked for if there is a result.
    """
    record = store.read_record(RESULTS, key, ResultRecord)
    if record is not None:
        # All of them, so that every damaged one is removed.
        whole = [store.verify(stem.sha256, stem.size_bytes) for stem in record.stems]
        if all(whole):
            return record, True
    return None, store.verify(audio.sha256, audio.size_bytes)
