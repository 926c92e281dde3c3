"""The chunks of WAV, RF64, Wave64 and AIFF files: what libsndfile does not keep, mend or tell.

Layout: EBU Tech 3285 (RIFF and bext), EBU Tech 3306 (RF64), Sony's Wave64, Apple's AIFF-C. Only
chunk headers are read; the samples stay on disk.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

METADATA_CHUNKS = (b"bext", b"iXML", b"cue ", b"smpl", b"inst", b"acid", b"axml", b"_PMX")
"""Chunks a digital audio workstation reads beside the samples, copied from input to output."""

_CUT_CHUNKS = (*METADATA_CHUNKS, b"fmt ", b"data", b"fact", b"PEAK", b"LIST", b"list", b"JUNK",
               b"ID3 ", b"id3 ", b"COMM", b"SSND", b"MARK", b"ANNO", b"NAME", b"AUTH", b"(c) ",
               b"APPL", b"INST", b"COMT", b"CHAN")  # fmt: skip
"""Chunks that may go on beyond the end of a cut file. Of other names, what does is no chunk."""

_UNKNOWN_SIZE = 0xFFFFFFFF
_LARGEST_METADATA_BYTES = 16 << 20
_MOST_CHUNKS = 10_000
_FEW_BYTES = 8
_EXTENSIBLE = 0xFFFE
_MASK_OFFSET = 20
_SAMPLE_TAGS = (1, 3, 6, 7)  # PCM, float, A-law, mu-law: every sample has its own bytes
_MPEG_TAGS = (b"\x50\x00", b"\x55\x00")
_SAMPLE_TYPES = (b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"fl32", b"FL32", b"fl64",
                 b"FL64", b"ulaw", b"ULAW", b"alaw", b"ALAW")  # fmt: skip
_SAMPLE_BYTES = {b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8, b"in24": 3, b"in32": 4,
                 b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1}  # fmt: skip

# A Wave64 chunk is named by a GUID; those that RIFF has too begin with its four letters.
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_LIST = bytes.fromhex("6c6973742f91cf11a5d628db04c10000")


@dataclass(frozen=True)
class Chunk:
    """One chunk: its name, where its payload lies, and how much of it there is.

    ``announced_bytes`` is the size in its header: None if that is unknown, as in a file that was
    written to a pipe or never finished.
    """

    name: bytes
    offset: int
    size_bytes: int
    announced_bytes: int | None = None


@dataclass(frozen=True)
class _Kind:
    """How a family of containers writes its chunks."""

    container: str
    form: bytes
    order: str = "<"

    @property
    def is_wave64(self) -> bool:
        return self.container == "W64"

    @property
    def head_bytes(self) -> int:
        return 24 if self.is_wave64 else 8

    @property
    def first(self) -> int:
        return 40 if self.is_wave64 else 12

    def head(self, name: bytes, size: int) -> bytes:
        """Return a chunk header."""
        if self.is_wave64:
            return name + _W64_TAIL + struct.pack("<Q", size + 24)
        return name + struct.pack(self.order + "I", min(size, _UNKNOWN_SIZE))


@dataclass(frozen=True)
class Sound:
    """The samples of a file, as its chunks tell.

    Attributes
    ----------
    container
        ``"RIFF"``, ``"RF64"``, ``"W64"`` or ``"AIFF"``.
    begin, end
        Where the container begins and ends in the file.
    offset, size_bytes
        Where the samples begin, and how many bytes of them are there.
    announced_bytes
        How many the header announces; None if it does not know.
    unread_bytes
        Bytes behind the samples that are no chunks.
    frame_bytes
        Bytes of one sample of all channels; 0 where samples have no bytes of their own.
    is_mpeg
        Whether the samples are frames of MPEG audio.
    header
        A container header that says what is really there, to be read before the samples.
    """

    container: str
    begin: int
    end: int
    offset: int
    size_bytes: int
    announced_bytes: int | None
    unread_bytes: int
    frame_bytes: int
    is_mpeg: bool
    header: bytes


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
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        kind = _kind(file, 0)
        if kind is None or kind.container not in ("RIFF", "RF64"):
            return []
        return _walk(file, kind, 0, end)[0]


def find_sounds(file: BinaryIO, end: int) -> list[Sound]:
    """Return where the samples of a file lie: one entry for each file if several were joined.

    Parameters
    ----------
    file
        An open binary file.
    end
        Its length in bytes.

    Returns
    -------
    Empty if this is not one of these containers, or has no format or samples.
    """
    sounds = []
    begin = 0
    while (kind := _kind(file, begin)) is not None:
        chunks, stop = _walk(file, kind, begin, end)
        sound = _sound(file, kind, chunks, begin, stop)
        if sound is None:
            break
        following = _kind(file, stop)
        if following is None and end - stop >= kind.head_bytes and _any(file, stop, end):
            sound = replace(sound, unread_bytes=sound.unread_bytes + end - stop)
        sounds.append(sound)
        begin = stop
    return sounds


def _kind(file: BinaryIO, begin: int) -> _Kind | None:
    head = _at(file, begin, 40)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _Kind(head[:4].decode(), b"WAVE")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _Kind("AIFF", head[8:12], ">")
    if head[:16] == _W64_RIFF and head[24:28] == b"wave":
        return _Kind("W64", b"wave")
    return None


def _walk(file: BinaryIO, kind: _Kind, begin: int, end: int) -> tuple[list[Chunk], int]:
    """Return the chunks of a container and where it ends, which its header may not know."""
    chunks: list[Chunk] = []
    long_size = 0
    position = begin + kind.first
    while position + kind.head_bytes <= end and len(chunks) < _MOST_CHUNKS:
        read = _chunk_head(file, kind, position)
        if read is None or (chunks and _kind(file, position) is not None):
            break
        name, announced = read
        payload = position + kind.head_bytes
        there = end - payload
        if announced > there + 1 and name not in _CUT_CHUNKS:
            break
        size: int | None = announced
        if name == b"ds64":
            long_size = struct.unpack("<QQ", _at(file, payload, 16).ljust(16, b"\0"))[1]
        if name == b"data" and announced == _UNKNOWN_SIZE:
            size = long_size or None
        if (
            name in (b"data", b"SSND")
            and size is not None
            and _is_unknown(file, kind, begin, payload, end, size)
        ):
            size = None
        held = there if size is None else min(size, there)
        chunks.append(Chunk(name, payload, held, size))
        position = _after(file, kind, begin, payload + held, end)
    return chunks, min(position, end)


def _chunk_head(file: BinaryIO, kind: _Kind, position: int) -> tuple[bytes, int] | None:
    """Return name and size of a chunk; None where none begins."""
    head = _at(file, position, kind.head_bytes)
    if len(head) < kind.head_bytes or not all(0x20 <= letter <= 0x7E for letter in head[:4]):
        return None
    if kind.is_wave64:
        size = int(struct.unpack("<Q", head[16:24])[0])
        return head[:4], max(size - 24, 0)
    return head[:4], int(struct.unpack(kind.order + "I", head[4:])[0])


def _after(file: BinaryIO, kind: _Kind, begin: int, position: int, end: int) -> int:
    """Return where the next chunk begins; some programs leave out the byte that pads an odd one."""
    if position >= end or _kind(file, position) is not None:
        return position
    if kind.is_wave64:
        return position + (begin - position) % 8
    if (position - begin) % 2 == 0:
        return position
    if not _begins_chunk(file, kind, position + 1, end) and _begins_chunk(
        file, kind, position, end
    ):
        return position
    return position + 1


def _begins_chunk(file: BinaryIO, kind: _Kind, position: int, end: int) -> bool:
    read = _chunk_head(file, kind, position)
    if read is None:
        return False
    return read[0] in (b"data", b"SSND") or position + kind.head_bytes + read[1] <= end + 1


def _is_unknown(
    file: BinaryIO, kind: _Kind, begin: int, payload: int, end: int, size: int | None
) -> bool:
    """Whether the size of the samples is one that programs write before they know it."""
    there = end - payload
    if size is None:
        return True
    if size < (_FEW_BYTES + 8 if kind.container == "AIFF" else _FEW_BYTES):
        following = _after(file, kind, begin, payload + size, end)
        return there > size and not _is_chain(file, kind, begin, following, end)
    # To a pipe ffmpeg writes the largest size, and sox one close to the largest signed one.
    return size > there and (size >= 0xFFFFF000 or 0x7FFFF000 <= size <= 0x7FFFFFFF)


def _is_chain(file: BinaryIO, kind: _Kind, begin: int, position: int, end: int) -> bool:
    """Whether chunks follow each other from a position exactly to the end."""
    for _ in range(_MOST_CHUNKS):
        if position >= end:
            return position <= end + 7
        read = _chunk_head(file, kind, position)
        if read is None:
            return False
        position = _after(file, kind, begin, position + kind.head_bytes + read[1], end)
    return False


def _any(file: BinaryIO, start: int, end: int) -> bool:
    """Whether there is anything but zeros."""
    file.seek(start)
    while start < end:
        block = file.read(min(1 << 20, end - start))
        if not block or any(block):
            return bool(block)
        start += len(block)
    return False


def _sound(file: BinaryIO, kind: _Kind, chunks: list[Chunk], begin: int, end: int) -> Sound | None:
    by_name = {chunk.name: chunk for chunk in reversed(chunks)}
    samples = by_name.get(b"SSND" if kind.container == "AIFF" else b"data")
    described = by_name.get(b"COMM" if kind.container == "AIFF" else b"fmt ")
    if samples is None or described is None:
        return None
    description = _at(file, described.offset, min(described.size_bytes, 4096))
    offset, size, announced = samples.offset, samples.size_bytes, samples.announced_bytes
    if kind.container == "AIFF":
        if len(description) < 18:
            return None
        skipped = 8 + int.from_bytes(_at(file, offset, 4), "big")
        skipped = min(skipped, size)
        offset, size = offset + skipped, size - skipped
        announced = None if announced is None else max(announced - skipped, 0)
        frame_bytes = _aiff_frame_bytes(description)
        header = _aiff_header(kind, description, size, frame_bytes)
    else:
        if len(description) < 16:
            return None
        frame_bytes = _wave_frame_bytes(description)
        header = _wave_header(kind, description, size)
    is_mpeg = kind.container != "AIFF" and description[:2] in _MPEG_TAGS
    # A second chunk of samples is against the standard, and no program reads it.
    unread = sum(chunk.size_bytes for chunk in chunks if chunk.name == samples.name)
    unread -= samples.size_bytes
    return Sound(
        kind.container, begin, end, offset, size, announced, unread, frame_bytes, is_mpeg, header
    )


def _wave_frame_bytes(description: bytes) -> int:
    tag, _, _, _, frame_bytes = struct.unpack_from("<HHIIH", description)
    if tag == _EXTENSIBLE and len(description) >= 26:
        tag = struct.unpack_from("<H", description, 24)[0]
    return int(frame_bytes) if tag in _SAMPLE_TAGS else 0


def _wave_header(kind: _Kind, description: bytes, size: int) -> bytes:
    fmt = kind.head(b"fmt ", len(description)) + description
    fmt += bytes(-len(fmt) % (8 if kind.is_wave64 else 2))
    if kind.is_wave64:
        whole = 40 + len(fmt) + 24 + size
        return (
            _W64_RIFF + struct.pack("<Q", whole) + b"wave" + _W64_TAIL + fmt
            + kind.head(b"data", size)
        )  # fmt: skip
    whole = 4 + len(fmt) + 8 + size
    if kind.container == "RF64":
        ds64 = b"ds64" + struct.pack("<IQQQI", 28, whole + 36, size, 0, 0)
        unknown = struct.pack("<I", _UNKNOWN_SIZE)
        return b"RF64" + unknown + b"WAVE" + ds64 + fmt + b"data" + unknown
    return kind.head(b"RIFF", whole) + b"WAVE" + fmt + kind.head(b"data", size)


def _aiff_frame_bytes(description: bytes) -> int:
    channels, _, bits = struct.unpack_from(">HIH", description)
    compression = description[18:22] if len(description) >= 22 else b"NONE"
    if compression not in _SAMPLE_TYPES:
        return 0
    return int(channels) * _SAMPLE_BYTES.get(compression, (int(bits) + 7) // 8)


def _aiff_header(kind: _Kind, description: bytes, size: int, frame_bytes: int) -> bytes:
    body = bytearray(description)
    if frame_bytes:
        struct.pack_into(">I", body, 2, min(size // frame_bytes, _UNKNOWN_SIZE))
    comm = kind.head(b"COMM", len(body)) + bytes(body) + bytes(len(body) % 2)
    if kind.form == b"AIFC":
        comm = kind.head(b"FVER", 4) + bytes.fromhex("a2805140") + comm
    sound = kind.head(b"SSND", size + 8) + bytes(8)
    return kind.head(b"FORM", 4 + len(comm) + len(sound) + size) + kind.form + comm + sound


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def read_metadata(path: Path) -> list[tuple[bytes, bytes]]:
    """Return name and payload of the metadata chunks of a WAV file, associated labels included.

    Other kinds of file give an empty list.
    """
    kept: list[tuple[bytes, bytes]] = []
    with path.open("rb") as file:
        for chunk in list_chunks(path):
            if chunk.size_bytes > _LARGEST_METADATA_BYTES:
                continue
            if chunk.name not in (*METADATA_CHUNKS, b"LIST"):
                continue
            payload = _at(file, chunk.offset, chunk.size_bytes)
            # A LIST of type adtl holds the names of cue points; LIST INFO is libsndfile's.
            if chunk.name != b"LIST" or payload[:4] == b"adtl":
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
        raise ValueError(f"{path} is not a WAV file, so it has no chunks to append to")
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


def read_channel_mask(path: Path) -> int:
    """Return which speaker each channel is for (WAVE_FORMAT_EXTENSIBLE); 0 if a file does not say.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    described = _extensible(path)
    if described is None:
        return 0
    with path.open("rb") as file:
        return int.from_bytes(_at(file, described.offset + _MASK_OFFSET, 4), "little")


