"""What lies in an audio file, found before it is decoded: where its parts are, and what is missing.

libsndfile believes headers: it stops where one says so, though the file goes on, and says nothing
where the file ends earlier. A `Part` is a stretch that it decodes to the last sample.

Only the sum of its frames tells how long an MPEG audio file (MP3) is: the header that may announce
it (Xing or Info) is missing from many files, and untrue in joined, cut and damaged ones. So frames
are walked one by one; their layout is that of ISO/IEC 11172-3 and 13818-3. Tags (ID3v2, ID3v1,
APEv2) lie before, between and after.
"""

from __future__ import annotations

import bisect
import io
import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import soundfile

from plugin_host.files import riff

_KBPS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by version (2 also for 2.5) and layer; the index of a header counts from 1."""

_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Sample rates by the two version bits: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5."""

_LONGEST_SEARCH_BYTES = 1 << 20
_INFO_KBPS = 128
_DECODER_DELAY_SAMPLES = 529

Range = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """A frame header.

    Attributes
    ----------
    version, layer
        1 or 2 (also for 2.5), and 1 to 3.
    rate_hz, mono
        What the frame holds. With version and layer it is the same in all frames of a stream.
    size_bytes, samples
        Length of the frame, and what it decodes to.
    """

    version: int
    layer: int
    rate_hz: int
    mono: bool
    size_bytes: int
    samples: int

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """What does not change within a stream."""
        return self.version, self.layer, self.rate_hz, self.mono

    @property
    def side_bytes(self) -> int:
        """Bytes between the header of a frame of layer III and its sound."""
        if self.version == 1:
            return 17 if self.mono else 32
        return 9 if self.mono else 17


@dataclass
class Stream:
    """Frames that one encoder wrote.

    Attributes
    ----------
    frame
        The first one.
    frames
        How many there are, without the one that announces the others.
    announced
        How many the encoder announced; None if it did not.
    ranges
        Where they lie in the file: start and end, joined where they follow each other.
    info
        The frame that announces the others; empty if there is none.
    cut
        Whether the last frame breaks off.
    lost_bytes, lost_at
        Bytes that are neither frames nor tags, and before which frame they first lie.
    """

    frame: Frame
    frames: int = 0
    announced: int | None = None
    ranges: list[Range] = field(default_factory=list)
    info: bytes = b""
    cut: bool = False
    lost_bytes: int = 0
    lost_at: int = 0

    @property
    def samples(self) -> int:
        """Samples per channel that all its frames decode to."""
        return self.frames * self.frame.samples

    def _add(self, start: int, end: int) -> None:
        if self.ranges and self.ranges[-1][1] == start:
            self.ranges[-1] = (self.ranges[-1][0], end)
        else:
            self.ranges.append((start, end))


def parse_header(data: bytes) -> Frame | None:
    """Read the four bytes of a frame header; None if they are not one, or of free format."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version_bits, layer_bits = data[1] >> 3 & 3, data[1] >> 1 & 3
    bitrate, rate, padding = data[2] >> 4, data[2] >> 2 & 3, data[2] >> 1 & 1
    if version_bits == 1 or layer_bits == 0 or bitrate in (0, 15) or rate == 3:
        return None
    version, layer = (1 if version_bits == 3 else 2), 4 - layer_bits
    rate_hz = _RATES_HZ[version_bits][rate]
    bits = _KBPS[version, layer][bitrate - 1] * 1000
    if layer == 1:
        size, samples = (12 * bits // rate_hz + padding) * 4, 384
    else:
        samples = 576 if (version, layer) == (2, 3) else 1152
        size = samples // 8 * bits // rate_hz + padding
    return Frame(version, layer, rate_hz, data[3] >> 6 == 3, size, samples)


def read_streams(file: BinaryIO, begin: int, end: int) -> list[Stream]:
    """Walk all frames of a file.

    Parameters
    ----------
    file
        An open binary file.
    begin, end
        Where the frames lie in it, with their tags.

    Returns
    -------
    One stream for each encoder run: files that were joined give several. Empty if this is no
    MPEG audio, or of free format, whose frames do not tell their length.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    streams: list[Stream] = []
    position = after_tags(file, begin)
    current: Stream | None = None
    while position + 4 <= end:
        frame = parse_header(_at(file, position, 4))
        fits = frame is not None and (current is None or frame.kind == current.frame.kind)
        if frame is not None and fits and current and position + frame.size_bytes > end:
            current.cut = True
            break
        if frame is None or not fits or position + frame.size_bytes > end:
            after = after_tags(file, position)
            if after == position:
                after = _next_frame(file, position, end, current)
                if current is None and after == end:
                    return []
                if current is not None:
                    current.lost_at = current.lost_at if current.lost_bytes else current.frames
                    current.lost_bytes += after - position
            position = after
            continue
        after = position + frame.size_bytes
        announced = _announced(_at(file, position, 64), frame)
        if current is None or announced is not None:
            current = Stream(frame)
            streams.append(current)
        if announced is None:
            current.frames += 1
            current._add(position, after)
        else:
            current.announced = announced
            current.info = _at(file, position, frame.size_bytes)
        position = after
    return streams


