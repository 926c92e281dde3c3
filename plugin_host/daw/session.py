"""What sessions of all workstations have in common: tracks, the audio they use, stems to add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bridge.errors import InputError
from plugin_host.span_files import Label

Range = tuple[float, float]
"""Start and end on the timeline, in seconds."""


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
    """A track as lists show it."""

    name: str
    clips: int
    channels: int
    muted: bool
    note: str = ""


@dataclass(frozen=True)
class Placement:
    """A clip of a new track: like ``clip``, with the audio of ``file`` from ``start`` on."""

    clip: Clip
    file: Path
    start: int


@dataclass(frozen=True)
class Addition:
    """What a session got, as much as is needed to take it away again.

    Attributes
    ----------
    tracks
        The session's identifiers of the new tracks.
    muted
        Identifier of the source track if it was muted for this, else None.
    """

    tracks: tuple[str, ...]
    muted: str | None


class Session(Protocol):
    """A session file that can be read, added to, and written."""

    path: Path

    def tracks(self) -> list[TrackInfo]:
        """Return the tracks with audio, in order."""
        ...

    def clips(self, track: str) -> list[Clip]:
        """Return what a track plays, in order; SessionError for what cannot be honoured."""
        ...

    def marks(self) -> Marks:
        """Return what is marked on the timeline."""
        ...

    def media_folder(self) -> Path:
        """Return where the session keeps audio that was made for it."""
        ...

    def adopt(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Take new audio, stem to file in that folder, and return where it is from now on."""
        ...

    def add_tracks(
        self,
        source: str,
        stems: Mapping[str, Sequence[Placement]],
        *,
        group: str,
        mute_source: bool,
    ) -> Addition:
        """Add a track for every stem below or after the source track, grouped."""
        ...

    def remove(self, addition: Addition) -> None:
        """Take away what was added, and the mute."""
        ...

    def write(self, path: Path) -> None:
        """Write the session atomically."""
        ...


def one_named(names: Sequence[str], wanted: str, what: str = "track") -> int:
    """Return the index of the only track of a name, exact before without regard to case.

    Raises
    ------
    SessionError
        There is none, or there are several.
    """
    for same in (str.__str__, str.casefold):
        found = [index for index, name in enumerate(names) if same(name) == same(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            msg = f"{len(found)} {what}s are named {wanted!r}; give them different names first"
            raise SessionError(msg)
    known = ", ".join(repr(name) for name in names) or "none"
    msg = f"no {what} {wanted!r}; there are {known}"
    raise SessionError(msg)
