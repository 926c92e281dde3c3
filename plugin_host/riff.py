"""The chunks of a WAV file: what libsndfile neither keeps nor leaves reproducible.

Layout: EBU Tech 3285 (RIFF and bext) and EBU Tech 3306 (RF64). Only chunk headers are read; the
samples stay on disk.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

METADATA_CHUNKS = (b"bext", b"iXML", b"cue ", b"smpl", b"inst", b"acid", b"axml", b"_PMX")
"""Chunks a digital audio workstation reads beside the samples, copied from input to output."""

_UNKNOWN_SIZE = 0xFFFFFFFF
_LARGEST_METADATA_BYTES = 16 << 20


@dataclass(frozen=True)
class Chunk:
    """One chunk of a RIFF or RF64 file: four letters, and where its payload lies."""

    name: bytes
    offset: int
    size_bytes: int


def list_chunks(path: Path) -> list[Chunk]:
    """Return the chunks of a WAV file in order; an empty list if the file is not RIFF or RF64.

    Parameters
    ----------
    path
        An existing file.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(12)
        if len(header) < 12 or header[:4] not in (b"RIFF", b"RF64") or header[8:] != b"WAVE":
            return []
        return _walk(file, end)


def _walk(file: BinaryIO, end: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    data_size = 0
    position = 12
    while position + 8 <= end:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        if name == b"ds64":
            _, data_size = struct.unpack("<QQ", file.read(16))
        if name == b"data" and size == _UNKNOWN_SIZE:
            size = data_size
        size = min(size, end - position - 8)
        chunks.append(Chunk(name, position + 8, size))
        position += 8 + size + (size & 1)
    return chunks


def read_metadata(path: Path) -> list[tuple[bytes, bytes]]:
    """Return name and payload of the metadata chunks of a WAV file, associated labels included.

    Other kinds of file give an empty list.
    """
    kept: list[tuple[bytes, bytes]] = []
    with path.open("rb") as file:
        for chunk in list_chunks(path):
            if chunk.size_bytes > _LARGEST_METADATA_BYTES:
                continue
            file.seek(chunk.offset)
            payload = file.read(chunk.size_bytes)
            # A LIST of type adtl holds the names of cue points; LIST INFO is libsndfile's.
            if chunk.name in METADATA_CHUNKS or (chunk.name == b"LIST" and payload[:4] == b"adtl"):
                kept.append((chunk.name, payload))
    return kept


def append_chunks(path: Path, chunks: Iterable[tuple[bytes, bytes]]) -> None:
    """Append chunks to a WAV file in place and correct the sizes in its header.

    Raises
    ------
    ValueError
        The file is neither RIFF nor RF64.
    """
    present = list_chunks(path)
    if not present:
        msg = f"{path} is not a WAV file, so it has no chunks to append to"
        raise ValueError(msg)
    with path.open("r+b") as file:
        file.seek(0, 2)
        if file.tell() & 1:
            file.write(b"\0")
        for name, payload in chunks:
            file.write(struct.pack("<4sI", name, len(payload)) + payload)
            if len(payload) & 1:
                file.write(b"\0")
        size = file.tell() - 8
        file.seek(0)
        if file.read(4) == b"RF64":
            file.seek(next(c.offset for c in present if c.name == b"ds64"))
            file.write(struct.pack("<Q", size))
        else:
            file.seek(4)
            file.write(struct.pack("<I", size))


def clear_peak_time(path: Path) -> None:
    """Set the time stamp of a PEAK chunk to zero, so that equal audio gives equal files.

    libsndfile adds the chunk to every float file and stamps it with the clock.
    """
    for chunk in list_chunks(path):
        if chunk.name == b"PEAK" and chunk.size_bytes >= 8:
            with path.open("r+b") as file:
                file.seek(chunk.offset + 4)
                file.write(b"\0\0\0\0")
