"""Spans that a session already holds: notes of a MIDI file, labels, named regions and markers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import InputError
from bridge.request import Prompt, Span

DEFAULT_GAP_S = 0.5


@dataclass(frozen=True)
class Label:
    """A named stretch or, with equal ends, a named point.

    Attributes
    ----------
    text
        Its name; ``stem: prompt`` names a stem and what to extract.
    start_s, end_s
        Seconds.
    """

    text: str
    start_s: float
    end_s: float


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
        msg = f"the gap is {gap_s} s; expected seconds from 0 up"
        raise InputError(msg)
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
    import mido

    try:
        midi = mido.MidiFile(path)
    except FileNotFoundError:
        msg = f"{path}: no such file; check the name"
        raise InputError(msg) from None
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        msg = f"{path}: not a standard MIDI file ({error or 'it breaks off'})"
        raise InputError(msg) from None
    if midi.type == 2:
        msg = f"{path}: MIDI of type 2 has no common time; save it as type 1"
        raise InputError(msg)
    index = None if track is None else _find_track(path, midi, track)
    seconds = _tempo_map(midi)
    stretches: list[tuple[float, float]] = []
    for number, messages in enumerate(midi.tracks):
        if index is None or number == index:
            stretches += [(seconds(a), seconds(b)) for a, b in _notes(messages)]
    spans = merge_stretches(stretches, gap_s)
    if not spans:
        where = "" if track is None else f" in track {track}"
        msg = f"{path}: no notes{where}; choose another track"
        raise InputError(msg)
    return spans


def _find_track(path: Path, midi: object, track: str | int) -> int:
    tracks = midi.tracks  # type: ignore[attr-defined]
    names = [messages.name for messages in tracks]
    if isinstance(track, str) and track in names:
        return names.index(track)
    if str(track).isdigit() and 1 <= int(track) <= len(tracks):
        return int(track) - 1
    known = ", ".join(f"{number}: {name!r}" for number, name in enumerate(names, 1))
    msg = f"{path}: no track {track!r}; there are {known}"
    raise InputError(msg)


class _TempoMap:
    """Seconds of a tick, from the tempo changes of all tracks."""

    def __init__(self, changes: Sequence[tuple[int, int]], ticks_per_beat: int) -> None:
        self._segments: list[tuple[int, float, float]] = []
        tick, seconds, tempo = 0, 0.0, 500_000
        for at, new in sorted(changes, key=lambda change: change[0]):
            seconds += (at - tick) * tempo / 1e6 / ticks_per_beat
            tick, tempo = at, new
            self._segments.append((tick, seconds, tempo / 1e6 / ticks_per_beat))
        self._segments.insert(0, (0, 0.0, 0.5 / ticks_per_beat))

    def __call__(self, tick: int) -> float:
        start, seconds, per_tick = next(
            segment for segment in reversed(self._segments) if segment[0] <= tick
        )
        return seconds + (tick - start) * per_tick


def _tempo_map(midi: object) -> _TempoMap:
    changes = []
    for messages in midi.tracks:  # type: ignore[attr-defined]
        tick = 0
        for message in messages:
            tick += message.time
            if message.type == "set_tempo":
                changes.append((tick, message.tempo))
    return _TempoMap(changes, midi.ticks_per_beat)  # type: ignore[attr-defined]


def _notes(messages: Iterable[object]) -> list[tuple[int, int]]:
    """Return start and end of every note in ticks; one that never ends lasts to the last event."""
    tick = 0
    sounding: dict[tuple[int, int], list[int]] = {}
    notes = []
    for message in messages:
        tick += message.time  # type: ignore[attr-defined]
        kind = message.type  # type: ignore[attr-defined]
        if kind not in ("note_on", "note_off"):
            continue
        key = (message.channel, message.note)  # type: ignore[attr-defined]
        if kind == "note_on" and message.velocity > 0:  # type: ignore[attr-defined]
            sounding.setdefault(key, []).append(tick)
        elif sounding.get(key):
            notes.append((sounding[key].pop(0), tick))
    notes += [(start, tick) for starts in sounding.values() for start in starts]
    return notes


def read_labels(path: Path) -> tuple[Label, ...]:
    """Read Audacity's label file: start, end and text of a line, divided by tabs.

    Lines of a spectral selection, which begin with a backslash, are passed over.

    Raises
    ------
    InputError
        The file is missing or a line is not like that.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"
        raise InputError(msg) from None
    labels = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("\\"):
            continue
        fields = line.split("\t", 2)
        try:
            # Some locales write a decimal comma.
            start, end = (float(field.replace(",", ".")) for field in fields[:2])
        except ValueError:
            msg = f"{path}, line {number}: expected start, end and text divided by tabs"
            raise InputError(msg) from None
        if not 0 <= start <= end < float("inf"):
            msg = f"{path}, line {number}: the label goes from {start:g} to {end:g} s"
            raise InputError(msg)
        labels.append(Label(fields[2].strip() if len(fields) > 2 else "", start, end))
    return tuple(labels)


def prompts_from_labels(labels: Iterable[Label]) -> tuple[Prompt, ...]:
    """Turn named stretches into prompts, one for each name, in the order they first come.

    ``vox: lead vocals`` gives the stem ``vox`` the prompt "lead vocals"; a text without a colon is
    the prompt itself. A text that begins with ``-`` says where the sound is not. A point, such as
    a marker, names a prompt without a span.
    """
    texts: dict[str, tuple[str, str | None]] = {}
    spans: dict[str, list[Span]] = {}
    for label in labels:
        absent = label.text.startswith("-")
        name, colon, text = label.text.lstrip("- ").partition(":")
        name, text = name.strip(), text.strip()
        if not name:
            continue
        key = name.casefold()
        if key not in texts:
            texts[key] = (text or name, name if colon and text else None)
            spans[key] = []
        elif text and texts[key][1] is None:
            texts[key] = (text, name)
        if label.end_s > label.start_s:
            spans[key].append(Span(label.start_s, label.end_s, "-" if absent else "+"))
    return tuple(
        Prompt(text, name, tuple(sorted(spans[key], key=lambda span: span.start_s)))
        for key, (text, name) in texts.items()
    )
