"""A DAW session in the panel: the recordings of its tracks, and stems back into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.errors import InputError
from bridge.request import RESIDUAL, Prompt, Settings, slug
from bridge.scratch import LongArray
from bridge.separation import ProgressCallback, Separation
from plugin_host.daw import apply as applying
from plugin_host.daw import open_session, session_path
from plugin_host.daw.apply import Journal
from plugin_host.daw.media import hold_project
from plugin_host.daw.session import Clip, HasTakes, Session, SessionError
from plugin_host.files.audio_files import AudioInfo
from plugin_host.panel.song import OUTPUT_FOLDER, Material, Song
from plugin_host.panel.takes import Take


@dataclass(frozen=True)
class Choice:
    """What can be opened of a session: what a track plays of one recording.

    Attributes
    ----------
    key
        Stays the same as long as the track does.
    track
        The track's identifier, or its number where the session has none.
    number
        Which of the track's recordings, from 0.
    label
        As the page shows it.
    note
        Why it cannot be opened, or an empty string.
    """

    key: str
    track: str
    number: int
    label: str
    note: str = ""


class SessionTracks:
    """A session file, opened anew whenever it is looked at: the DAW may have saved it meanwhile.

    Parameters
    ----------
    path
        The file, or Ardour's folder.

    Raises
    ------
    SessionError
        There is no such session.
    """

    def __init__(self, path: Path) -> None:
        self.path = session_path(path)
        self.has_takes = isinstance(open_session(self.path), HasTakes)

    def choices(self) -> list[Choice]:
        """List what the tracks play; SessionError if the session cannot be read."""
        session = open_session(self.path)
        found = []
        for track in session.tracks():
            name = track.name or f"Track {track.number}"
            identity = track.identity or str(track.number)
            key = f"{identity} 0"
            if track.note:
                found.append(Choice(key, identity, 0, name, track.note))
                continue
            try:
                recordings = applying.by_recording(session.clips(identity))
            except SessionError as error:
                found.append(Choice(key, identity, 0, name, str(error)))
                continue
            for number, clips in enumerate(recordings):
                several = f": {clips[0].name}" if len(recordings) > 1 else ""
                found.append(Choice(f"{identity} {number}", identity, number, name + several))
        return found

    def material(self, choice: Choice, folder: Path | None = None) -> Material:
        """Read a recording, as much of it as `apply` would separate.

        Parameters
        ----------
        choice
            One of `choices`.
        folder
            Where stems are written as files; by default beside the session.

        Raises
        ------
        InputError
            It cannot be read, or is not there any more.
        """
        if choice.note:
            raise InputError(f"{choice.label}: {choice.note}")
        session = open_session(self.path)
        clips = self._clips(session, choice)
        audio, rate, _ = applying.read_recording(session, clips)
        name = slug(choice.label) or "track"
        channels, samples = audio.shape
        path = self.path.parent / f"{name}.wav"
        info = AudioInfo(path, rate, channels, samples, format="WAV", subtype="FLOAT")
        return Material(
            title=f"{choice.label} · {self.path.name}",
            audio=audio,
            info=info,
            folder=folder or self.path.resolve().parent / OUTPUT_FOLDER,
            project=self.path.resolve(),
            sources=tuple(source.path for source in clips[0].sources),
        )

    def add(
        self, choice: Choice, song: Song, take: Take, *, as_takes: bool, mute: bool
    ) -> list[str]:
        """Add the stems of a take to the session, as ``session apply`` would. Any thread.

        Returns
        -------
        Notes for the user.

        Raises
        ------
        SessionError
            The take is a preview, the session or the track cannot take them, or the track plays
            something else by now. The session is as it was then.
        """
        if not take.whole:
            raise SessionError("a preview is a part of the track; separate all of it first")
        with hold_project(self.path):
            session = open_session(self.path)
            clips = self._clips(session, choice)
            everything = len(clips) == len(session.clips(choice.track))
            request = applying.Request(
                choice.track,
                # Their spans have done their work already.
                tuple(Prompt(p.text or p.stem, p.stem) for p in take.prompts),
                take.settings,
                mute_source=mute,
                items=None if everything else tuple(repr(clip.position_s) for clip in clips),
                as_takes=as_takes,
            )
            separator = _Kept(song, take)
            (done,) = applying.apply_all(
                session, [request], separator, self.path, lambda _: lambda _: None
            )
        return list(done.notes)

    def undo(self) -> str:
        """Take away what was added last, by whomever; return what that is called. Any thread.

        Raises
        ------
        SessionError
            There is nothing to take away.
        """
        with hold_project(self.path):
            entries = applying.undo(open_session(self.path), self.path)
        return ", ".join(entry.label for entry in entries)

    def last(self) -> str:
        """Return what would be taken away; empty if nothing was added."""
        entries = Journal(self.path.parent).entries(self.path.name)
        return entries[-1].label if entries else ""

    def _clips(self, session: Session, choice: Choice) -> list[Clip]:
        recordings = applying.by_recording(session.clips(choice.track))
        if choice.number >= len(recordings):
            raise SessionError(f"{choice.label} is not on its track any more; choose another")
        return recordings[choice.number]


class _Kept:
    """A separator that has computed already what it will be asked for."""

    def __init__(self, song: Song, take: Take) -> None:
        self._song = song
        self._take = take

    def separate(
        self,
        mixture: LongArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Separation:
        """Return the stems of the take; SessionError for any other audio than its own."""
        del prompts, settings, progress
        song, take = self._song, self._take
        same = np.array_equal(np.asarray(mixture), song.material.audio)
        if sample_rate != song.rate or not same:
            raise SessionError(
                "the track plays other audio than when it was opened here; open it again"
            )
        stems = {
            take.stem(key): np.ascontiguousarray(sound.read(0, song.samples))
            for key, sound in take.sounds.items()
        }
        if take.report is None:
            raise InputError("that take is not finished; wait for it")
        residual = stems.pop(RESIDUAL)
        return Separation(stems, residual, take.report)