def repair(stream: Stream) -> tuple[bytes, int]:
    """Return what to put before the frames of a stream so that a decoder reads all of them.

    Returns
    -------
    frame
        One that announces what the stream really holds; empty for layers I and II.
    skip_samples
        What to drop from the start of what is decoded then.
    """
    frame = stream.frame
    if frame.layer != 3:
        return b"", 0
    size = sum(end - start for start, end in stream.ranges)
    if stream.info:
        return _corrected(stream, size), 0
    version_bits = next(
        bits
        for bits, rates in _RATES_HZ.items()
        if frame.rate_hz in rates and (bits == 3) == (frame.version == 1)
    )
    rate = _RATES_HZ[version_bits].index(frame.rate_hz)
    kbps = _KBPS[frame.version, 3].index(_INFO_KBPS) + 1
    header = bytes(
        (0xFF, 0xE3 | version_bits << 3, kbps << 4 | rate << 2, 0xC0 if frame.mono else 0x00)
    )
    parsed = parse_header(header)
    length = 0 if parsed is None else parsed.size_bytes
    silent = (header + bytes(frame.side_bytes)).ljust(length, b"\0")
    tag = struct.pack(">4sIII", b"Info", 3, stream.frames + 1, 2 * length + size)
    # Told a length, decoders drop their own delay from the start. Without a tag they would not,
    # nor do the programs that play this file; so a silent frame is given them to drop it from.
    info = (header + bytes(frame.side_bytes) + tag).ljust(length, b"\0")
    return info + silent, frame.samples - _DECODER_DELAY_SAMPLES


