"""What sessions of all workstations have in common: tracks, the audio they use, stems to add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from bridge.errors import InputError
from plugin_host.audio_files import Audio, read_audio


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
    """

    name: str
    sources: tuple[Source, ...]
    sample_rate: int
    start: int
    samples: int
    position_s: float
    length_s: float
    tag: str


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

    def media_folder(self) -> Path:
        """Return where the session keeps audio that was made for it."""
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


def read_sources(sources: Sequence[Source], start: int, samples: int) -> tuple[Audio, int]:
    """Read a stretch of sources, one after the other as channels.

    Returns
    -------
    audio
        Float32 ``(channels, samples)``.
    sample_rate
        Of the sources.

    Raises
    ------
    InputError
        A file cannot be read or is shorter.
    """
    parts, rates = [], set()
    for source in sources:
        audio, info = read_audio(source.path)
        rates.add(info.sample_rate)
        part = audio[:, start : start + samples]
        if part.shape[1] < samples:
            msg = f"{source.path}: the session uses {samples} samples from {start}, it is shorter"
            raise SessionError(msg)
        if source.channel is not None:
            if source.channel >= part.shape[0]:
                msg = f"{source.path}: the session uses channel {source.channel + 1}, it has fewer"
                raise SessionError(msg)
            part = part[source.channel : source.channel + 1]
        parts.append(part)
    if len(rates) != 1:
        msg = f"a clip mixes sources of {sorted(rates)} Hz; bounce it first"
        raise SessionError(msg)
    return np.ascontiguousarray(np.concatenate(parts)), rates.pop()


def probe_source(path: Path, session: Path) -> tuple[int, int, int]:
    """Return sample rate, channels and samples of a file that a session uses.

    Raises
    ------
    SessionError
        It is missing or no audio file.
    """
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError, OSError):
        msg = f"{session.name} uses {path}, which is missing or not audio; relink it first"
        raise SessionError(msg) from None
    return info.samplerate, info.channels, info.frames
