"""A blob on its way into the store: hashed as it comes, synced and moved into place once whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bridge.errors import ServerError
from bridge.protocol import Buffer

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Incoming:
    """A blob being written; a context manager that removes what was not committed.

    Parameters
    ----------
    temporary : Path
        Where its bytes go first.
    place : callable
        Says where a blob with a checksum belongs.
    expected : str or None
        Its checksum, if known in advance.
    size_bytes : int

    Raises
    ------
    ServerError
        Here and by the writing methods, if the disk is full or cannot be written.
    """

    def __init__(
        self,
        temporary: Path,
        place: Callable[[str], Path],
        expected: str | None,
        size_bytes: int,
    ) -> None:
        self.size_bytes = size_bytes
        self.written = 0
        self._expected = expected
        self._place = place
        self._digest = hashlib.sha256()
        self._path = temporary
        with explained(temporary.parent):
            self._file: io.FileIO = temporary.open("xb", buffering=0)

    @property
    def sha256(self) -> str:
        """Checksum of what was written so far."""
        return self._digest.hexdigest()

    def write(self, data: Buffer) -> None:
        """Append bytes."""
        with explained(self._path.parent):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self._digest.update(data)
        self.written += len(data)

    def commit(self) -> bool:
        """Move the blob into its place; False, and nothing kept, if its checksum is another."""
        sha256 = self.sha256
        whole = self.written == self.size_bytes and self._expected in (None, sha256)
        if whole:
            target = self._place(sha256)
            with explained(self._path.parent):
                os.fsync(self._file.fileno())
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


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn what the operating system says about a write into one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise ServerError(
                f"the server's disk is full ({place}: {error.strerror}); free some space, or "
                "start it with a smaller --cache-limit or another --cache"
            ) from error
        raise ServerError(f"the server cannot write its cache: {error}") from error
