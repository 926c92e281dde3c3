"""Audio in chunks with credits, seen from the server: what comes in, and what goes out."""

from __future__ import annotations

from bridge.errors import ProtocolError
from bridge.protocol import CHUNK_BYTES, MIN_CHUNK_BYTES
from bridge.service.incoming import Incoming
from bridge.wire.descriptors import AudioInfo, StemInfo
from bridge.wire.messages import WINDOW_CHUNKS


class Upload:
    """A mixture on its way in: no chunk without credit, none out of order.

    A client may send chunks of 1 to 4 MiB; each costs one credit.
    """

    def __init__(self, incoming: Incoming, audio: AudioInfo) -> None:
        self.incoming = incoming
        self.received = 0
        self._size = audio.size_bytes
        self._credits = WINDOW_CHUNKS

    @property
    def complete(self) -> bool:
        """Whether all bytes have come."""
        return self.received == self._size

    def accept(self, offset: int, size_bytes: int) -> None:
        """Account for a chunk.

        Raises
        ------
        ProtocolError
            If it was not allowed.
        """
        if self._credits == 0:
            raise ProtocolError("a chunk of audio without credit; wait for credit messages")
        if offset != self.received or offset + size_bytes > self._size:
            raise ProtocolError(
                f"a chunk at byte {offset} with {size_bytes} bytes; expected byte {self.received} "
                f"of {self._size}"
            )
        if size_bytes < MIN_CHUNK_BYTES and offset + size_bytes < self._size:
            raise ProtocolError(f"a chunk of {size_bytes} bytes; all but the last have 1 to 4 MiB")
        self._credits -= 1
        self.received += size_bytes

    def written(self) -> bool:
        """Return a chunk's credit once it is on disk; False if no more chunks will come."""
        self._credits += 1
        return not self.complete


class Download:
    """A stem on its way out."""

    def __init__(self, stem: StemInfo, offset: int) -> None:
        if offset % 4 or offset > stem.size_bytes:
            raise ProtocolError(
                f"byte {offset} of the stem {stem.name!r}; expected a multiple of 4 up to "
                f"{stem.size_bytes}"
            )
        self.stem = stem
        self._next = offset

    def take(self) -> tuple[int, int] | None:
        """Return offset and size of the next chunk, or None if all have been taken."""
        offset = self._next
        size_bytes = min(CHUNK_BYTES, self.stem.size_bytes - offset)
        self._next += size_bytes
        return (offset, size_bytes) if size_bytes else None
