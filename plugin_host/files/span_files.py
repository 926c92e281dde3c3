"""Spans that a session already holds: notes of a MIDI file, labels, named regions and markers.

Anybody may have written a MIDI file, so nothing in it is believed: numbers have the four bytes
that the standard gives them, and an event costs a few bytes of memory rather than an object.

Why not mido, with which the tests write files and compare the notes: it reads a number for as long
as its bytes go on, in quadratic time (4 s for 200 KB, so half an hour for the 4 MiB that are read
here), and nothing short of walking all events finds such a number before. It refuses what other
programs open, such as a chunk of another kind between the tracks or a key with 32 sharps, and takes
five times the time and the memory for what both read.
"""

from __future__ import annotations

import bisect
import re
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import InputError, about
from bridge.files import read_bounded
from bridge.request import Polarity, Prompt, Span

_NTSC = 29  # SMPTE's code for 30 frames in 1.001 s
_DEFAULT_TEMPO_US = 500_000
_META, _SYSEX, _ESCAPE = 0xFF, 0xF0, 0xF7
_TRACK_NAME, _END_OF_TRACK, _SET_TEMPO = 0x03, 0x2F, 0x51
_NOTE_OFF, _NOTE_ON = 0x8, 0x9
_LONGEST_NUMBER = 4
# Bytes after the status of a channel message, by its upper half.
_DATA_BYTES = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}
_SYSTEM_DATA_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}


@dataclass(frozen=True)
class MidiTrack:
    """A track.

    Attributes
    ----------
    name
        As it was written, in UTF-8 or Latin-1; empty if the track has none.
    notes
        Start and end of every note in ticks; one that never ends lasts to the last event.
    """

    name: str
    notes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class MidiFile:
    """What a file holds.

    Attributes
    ----------
    tracks
        In the order of the file.
    changes
        Ticks, in order, and how many seconds a tick lasts from there on.
    """

    tracks: tuple[MidiTrack, ...]
    changes: tuple[tuple[int, float], ...]


def parse_midi(data: bytes) -> MidiFile:
    """Read a standard MIDI file of type 0 or 1, also inside RIFF (``.rmi``).

    Parameters
    ----------
    data
        The whole file.

    Raises
    ------
    InputError
        It is not MIDI, is damaged, or has tracks of independent time (type 2).
    """
    chunks = _chunks(_out_of_riff(data))
    kind, header = next(chunks, (b"", b""))
    if kind != b"MThd" or len(header) < 6:
        raise _none("it does not begin as one")
    midi_type, count, division = struct.unpack_from(">HHh", header)
    if midi_type == 2:
        raise InputError("MIDI of type 2 has no common time; save it as type 1")
    if division == 0:
        raise _none("a beat has no ticks")
    tempi: list[tuple[int, int]] = []
    tracks = [_read_track(content, tempi) for kind, content in chunks if kind == b"MTrk"]
    if len(tracks) < count:
        raise _none(f"it announces {count} tracks and holds {len(tracks)}")
    return MidiFile(tuple(tracks), tuple(_tick_lengths(division, tempi)))


def _none(why: str) -> InputError:
    return InputError(f"not a standard MIDI file ({why}); export it again")


def _out_of_riff(data: bytes) -> bytes:
    if data[:4] != b"RIFF" or data[8:12] != b"RMID":
        return data
    place = 12
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"data":
            return data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    return b""


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of every chunk; kinds that nobody knows are allowed."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "big")
        content = data[place + 8 : place + 8 + size]
        if len(content) < size and data[place : place + 4] in (b"MThd", b"MTrk"):
            raise _none("it breaks off")
        yield data[place : place + 4], content
        place += 8 + size


def _tick_lengths(division: int, tempi: list[tuple[int, int]]) -> Iterator[tuple[int, float]]:
    if division < 0:
        # Not beats but frames of SMPTE time code: their negative rate, and ticks in a frame.
        rate, ticks = -(division >> 8), division & 0xFF
        yield 0, 1.0 / ((30 / 1.001 if rate == _NTSC else rate) * max(ticks, 1))
        return
    for tick, tempo in [(0, _DEFAULT_TEMPO_US), *sorted(tempi, key=lambda change: change[0])]:
        yield tick, tempo / 1e6 / division