def write_channel_mask(path: Path, mask: int) -> None:
    """Say which speaker each channel is for, in a file that is WAVE_FORMAT_EXTENSIBLE already."""
    described = _extensible(path)
    if described is not None:
        with path.open("r+b") as file:
            file.seek(described.offset + _MASK_OFFSET)
            file.write(struct.pack("<I", mask))


def _extensible(path: Path) -> Chunk | None:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        kind = _kind(file, 0)
        if kind is None or kind.container == "AIFF":
            return None
        for chunk in _walk(file, kind, 0, end)[0]:
            if chunk.name == b"fmt " and chunk.size_bytes >= 40:
                tag = int.from_bytes(_at(file, chunk.offset, 2), "little")
                return chunk if tag == _EXTENSIBLE else None
    return None


def write_w64_comment(path: Path, comment: str) -> None:
    """Append a comment to a Wave64 file, which libsndfile gives none: a list of type INFO."""
    text = comment.encode()
    item = b"ICMT" + struct.pack("<I", len(text)) + text
    body = b"INFO" + item + bytes(len(item) % 2)
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.write(bytes(-end % 8) + _W64_LIST + struct.pack("<Q", 24 + len(body)) + body)
        end = file.tell()
        file.write(bytes(-end % 8))
        file.seek(16)
        file.write(struct.pack("<Q", end + -end % 8))