def _corrected(stream: Stream, size_bytes: int) -> bytes:
    body = bytearray(stream.info)
    at = 4 + stream.frame.side_bytes
    flags = struct.unpack_from(">I", body, at + 4)[0]
    if not flags & 1:
        return bytes(body)
    struct.pack_into(">I", body, at + 8, stream.frames)
    if flags & 2:
        struct.pack_into(">I", body, at + 12, len(body) + size_bytes)
    # The delay of the encoder, which may follow, stays true; the padding at its end does not.
    lame = at + 8 + sum(n for bit, n in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    if len(body) >= lame + 24:
        body[lame + 22] &= 0xF0
        body[lame + 23] = 0
    return bytes(body)


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _announced(data: bytes, frame: Frame) -> int | None:
    at = 4 + frame.side_bytes
    if frame.layer != 3 or data[at : at + 4] not in (b"Xing", b"Info") or len(data) < at + 12:
        return None
    flags, frames = struct.unpack_from(">II", data, at + 4)
    return frames if flags & 1 else 0


def after_tags(file: BinaryIO, position: int) -> int:
    """Return where the tags that begin at a position end."""
    while True:
        head = _at(file, position, 32)
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG":
            position += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size, _, flags = struct.unpack("<III", head[12:24])
            position += size + (32 if flags >> 29 & 1 else 0)
        elif head and not any(head):
            # Zeros, with which some programs fill up the place of a tag.
            position += len(head)
        else:
            return position


def before_tags(file: BinaryIO, begin: int, end: int) -> int:
    """Return where the tags begin that stand at the end of a stretch: ID3v1 and APE.

    A decoder of FLAC takes them for a damaged frame, and loses the one before.
    """
    while True:
        tail = _at(file, max(begin, end - _ID3V1_BYTES), min(_ID3V1_BYTES, end - begin))
        ape = tail[-_APE_BYTES:]
        if len(tail) == _ID3V1_BYTES and tail[:3] == b"TAG":
            end -= _ID3V1_BYTES
        elif len(ape) == _APE_BYTES and ape[:8] == b"APETAGEX":
            size, _, flags = struct.unpack_from("<III", ape, 12)
            size += _APE_BYTES if flags >> 31 else 0
            if not _APE_BYTES <= size <= end - begin:
                return end
            end -= size
        else:
            return end


def _next_frame(file: BinaryIO, position: int, size_bytes: int, stream: Stream | None) -> int:
    """Return the next place where two frames of one kind follow each other, or the end."""
    limit = size_bytes if stream is not None else min(size_bytes, position + _LONGEST_SEARCH_BYTES)
    for start in _syncs(file, position + 1, limit):
        frame = parse_header(_at(file, start, 4))
        if frame is None or (stream is not None and frame.kind != stream.frame.kind):
            continue
        end = start + frame.size_bytes
        following = parse_header(_at(file, end, 4))
        if end == size_bytes or (following is not None and following.kind == frame.kind):
            return start
    return size_bytes


def _syncs(file: BinaryIO, start: int, end: int) -> Iterator[int]:
    """Yield the places of bytes 0xFF."""
    while start < end:
        block = _at(file, start, min(1 << 16, end - start))
        if not block:
            return
        at = block.find(b"\xff")
        while at >= 0:
            yield start + at
            at = block.find(b"\xff", at + 1)
        start += len(block)


_FLAC_START = b"fLaC\x00\x00\x00\x22"
_FLAC_TOTAL_OFFSET = 21
_OGG_FIRST, _OGG_LAST = 2, 4
_ID3V1_BYTES, _APE_BYTES = 128, 32
_MPEG_DELAYS = 6  # frames that encoder and decoder may take for delay and padding

Piece = bytes | range
"""Bytes as they stand, or a range of the file."""


@dataclass(frozen=True)
class Part:
    """A stretch of a file that decodes by itself.

    Attributes
    ----------
    pieces
        What to give to the decoder; empty for the file as it is.
    skip_samples
        How many of the first decoded samples belong to a repair and not to the file.
    share
        How much of what the container announces is there, from 0 to 1.
    announced_samples
        How many samples it announces, where ``share`` does not tell; None if unknown.
    least_samples
        How many it has at the least, where they are counted but for the delays of a codec.
    ends
        Whether its end is there, as far as the container marks it.
    notes
        What a person should know about it.
    """

    pieces: tuple[Piece, ...] = ()
    skip_samples: int = 0
    share: float = 1.0
    announced_samples: int | None = None
    least_samples: int = 0
    ends: bool = True
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes that are given to the decoder; 0 for the file as it is."""
        return sum(map(len, self.pieces))


def find_parts(path: Path) -> list[Part]:
    """Return the parts of an audio file in order; one, the file as it is, if nothing is known.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(12)
        if start[:4] in (b"RIFF", b"RF64", b"riff", b"FORM"):
            return _chunk_parts(path, file, size)
        if start[:4] == b"OggS":
            return _ogg_parts(file, size)
        begin = after_tags(file, 0)
        file.seek(begin)
        start = file.read(8)
        if start == _FLAC_START:
            return _flac_parts(file, begin, size)
        if start[:1] == b"\xff" or begin or path.suffix.lower() in (".mp3", ".mp2", ".mpga"):
            parts = _mpeg_parts(file, 0, size, path)
            if parts:
                return parts
        if start[:4] == b"caff":
            return _caf_parts(file, size)
    return [Part(ends=not _is_shorter_than_told(path))]


def _chunk_parts(path: Path, file: BinaryIO, size: int) -> list[Part]:
    sounds = riff.find_sounds(file, size)
    parts = []
    for sound in sounds:
        if sound.is_mpeg:
            parts += _mpeg_parts(file, sound.offset, sound.offset + sound.size_bytes)
            continue
        notes = []
        if sound.announced_bytes is None:
            notes.append("its header does not tell how long it is; read to the end of the file")
        if sound.unread_bytes:
            notes.append(
                f"{sound.unread_bytes} bytes follow what its header announces and were not read"
            )
        share, announced = 1.0, None
        if sound.announced_bytes is not None and sound.announced_bytes > sound.size_bytes:
            share = sound.size_bytes / sound.announced_bytes
            announced = sound.announced_bytes // sound.frame_bytes if sound.frame_bytes else None
        whole = sound.size_bytes - sound.size_bytes % (sound.frame_bytes or 1)
        mended: tuple[Piece, ...] = (sound.header, range(sound.offset, sound.offset + whole))
        if len(sounds) == 1:
            found = _decoded_samples(path)
            if found == whole // sound.frame_bytes if sound.frame_bytes else found > 0:
                mended = ()
        parts.append(Part(mended, share=share, announced_samples=announced, notes=tuple(notes)))
    return parts or [Part(ends=not _is_shorter_than_told(path))]


def _decoded_samples(path: Path) -> int:
    """Return how many samples libsndfile finds in a file; 0 if it cannot read it."""
    try:
        with open_sound(path) as sound:
            return int(sound.frames)
    # Whatever it makes of the file as it stands, the mended one is still to be tried.
    except Exception:
        return 0


def _ogg_parts(file: BinaryIO, size: int) -> list[Part]:
    """Split a chained file into its links; each begins with first pages after other pages."""
    links: list[list[int]] = []  # begin, end, and whether the last page was there
    in_first_pages = False
    for position, end, flags in _ogg_pages(file, size):
        first = bool(flags & _OGG_FIRST)
        if first and not in_first_pages:
            links.append([position, end, 0])
        if links:
            links[-1][1] = end
            links[-1][2] |= flags & _OGG_LAST
        in_first_pages = first
    if len(links) == 1:
        return [Part(ends=bool(links[0][2]))]
    return [Part((range(begin, end),), ends=bool(last)) for begin, end, last in links] or [Part()]


def _ogg_pages(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield begin, end and flags of every page that is there whole."""
    position = 0
    while position + 27 <= size:
        file.seek(position)
        head = file.read(27)
        if head[:4] != b"OggS":
            position = _find(file, b"OggS", position + 1, size)
            continue
        lengths = file.read(head[26])
        end = position + 27 + len(lengths) + sum(lengths)
        if len(lengths) < head[26] or end > size:
            return
        yield position, end, head[5]
        position = end


def _flac_parts(file: BinaryIO, begin: int, size: int) -> list[Part]:
    parts = []
    while begin < size:
        end = _find(file, _FLAC_START, begin + 1, size)
        file.seek(begin)
        head = bytearray(file.read(min(26, end - begin)))
        if len(head) < 26:
            break
        last = before_tags(file, begin + 26, end)
        total = struct.unpack(">Q", head[18:26])[0] & 0xF_FFFF_FFFF
        # Without a total the decoder reads every frame that is there.
        head[_FLAC_TOTAL_OFFSET] &= 0xF0
        head[22:26] = bytes(4)
        parts.append(Part((bytes(head), range(begin + 26, last)), announced_samples=total or None))
        begin = end
    return parts or [Part()]


def _caf_parts(file: BinaryIO, size: int) -> list[Part]:
    """Split joined files, and mend a size of samples that is unknown (-1) or more than is there."""
    starts, position, part = [0], 8, Part()
    while position + 12 <= size:
        file.seek(position)
        name, announced = struct.unpack(">4sq", file.read(12))
        there = size - position - 12
        if name == b"data" and (announced < 0 or announced > there):
            file.seek(starts[-1])
            head = file.read(position + 4 - starts[-1]) + struct.pack(">q", there)
            share = 1.0 if announced < 0 else there / announced
            part = Part((head, range(position + 12, size)), share=share)
            break
        if name == b"caff":
            starts.append(position)
            position += 8
        elif announced < 0:
            break
        else:
            position += 12 + announced
    joined = [Part((range(*each),)) for each in itertools.pairwise(starts)]
    return [*joined, part if part.pieces or not joined else Part((range(starts[-1], size),))]


def _is_shorter_than_told(path: Path) -> bool:
    """Whether libsndfile, which then reads what is there, has noted this about a file."""
    try:
        with open_sound(path) as sound:
            log = str(sound.extra_info)
    # Whoever reads the file will be told what is wrong with it.
    except Exception:
        return False
    return "(should be" in log or " should be " in log or "truncated" in log


def _mpeg_parts(file: BinaryIO, begin: int, end: int, whole_file: Path | None = None) -> list[Part]:
    """Return the streams of a stretch; as it is, where the file is nothing else and enough."""
    streams = [stream for stream in read_streams(file, begin, end) if stream.frames]
    parts = []
    for stream in streams:
        announced, notes = stream.announced or 0, []
        in_between = stream.lost_bytes and stream.lost_at < stream.frames
        if in_between or stream.lost_bytes > stream.frame.size_bytes:
            at_s = stream.lost_at * stream.frame.samples / stream.frame.rate_hz
            notes.append(
                f"at {at_s:.1f} s lie {stream.lost_bytes} bytes that are no sound of its kind, "
                "damaged or of another file; they were left out"
            )
        # Some encoders count the frame that announces the others, too.
        told = announced - 1 if announced == stream.frames + 1 else announced
        front, skip = (stream.info, 0) if told == stream.frames else repair(stream)
        pieces: tuple[Piece, ...] = (front, *(range(*each) for each in stream.ranges))
        if whole_file is not None and len(streams) == 1 and not stream.lost_bytes:
            enough = not told and _decoded_samples(whole_file) >= stream.samples
            if enough or told == stream.frames:
                pieces, skip = (), 0
        share = stream.frames / told if told > stream.frames else 1.0
        parts.append(
            Part(
                pieces,
                skip,
                share=share,
                least_samples=stream.samples - _MPEG_DELAYS * stream.frame.samples,
                ends=not stream.cut,
                notes=tuple(notes),
            )
        )
    return parts


def _find(file: BinaryIO, wanted: bytes, start: int, end: int) -> int:
    """Return where bytes next stand in a file; its end if nowhere."""
    tail = b""
    file.seek(start)
    position = start
    while position < end:
        block = file.read(1 << 20)
        if not block:
            break
        at = (tail + block).find(wanted)
        if at >= 0:
            return position - len(tail) + at
        tail = (tail + block)[-len(wanted) + 1 :]
        position += len(block)
    return end


class OpenSound(soundfile.SoundFile):  # type: ignore[misc]
    """A file open for reading in order.

    After every read soundfile seeks to where it is already, which some codecs cannot do.
    """

    #: A file that is read through it, to be closed with it.
    behind: BinaryIO | None = None

    def seekable(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Close it."""
        super().close()
        if self.behind is not None:
            self.behind.close()


def _has_resource_fork(path: Path) -> bool:
    """Whether a file beside it holds what a Mac knows about it: ``._song.mp3``.

    libsndfile looks there before it takes a file for MPEG, and refuses the file for what it finds.
    """
    beside = path.with_name(f"._{path.name}"), path.parent / ".AppleDouble" / path.name
    return any(os.path.lexists(fork) for fork in beside)


def _begins_as_mpeg(path: Path) -> bool:
    with path.open("rb") as file:
        return _is_mpeg_start(file.read(3))


def _is_mpeg_start(start: bytes) -> bool:
    return start == b"ID3" or start[:1] == b"\xff"


def open_sound(path: Path, spliced: Splice | None = None) -> OpenSound:
    """Open a file, or what `Splice` makes of it, with libsndfile.

    A name is a row of bytes, not always text. A file called ``.raw`` may have a header after all.

    Raises
    ------
    soundfile.SoundFileError, RuntimeError
        It is not audio that libsndfile reads.
    """
    if spliced is not None:
        return OpenSound(spliced)
    if _has_resource_fork(path) and _begins_as_mpeg(path):
        file = path.open("rb")
        sound = OpenSound(Splice(file, (range(os.fstat(file.fileno()).st_size),)))
        sound.behind = file
        return sound
    if os.name == "nt":
        return OpenSound(os.fspath(path))
    if path.suffix.lower() == ".raw":
        return OpenSound(os.open(path, os.O_RDONLY), closefd=True)
    return OpenSound(os.fsencode(path))


class Splice(io.RawIOBase):
    """Pieces of a file, read as if they followed each other.

    libsndfile calls it from C, where an exception would be printed and forgotten: it is kept in
    ``error`` instead, and the read looks like the end of the file.

    Of MPEG audio it is told no length when it opens it. Otherwise it would look for a resource fork
    first, and without a name to look for take a file ``._`` of the current folder for it.
    """

    def __init__(self, file: BinaryIO, pieces: tuple[Piece, ...]) -> None:
        super().__init__()
        self._file = file
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts = [0]
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + len(piece))
        self._position = 0
        self.error: Exception | None = None
        self._at_end = False
        self._hides_length = False
        self._hides_length = _is_mpeg_start(self.read(3))
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position; none, where the end is looked for the first time."""
        if self._at_end and self._hides_length:
            self._hides_length = False
            return 0
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, also beyond the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}
        self._position = max(0, base[whence] + offset)
        self._at_end = whence == os.SEEK_END
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fill a buffer; less only at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        done = 0
        self._at_end = False
        try:
            while done < len(view):
                index = bisect.bisect_right(self._starts, self._position) - 1
                if index >= len(self._pieces):
                    break
                within = self._position - self._starts[index]
                data = self._take(self._pieces[index], within, len(view) - done)
                if not data:
                    break
                view[done : done + len(data)] = data
                done += len(data)
                self._position += len(data)
        except Exception as error:
            self.error = error
        return done

    def _take(self, piece: Piece, start: int, size: int) -> bytes:
        if isinstance(piece, bytes):
            return piece[start : start + size]
        self._file.seek(piece.start + start)
        return self._file.read(min(size, len(piece) - start))
