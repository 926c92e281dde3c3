"""What sessions of all workstations have in common: tracks, the audio they use, stems to add.

Cutting clips to a range, and moving spans between the timeline and a clip's audio, are here too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from bridge.errors import InputError
from bridge.request import Span
from plugin_host.files.span_files import Label

Range = tuple[float, float]
"""Start and end on the timeline, in seconds."""


HANDLE_S: Final = 0.25
"""How much more than it plays a stem has at either end, so that its edges can be moved."""


class SessionError(InputError):
    """A session cannot be read, or has something that cannot be honoured."""


@dataclass(frozen=True)
class Source:
    """A channel of an audio file, or all of them.

    Attributes
    ----------
    path
        The file.
    channel
        Which channel, from 0; None for all.
    """

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class Clip:
    """A stretch of audio on a track.

    Attributes
    ----------
    name
        As the session shows it.
    sources
        The files it plays, one per channel, or one with all channels.
    sample_rate
        Of the sources.
    start, samples
        Which part of the sources it uses, in their samples.
    position_s, length_s
        Where it lies on the timeline.
    tag
        What the session needs to find the clip again.
    speed
        Seconds of the sources that it plays in a second of the timeline.
    first
        The sample of the sources that sounds at ``position_s``; None for ``start``. Another one
        if the clip plays its sources again and again, or silence around them.
    loops
        It plays its sources again and again.
    fade_in_s, fade_out_s
        Length of its fades.
    envelope
        Whether its level changes along an envelope counted from its beginning.
    cut_front, cut_back
        Whether less of it is meant than the session has, at its beginning and its end.
    item
        The session's identifier of it; empty if there is none.
    selected
        Whether it was selected when the session was saved.
    mixed
        Whether it sounds together with others that it overlaps; else one replaces the other.
    bent
        Whether the tempo changes within it, so that its inside lies only nearly where this says.
    """

    name: str
    sources: tuple[Source, ...]
    sample_rate: int
    start: int
    samples: int
    position_s: float
    length_s: float
    tag: str
    speed: float = 1.0
    first: int | None = None
    loops: bool = False
    fade_in_s: float = 0.0
    fade_out_s: float = 0.0
    envelope: bool = False
    cut_front: bool = False
    cut_back: bool = False
    item: str = ""
    selected: bool = False
    mixed: bool = True
    bent: bool = False

    @property
    def end_s(self) -> float:
        """Where it ends on the timeline."""
        return self.position_s + self.length_s

    @property
    def origin(self) -> int:
        """The sample of the sources that sounds at ``position_s``."""
        return self.start if self.first is None else self.first


@dataclass(frozen=True)
class Marks:
    """What is marked on a session's timeline.

    Attributes
    ----------
    selection, loop
        The time selection and the loop range; None where there is none.
    labels
        Named points (with equal ends) and named stretches, in order.
    """

    selection: Range | None = None
    loop: Range | None = None
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True)
class TrackInfo:
    """A track as lists show it.

    Attributes
    ----------
    name
        Its name, which may be empty and need not be unique.
    clips, channels
        How many clips it plays, and the most channels that one has.
    muted
        Whether it is muted.
    note
        Why it cannot be separated, or an empty string.
    number
        Its place among the session's tracks as the program counts them, from 1.
    identity
        The session's identifier of it, such as a GUID; empty if there is none.
    """

    name: str
    clips: int
    channels: int
    muted: bool
    note: str = ""
    number: int = 0
    identity: str = ""


@dataclass(frozen=True)
class Placement:
    """A clip of a new track: like ``clip``, with the audio of ``file`` from ``start`` on."""

    clip: Clip
    file: Path
    start: int


@dataclass(frozen=True)
class Addition:
    """What was added to a session, as far as is needed to remove it again.

    Attributes
    ----------
    tracks
        The session's identifiers of the new tracks.
    muted
        Identifier of the source track if it was muted for this, else None.
    items
        Identifiers of the items that were muted for this, where the track could not be; what
        follows one after a space is what the session needs to bring it back.
    takes
        The session's identifiers of the new takes.
    active
        Which takes played in their place before, as the session tells them apart.
    """

    tracks: tuple[str, ...]
    muted: str | None
    items: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    active: tuple[str, ...] = ()


Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

Mute = Literal["nothing", "track", "clips"]
"""What to mute when stems are added: the source track, or the clips that they were made of."""


@dataclass(frozen=True)
class NewTracks:
    """Tracks to add to a session.

    Attributes
    ----------
    source
        The track that the stems were made of, by its name, number or identifier.
    stems
        What plays on the new track of each stem.
    group
        What the group, folder or bus is called that holds them.
    mute
        What to mute; ``"clips"`` only where a session's ``mutes_clips`` says so.
    colours
        Those of stems that shall have one.
    """

    source: str
    stems: Mapping[str, Sequence[Placement]]
    group: str
    mute: Mute = "nothing"
    colours: Mapping[str, Colour] = field(default_factory=dict)


class Session(ABC):
    """A session that can be read, added to, and written: a file, or in a running program.

    What is abstract here, every kind of session says; the rest holds for most.

    Parameters
    ----------
    path
        The session's file; of a running program what its additions are remembered under.
    """

    handle_s: float = HANDLE_S
    """How much longer at either end than what is played stems may be."""

    mutes_beyond_range = False
    """Whether a track may be muted although only a range of it is separated."""

    mutes_clips = False
    """Whether single clips can be muted."""

    live = False
    """Whether it is open in a running program, which gets every change at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[TrackName]:
        """Return what the tracks are called that may be asked for, in order."""

    def find(self, track: str) -> TrackName:
        """Return what a track is called that is given by its name, number or identifier."""
        names = self.names()
        return names[choose_track(names, track)]

    @abstractmethod
    def tracks(self) -> list[TrackInfo]:
        """Return the tracks with audio, in order."""

    @abstractmethod
    def clips(self, track: str) -> list[Clip]:
        """Return what a track plays, in order; SessionError for what cannot be honoured."""

    def remarks(self, track: str) -> list[str]:
        """Return what the stems of a track will not have, or not exactly, one line each."""
        del track
        return []

    def marks(self) -> Marks:
        """Return what is marked on the timeline."""
        return Marks()

    @abstractmethod
    def media_folder(self) -> Path:
        """Return where the session keeps audio that was made for it."""

    def adopt(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Take new audio, stem to file in that folder, and return where it is from now on."""
        return dict(files)

    def location(self, file: Path, session: Path) -> Path:
        """Return where new audio is once `session` is written; of an archive, a path into it."""
        del session
        return file

    @abstractmethod
    def add_tracks(self, new: NewTracks) -> Addition:
        """Add a track for every stem below or after the source track, grouped.

        Stems with a colour have it, and the height of the source track, where that can be said.
        """

    @abstractmethod
    def remove(self, addition: Addition) -> int:
        """Take away what was added, and the mute; return how many of the tracks were there."""

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the session atomically; SessionError if it was saved since it was opened."""


class HasTakes(Session):
    """A session whose clips have takes."""

    @abstractmethod
    def add_takes(self, source: str, stems: Mapping[str, Sequence[Placement]]) -> Addition:
        """Add a take for every stem to the clips of the source track; the first one plays."""


class SpelledAnew(Session):
    """A session that is spelled in another way when it is written, as XML is.

    Others come back to the byte by taking away what was added.
    """

    @abstractmethod
    def spelling(self) -> Spelling:
        """Return how the session was spelled when it was read and would be when it is written."""

    @abstractmethod
    def restore(self, text: bytes) -> None:
        """Write exactly a text from now on."""


class HoldsPresets(Session):
    """A session in whose file presets travel."""

    @abstractmethod
    def preset_texts(self) -> dict[str, str]:
        """Return the presets inside the session by name, as TOML."""

    @abstractmethod
    def set_preset_texts(self, texts: Mapping[str, str]) -> None:
        """Put presets into the session, replacing those that were there."""


@dataclass(frozen=True)
class Spelling:
    """The text of a session as it was read, and as it would be written."""

    read: bytes
    written: bytes


@dataclass(frozen=True)
class TrackName:
    """What a track can be called by; see `TrackInfo`."""

    name: str
    number: int
    identity: str = ""

    @property
    def shown(self) -> str:
        """Its name, or "Track 3" after its number."""
        return self.name or f"Track {self.number}"


def choose_track(tracks: Sequence[TrackName], wanted: str) -> int:
    """Return the index of the track that is called by its identifier, name or number.

    Names come before numbers, exact ones before those that differ in case. A track without a
    name is also called ``Track 3`` after its number, as REAPER shows it.

    Raises
    ------
    SessionError
        There is no such track, or there are several.
    """
    text = wanted.strip()
    bare = text.strip("{}").casefold()
    ways = (
        [t.identity != "" and t.identity.strip("{}").casefold() == bare for t in tracks],
        [track.name == wanted for track in tracks],
        [track.name.casefold() == wanted.casefold() for track in tracks],
        [text == str(track.number) for track in tracks],
        [not track.name and text.casefold() == f"track {track.number}" for track in tracks],
    )
    for way in ways:
        found = [index for index, same in enumerate(way) if same]
        if len(found) == 1:
            return found[0]
        if found:
            numbers = " and ".join(str(tracks[index].number) for index in found)
            raise SessionError(
                f"{len(found)} tracks are called {wanted!r}, numbers {numbers}; say which by its "
                f"number, such as {tracks[found[0]].number}"
            )
    names = [track.name for track in tracks]
    shown = [
        repr(t.name) if t.name and names.count(t.name) == 1 else f"number {t.number} ({t.name!r})"
        for t in tracks
    ]
    raise SessionError(f"no track {wanted!r}; there are {', '.join(shown) or 'none'}")


def cut_clips(clips: Sequence[Clip], range_s: Range) -> list[Clip]:
    """Return what lies in a part of the timeline, cut to it at the nearest sample of the sources.

    Parameters
    ----------
    clips
        What a track plays.
    range_s
        Start and end in seconds.

    Raises
    ------
    SessionError
        The range cuts a fade, or the beginning off a clip whose envelope counts from there: what
        remains could not be played at the same level.
    """
    cut = (_cut(clip, *range_s) for clip in clips)
    return [clip for clip in cut if clip is not None]


def _cut(clip: Clip, low_s: float, high_s: float) -> Clip | None:
    per_second = clip.speed * clip.sample_rate
    length = round(clip.length_s * per_second)
    front = max(round((low_s - clip.position_s) * per_second), 0)
    end = min(round((high_s - clip.position_s) * per_second), length)
    if front >= end:
        return None
    if front == 0 and end == length:
        return clip
    if clip.bent:
        raise SessionError(
            f"the tempo changes within the clip {clip.name!r}; bounce it, or leave out the range"
        )
    for at in (low_s, high_s):
        _refuse_in_fade(clip, at)
    if front and clip.envelope:
        raise SessionError(
            f"the clip {clip.name!r} has an envelope; glue or bounce it, or leave out the range"
        )
    position_s = clip.position_s + front / per_second
    # An end that is not cut stays where the session has it, to its last digit.
    end_s = clip.end_s if end == length else clip.position_s + end / per_second
    new = replace(
        clip,
        position_s=position_s,
        length_s=end_s - position_s,
        fade_in_s=0.0 if front else clip.fade_in_s,
        fade_out_s=0.0 if end < length else clip.fade_out_s,
        cut_front=front > 0,
        cut_back=end < length,
    )
    if clip.first is not None:
        return replace(new, first=clip.first + front)
    samples = min(end, clip.samples) - front
    return replace(new, start=clip.start + front, samples=samples) if samples > 0 else None


def _refuse_in_fade(clip: Clip, at_s: float) -> None:
    half_sample = 0.5 / clip.sample_rate
    fades = (
        ("fade-in", clip.position_s, clip.position_s + clip.fade_in_s),
        ("fade-out", clip.end_s - clip.fade_out_s, clip.end_s),
    )
    for what, begin, end in fades:
        if begin + half_sample < at_s < end - half_sample:
            raise SessionError(
                f"the range cuts the {what} of {clip.name!r} at {at_s:g} s; move it out of "
                f"{begin:.6g} to {end:.6g} s"
            )


def spans_in_source(
    spans: Sequence[Span], clips: Sequence[Clip], start: int, duration_s: float
) -> tuple[Span, ...]:
    """Move spans from the timeline into the audio that clips are cut from.

    Parameters
    ----------
    spans
        Seconds of the timeline.
    clips
        Clips of the same sources.
    start, duration_s
        The sample of the sources where the audio begins, and its length.

    Returns
    -------
    Spans in seconds of the audio; one for each clip, and each repetition, that a span touches.
    """
    moved = []
    for span in spans:
        for clip in clips:
            low_s = max(span.start_s, clip.position_s)
            high_s = min(span.end_s, clip.end_s)
            if high_s <= low_s:
                continue
            origin_s = (clip.origin - start) / clip.sample_rate
            begin = origin_s + (low_s - clip.position_s) * clip.speed
            end = origin_s + (high_s - clip.position_s) * clip.speed
            for part in _unrolled(begin, end, duration_s) if clip.loops else [(begin, end)]:
                inside = max(part[0], 0.0), min(part[1], duration_s)
                if inside[0] < inside[1]:
                    moved.append(Span(*inside, span.polarity))
    return tuple(moved)


def _unrolled(begin: float, end: float, duration_s: float) -> list[Range]:
    """Return where a stretch of a loop lies in one turn of it."""
    if end - begin >= duration_s:
        return [(0.0, duration_s)]
    turn = math.floor(begin / duration_s) * duration_s
    begin, end = begin - turn, end - turn
    return [(begin, min(end, duration_s)), (0.0, end - duration_s)]