def read_w64_comment(path: Path) -> str:
    """Return the comment of a Wave64 file; empty if it has none or is another kind of file."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        kind = _kind(file, 0)
        if kind is None or not kind.is_wave64:
            return ""
        for chunk in _walk(file, kind, 0, end)[0]:
            body = _at(file, chunk.offset, min(chunk.size_bytes, 1 << 16))
            if chunk.name == b"list" and body[:8] == b"INFOICMT":
                size = int.from_bytes(body[8:12], "little")
                return body[12 : 12 + size].decode(errors="replace")
    return ""


def write_aiff_length(path: Path, samples: int) -> None:
    """Set how many samples an AIFF file has, which libsndfile counts with the byte that pads it."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        kind = _kind(file, 0)
        if kind is None or kind.container != "AIFF":
            return
        chunks = {chunk.name: chunk for chunk in _walk(file, kind, 0, end)[0]}
        described, sound = chunks[b"COMM"], chunks[b"SSND"]
        frame_bytes = _aiff_frame_bytes(_at(file, described.offset, described.size_bytes))
        if frame_bytes and sound.size_bytes - 8 - frame_bytes * samples == 1:
            file.seek(described.offset + 2)
            file.write(struct.pack(">I", samples))
            file.seek(sound.offset - 4)
            file.write(struct.pack(">I", 8 + frame_bytes * samples))


def clear_peak_time(path: Path) -> None:
    """Set the time stamp of a PEAK chunk to zero, so that equal audio gives equal files.

    libsndfile adds the chunk to every float file and stamps it with the clock.
    """
    for chunk in list_chunks(path):
        if chunk.name == b"PEAK" and chunk.size_bytes >= 8:
            with path.open("r+b") as file:
                file.seek(chunk.offset + 4)
                file.write(b"\0\0\0\0")