def _read_track(data: bytes, tempi: list[tuple[int, int]]) -> MidiTrack:
    """Read a track; its changes of tempo, which are those of all tracks, go into a list."""
    name: bytes | None = None
    notes: list[tuple[int, int]] = []
    sounding: dict[int, deque[int]] = {}
    tick = 0
    for tick, status, content in _events(data):
        if status == _META:
            if content[0] == _TRACK_NAME and name is None:
                name = content[1:]
            elif content[0] == _SET_TEMPO and len(content) == 4:
                tempi.append((tick, int.from_bytes(content[1:], "big")))
            continue
        key = (status & 0x0F) << 7 | content[0]
        if status >> 4 == _NOTE_ON and content[1]:
            sounding.setdefault(key, deque()).append(tick)
        elif sounding.get(key):
            notes.append((sounding[key].popleft(), tick))
    notes += [(start, tick) for starts in sounding.values() for start in starts]
    return MidiTrack(_text(name or b""), tuple(notes))


def _events(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield tick, status and content of notes and meta events, and of the last event of a track."""
    tick = place = status = 0
    try:
        while place < len(data):
            step, place = _number(data, place)
            tick += step
            if data[place] & 0x80:
                status = data[place]
                place += 1
            elif not status:
                raise _none("a track begins without an event")
            start = place
            if status == _META:
                size, place = _number(data, place + 1)
                content = data[start : start + 1] + data[place : place + size]
            elif status in (_SYSEX, _ESCAPE):
                size, place = _number(data, place)
            else:
                known = _DATA_BYTES if status < _SYSEX else _SYSTEM_DATA_BYTES
                size = known.get(status >> 4 if status < _SYSEX else status, 0)
                content = data[place : place + size]
                if not content.isascii():
                    raise _none("an event is damaged")
            place += size
            if place > len(data):
                raise _none("it breaks off")
            if status == _META or status >> 4 in (_NOTE_OFF, _NOTE_ON):
                yield tick, status, content
                if status == _META and content[0] == _END_OF_TRACK:
                    return
    except IndexError:
        raise _none("it breaks off") from None
    if status != _META and tick:
        yield tick, _META, bytes([_END_OF_TRACK])


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of variable length and the place after it."""
    value = 0
    for _ in range(_LONGEST_NUMBER):
        byte = data[place]
        place += 1
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, place
    raise _none("a number is longer than the standard allows")


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")


DEFAULT_GAP_S = 0.5

MOST_LABELS = 20_000
"""More than anybody sets in a session; prompts and spans of more would take minutes."""

_LARGEST_BYTES = 4 << 20
_MOST_NAMES = 20


@dataclass(frozen=True)
class Label:
    """A named stretch or, with equal ends, a named point.

    Attributes
    ----------
    text
        Its name; see `name` and `prompt`.
    start_s, end_s
        Seconds.
    """

    text: str
    start_s: float
    end_s: float

    @property
    def absent(self) -> bool:
        """Whether it says where something is not: ``-vox``."""
        return self.text.lstrip().startswith("-")

    @property
    def name(self) -> str:
        """The ``vox`` of ``vox: lead vocals``, ``-vox`` or ``vox``."""
        return self._parts()[0]

    @property
    def prompt(self) -> str | None:
        """The ``lead vocals`` of ``vox: lead vocals``; None for a text without such a colon."""
        return self._parts()[1]

    def _parts(self) -> tuple[str, str | None]:
        bare = self.text.lstrip("- ").strip()
        name, colon, prompt = bare.partition(":")
        # The space after the colon tells "vox: lead vocals" from a time such as "Take 12:30".
        if colon and name.strip() and prompt[:1].isspace():
            return name.strip(), prompt.strip()
        return bare.rstrip(": "), None


def merge_stretches(
    stretches: Iterable[tuple[float, float]], gap_s: float = DEFAULT_GAP_S
) -> tuple[Span, ...]:
    """Join stretches closer than a gap into positive spans, in order.

    Parameters
    ----------
    stretches
        Start and end in seconds, in any order, overlapping or not; empty ones are left out.
    gap_s
        The longest silence inside a span, from 0 up.

    Raises
    ------
    InputError
        The gap is negative or not finite.
    """
    if not 0.0 <= gap_s < float("inf"):
        raise InputError(f"the gap is {gap_s} s; expected seconds from 0 up")
    joined: list[list[float]] = []
    for start, end in sorted(stretches):
        if end <= start:
            continue
        if joined and start - joined[-1][1] <= gap_s:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return tuple(Span(start, end) for start, end in joined)


def read_midi_spans(
    path: Path, track: str | int | None = None, gap_s: float = DEFAULT_GAP_S
) -> tuple[Span, ...]:
    """Turn the notes of a MIDI file into positive spans; tempo changes are respected.

    Parameters
    ----------
    path
        A standard MIDI file of type 0 or 1.
    track
        Name or number (from 1) of the track; None takes all notes.
    gap_s
        See `merge_stretches`.

    Raises
    ------
    InputError
        The file is missing, not MIDI, has independent tracks (type 2), no such track, or no note.
    """
    data = _read_small(path)
    with about(path):
        midi = parse_midi(data)
    index = None if track is None else _find_track(path, midi, track)
    seconds = _Clock(midi.changes)
    spans = merge_stretches(
        (
            (seconds(start), seconds(end))
            for number, found in enumerate(midi.tracks)
            if index is None or number == index
            for start, end in found.notes
        ),
        gap_s,
    )
    if not spans:
        where = "" if track is None else f" in track {track}"
        raise InputError(f"{path}: no notes{where}; choose another track")
    return spans


def _read_small(path: Path) -> bytes:
    """Read a whole file that can only be small; InputError if it is not, or cannot be read."""
    try:
        return read_bounded(path, _LARGEST_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _find_track(path: Path, midi: MidiFile, track: str | int) -> int:
    names = [found.name for found in midi.tracks]
    if isinstance(track, str) and track in names:
        return names.index(track)
    numbers = {str(number): number - 1 for number in range(1, len(names) + 1)}
    if str(track) in numbers:
        return numbers[str(track)]
    known = ", ".join(f"{number}: {name!r}" for number, name in enumerate(names[:_MOST_NAMES], 1))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    raise InputError(f"{path}: no track {track!r}; there are {known}{more}")


class _Clock:
    """Seconds of a tick.

    Parameters
    ----------
    changes
        Ticks, in order, and how many seconds a tick lasts from there on.
    """

    def __init__(self, changes: Sequence[tuple[int, float]]) -> None:
        self._ticks, self._seconds, self._lengths = [0], [0.0], [0.0]
        for tick, length in changes:
            self._seconds.append(self(tick))
            self._ticks.append(tick)
            self._lengths.append(length)

    def __call__(self, tick: int) -> float:
        at = bisect.bisect_right(self._ticks, tick) - 1
        return self._seconds[at] + (tick - self._ticks[at]) * self._lengths[at]


def read_labels(path: Path) -> tuple[Label, ...]:
    """Read Audacity's label file: start, end and text of a line, divided by tabs.

    Lines of a spectral selection, which begin with a backslash, are passed over. What begins
    before 0 is cut there.

    Raises
    ------
    InputError
        The file is missing, not UTF-8, or a line is not like that.
    """
    data = _read_small(path)
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: the labels are not in UTF-8; save the file as UTF-8") from None
    labels: list[Label] = []
    # Not splitlines: a label may hold other characters that end a line elsewhere.
    lines = re.split(r"\r\n|\n|\r", text)
    check_label_count(path, sum(1 for line in lines if line.strip()))
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("\\"):
            continue
        fields = line.split("\t", 2)
        try:
            # Some locales write a decimal comma.
            start, end = (float(field.replace(",", ".")) for field in fields[:2])
        except ValueError:
            raise InputError(
                f"{path}, line {number}: expected start, end and text divided by tabs"
            ) from None
        if not float("-inf") < start <= end < float("inf"):
            raise InputError(f"{path}, line {number}: the label goes from {start:g} to {end:g} s")
        # One that also ends before 0 keeps its place, which is nowhere in the audio.
        start = max(start, 0.0) if end > 0 else start
        labels.append(Label(fields[2].strip() if len(fields) > 2 else "", start, end))
    return tuple(labels)


def check_label_count(source: Path, count: int) -> None:
    """Refuse a file or session with more labels, markers and regions than people set.

    Raises
    ------
    InputError
        It has more than `MOST_LABELS`.
    """
    if count > MOST_LABELS:
        raise InputError(f"{source}: {count} labels or markers; expected at most {MOST_LABELS}")


def prompts_from_labels(labels: Iterable[Label]) -> tuple[Prompt, ...]:
    """Turn named stretches into prompts, one for each name, in the order they first come.

    ``vox: lead vocals`` gives the stem ``vox`` the prompt "lead vocals"; a text without a colon
    and a space is the prompt itself. A text that begins with ``-`` says where the sound is not.
    A point, such as a marker, names a prompt without a span.
    """
    texts: dict[str, tuple[str, str | None]] = {}
    spans: dict[str, list[Span]] = {}
    for label in labels:
        name, text = label.name, label.prompt
        if not name:
            continue
        key = name.casefold()
        if key not in texts:
            texts[key] = (name, None) if text is None else (text, name)
            spans[key] = []
        elif text is not None and texts[key][1] is None:
            texts[key] = (text, name)
        if label.end_s > label.start_s:
            polarity: Polarity = "-" if label.absent else "+"
            spans[key].append(Span(label.start_s, label.end_s, polarity))
    return tuple(
        Prompt(text, name, tuple(sorted(spans[key], key=lambda span: span.start_s)))
        for key, (text, name) in texts.items()
    )
