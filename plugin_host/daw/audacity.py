"""A running Audacity, through the pipe of its module mod-script-pipe, and its open project."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import select
import shutil
import stat
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from bridge.errors import InputError, foreign_errors
from bridge.files import data_directory, make_folders
from plugin_host.daw.media import probe_source
from plugin_host.daw.session import (
    Addition,
    Clip,
    Marks,
    NewTracks,
    Session,
    SessionError,
    Source,
    TrackInfo,
    TrackName,
    choose_track,
)
from plugin_host.files.span_files import Label

_TIMEOUT_S = 60.0
_MOST_BYTES = 64 << 20
_HOW = "start Audacity with its module mod-script-pipe enabled (stembridge daw install audacity)"

_T = TypeVar("_T")


class AudacityTrack(msgspec.Struct, frozen=True):
    """A track as Audacity tells of it.

    Attributes
    ----------
    name, kind
        ``"wave"``, ``"label"`` and others.
    start, end
        Of its sound, in seconds.
    channels
        1 or 2.
    mute, solo
        0 or 1.
    gain
        Its volume as a factor.
    pan
        -1 to 1.
    """

    name: str = ""
    kind: str = ""
    start: float = 0.0
    end: float = 0.0
    channels: int = 1
    mute: int = 0
    solo: int = 0
    gain: float = 1.0
    pan: float = 0.0


class Audacity:
    """A connection to a running Audacity; use it as a context manager.

    Parameters
    ----------
    folder
        Where the pipes are; by default where Audacity makes them.
    timeout_s
        The longest a command may take.

    Raises
    ------
    SessionError
        No Audacity answers.
    """

    def __init__(self, folder: Path = Path("/tmp"), timeout_s: float = _TIMEOUT_S) -> None:
        if sys.platform == "win32":
            raise SessionError(
                "a running Audacity is reached on Linux and macOS only; use labels and files here"
            )
        self._timeout_s = timeout_s
        pipes = [folder / f"audacity_script_pipe.{way}.{os.getuid()}" for way in ("to", "from")]
        if not all(pipe.exists() for pipe in pipes):
            raise SessionError(f"no Audacity answers; {_HOW}")
        deadline = time.monotonic() + 5.0
        while (to := _open_pipe(pipes[0], os.O_WRONLY)) is None:
            if time.monotonic() > deadline:
                raise SessionError(f"no Audacity reads its pipe; {_HOW}")
            time.sleep(0.1)
        try:
            answers = _open_pipe(pipes[1], os.O_RDONLY)
        except SessionError:
            os.close(to)
            raise
        if answers is None:  # pragma: no cover - only a writer waits for the other end
            os.close(to)
            raise SessionError(f"no Audacity answers; {_HOW}")
        self._to, self._from = to, answers

    def __enter__(self) -> Audacity:
        """Return the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipes, the one that Audacity reads first."""
        os.close(self._to)
        # Audacity may still be writing; closing too early would end it.
        time.sleep(0.1)
        os.close(self._from)

    def do(self, command: str, **values: object) -> str:
        """Run a command and return what it answers.

        Parameters
        ----------
        command
            Its scripting name, such as ``"Import2"``.
        **values
            Its parameters.

        Raises
        ------
        SessionError
            The command fails or takes too long, which often means an open dialog.
        InputError
            A value cannot be written in a command.
        """
        line = f"{command}:" + "".join(f" {k}={_value(v)}" for k, v in values.items())
        try:
            self._write((line + "\n").encode())
            answer = self._read_answer(line)
        except OSError as error:
            raise SessionError(f"Audacity is gone ({error.strerror or error}); {_HOW}") from error
        body, _, status = answer.rstrip("\n").rpartition("\n")
        if "BatchCommand finished: OK" not in status:
            raise SessionError(f"Audacity refuses {line!r}: {body.strip() or status.strip()}")
        return body

    def info(self, kind: str, type: type[_T] = dict) -> list[_T]:  # type: ignore[assignment]
        """Return what ``GetInfo`` tells: ``"Tracks"``, ``"Clips"`` or ``"Labels"``.

        Parameters
        ----------
        kind
            Of what.
        type
            What each entry is taken for; by default a dictionary of what Audacity's JSON has.

        Raises
        ------
        SessionError
            As for `do`; also if the answer is no list of that type.
        """
        answer = self.do("GetInfo", Type=kind, Format="JSON") or "[]"
        with foreign_errors(f"Audacity tells nothing usable of its {kind}", SessionError, _HOW):
            content = msgspec.json.decode(answer.encode())
            return msgspec.convert(content, list[type], strict=False)  # type: ignore[valid-type]

    def tracks(self) -> list[AudacityTrack]:
        """Return all tracks, in order."""
        return self.info("Tracks", AudacityTrack)

    def track(self, number: int) -> AudacityTrack:
        """Return a track by its number, from 0.

        Raises
        ------
        SessionError
            It is not there any more.
        """
        tracks = self.tracks()
        if number >= len(tracks):
            raise SessionError(f"track {number + 1} is not in Audacity any more; try again")
        return tracks[number]

    def labels(self) -> tuple[Label, ...]:
        """Return the labels of all label tracks."""
        told = self.info("Labels", tuple[int, list[tuple[float, float, str]]])
        return tuple(Label(text, start, end) for _, found in told for start, end, text in found)

    def export(self, track: int, start_s: float, end_s: float, file: Path, channels: int) -> None:
        """Write a stretch of a track to a WAV file, which Audacity makes 16 bit with dither.

        Its volume and pan are left out, and mute and solo of all tracks do not count.
        """
        before = self.track(track)
        self.set_track(track, Mute=0, Solo=1, Gain=0.0, Pan=0.0)
        try:
            self.do("Select", Track=track, TrackCount=1, Mode="Set", Start=start_s, End=end_s)
            self.do("Export2", Filename=file, NumChannels=channels)
        finally:
            self.set_track(
                track,
                Mute=before.mute,
                Solo=before.solo,
                **fader(before),
            )
        if not file.exists():
            raise SessionError(
                f"Audacity wrote no {file.name}; close any dialog in it and try again"
            )

    def add_track(self, file: Path, name: str, start_s: float) -> None:
        """Import a file as a new track with its clip at a time."""
        if not file.exists():
            # Audacity would wait for an answer to its dialog.
            raise SessionError(f"{file} is not there to be imported")
        number = len(self.tracks())
        self.do("Import2", Filename=file)
        self.set_track(number, Name=name)
        self.do("SetClip", At=0, Start=start_s)

    def set_track(self, track: int, **values: object) -> None:
        """Set properties of a track, such as ``Mute`` or ``Name``."""
        self.do("Select", Track=track, TrackCount=1, Mode="Set")
        self.do("SetTrack", **values)

    def remove_track(self, track: int) -> None:
        """Remove a track."""
        self.do("Select", Track=track, TrackCount=1, Mode="Set")
        self.do("RemoveTracks")

    def _write(self, data: bytes) -> None:
        deadline = time.monotonic() + self._timeout_s
        while data:
            _, writable, _ = select.select([], [self._to], [], deadline - time.monotonic())
            if not writable:
                raise TimeoutError(errno.ETIMEDOUT, "it does not read its pipe")
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._to, data) :]

    def _read_answer(self, line: str) -> str:
        answer = b""
        deadline = time.monotonic() + self._timeout_s
        while not answer.endswith(b"\n\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise SessionError(
                    f"Audacity does not answer {line!r}; close any dialog in it and try again"
                )
            readable, _, _ = select.select([self._from], [], [], left)
            if readable:
                part = os.read(self._from, 1 << 16)
                if not part:
                    time.sleep(0.05)
                answer += part
            if len(answer) > _MOST_BYTES:
                raise SessionError(f"what answers {line!r} as Audacity does not end; {_HOW}")
        return answer.decode("utf-8", "replace")


class AudacitySession(Session):
    """The project that is open in a running Audacity, as a session.

    A track is one clip, from its first sound to its last. Changes are made at once.

    Parameters
    ----------
    audacity
        The connection.
    """

    # Audacity imports all of a file, so a stem is as long as what it was made of.
    handle_s = 0.0
    mutes_beyond_range = True
    live = True

    def __init__(self, audacity: Audacity) -> None:
        media = data_directory() / "audacity"
        with foreign_errors(f"{media}: cannot be made", SessionError):
            make_folders(media)
        # No file; what was added is remembered under this name.
        super().__init__(media / "audacity")
        self._audacity = audacity
        self._exported = Path(tempfile.mkdtemp(prefix="stembridge-"))
        weakref.finalize(self, shutil.rmtree, self._exported, ignore_errors=True)
        self._clips: dict[str, list[Clip]] = {}

    def tracks(self) -> list[TrackInfo]:
        """Return the audio tracks, in order."""
        return [
            TrackInfo(track.name, 1, track.channels, bool(track.mute), number=number)
            for number, track in enumerate(self._audacity.tracks(), 1)
            if track.kind == "wave"
        ]

    def clips(self, track: str) -> list[Clip]:
        """Return what a track plays as one clip, whose audio is taken out of Audacity.

        Raises
        ------
        SessionError
            There is no such track, it is not an audio track, or Audacity writes no audio.
        """
        if track not in self._clips:
            self._clips[track] = self._export(track)
        return self._clips[track]

    def marks(self) -> Marks:
        """Return the labels; Audacity does not reveal its selection or loop."""
        return Marks(labels=self._audacity.labels())

    def media_folder(self) -> Path:
        """Return the folder for audio; the project may go on to refer to it."""
        return self.path.parent

    def add_tracks(self, new: NewTracks) -> Addition:
        """Import a track for every stem, with the volume and pan of the source track."""
        names = self.names()
        number = choose_track(names, new.source)
        before = self._audacity.track(number)
        added: list[str] = []
        try:
            for stem, placements in new.stems.items():
                name = self._free_name(f"{names[number].shown} {stem}")
                for placement in placements:
                    self._audacity.add_track(placement.file, name, placement.clip.position_s)
                    added.append(name)
                    # What is imported while a track is soloed comes in muted.
                    self._audacity.set_track(
                        len(self.names()) - 1, Mute=0, Solo=before.solo, **fader(before)
                    )
            silence = new.mute == "track" and not before.mute
            if silence:
                self._audacity.set_track(number, Mute=1)
        except BaseException:
            with contextlib.suppress(SessionError):
                self.remove(Addition(tuple(added), None))
            raise
        return Addition(tuple(added), names[number].shown if silence else None)

    def remove(self, addition: Addition) -> int:
        """Take away the tracks that were added, and the mute; see `Session.remove`."""
        removed = 0
        for name in addition.tracks:
            found = [n.number for n in self.names() if n.name == name]
            if found:
                self._audacity.remove_track(found[-1] - 1)
                removed += 1
        muted = [n for n in self.names() if addition.muted and n.shown == addition.muted]
        if muted:
            self._audacity.set_track(muted[0].number - 1, Mute=0)
        return removed

    def write(self, path: Path) -> None:
        """Do nothing: Audacity has the tracks already."""

    def names(self) -> list[TrackName]:
        """Return what all tracks are called, in order."""
        return [
            TrackName(track.name, number) for number, track in enumerate(self._audacity.tracks(), 1)
        ]

    def _free_name(self, wanted: str) -> str:
        taken = {name.name for name in self.names()}
        numbered = (f"{wanted} {number}" for number in itertools.count(2))
        return next(name for name in itertools.chain([wanted], numbered) if name not in taken)

    def _export(self, track: str) -> list[Clip]:
        names = self.names()
        number = choose_track(names, track)
        info = self._audacity.track(number)
        start_s, end_s = info.start, info.end
        if info.kind != "wave":
            raise SessionError(f"the track {names[number].shown!r} is not an audio track")
        if end_s <= start_s:
            return []
        file = self._exported / f"{number + 1}.wav"
        self._audacity.export(number, start_s, end_s, file, info.channels)
        rate, _, frames = probe_source(file, self.path)
        shown = names[number].shown
        return [Clip(shown, (Source(file),), rate, 0, frames, start_s, frames / rate, str(number))]


@contextlib.contextmanager
def open_audacity() -> Iterator[AudacitySession]:
    """Yield the project that is open in a running Audacity.

    Raises
    ------
    SessionError
        No Audacity answers.
    """
    with Audacity() as audacity:
        yield AudacitySession(audacity)


def fader(track: AudacityTrack) -> dict[str, float]:
    """Return the volume and pan of a track as commands take them: dB, and -100 to 100."""
    gain_db = 20.0 * math.log10(track.gain) if track.gain > 0.0 else -100.0
    return {"Gain": gain_db, "Pan": 100.0 * track.pan}


def _value(value: object) -> str:
    text = f"{value:.9f}" if isinstance(value, float) else str(value)
    if any(c in text for c in '"\n\r'):
        raise InputError(f"{text!r} cannot be told to Audacity: it holds quotes or line ends")
    return f'"{text}"'


def _open_pipe(path: Path, way: int) -> int | None:
    """Open one of Audacity's pipes, without waiting for the other end; None if that is gone.

    They lie in a folder where anybody may put what looks like them: pipes of another user, or
    links to files of this one, which would be written into.

    Raises
    ------
    SessionError
        It is no pipe of this user, or cannot be opened.
    """
    try:
        handle = os.open(path, way | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise SessionError(
            f"{path}: cannot be opened ({error.strerror or error}); {_HOW}"
        ) from None
    status = os.fstat(handle)
    if not stat.S_ISFIFO(status.st_mode) or status.st_uid != os.getuid():
        os.close(handle)
        raise SessionError(
            f"{path} is no pipe of yours, so what made it is not your Audacity; {_HOW}"
        )
    return handle
