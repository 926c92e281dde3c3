"""A running Audacity, through the pipe of its module mod-script-pipe."""

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from bridge.errors import InputError
from plugin_host.daw.session import SessionError, one_named
from plugin_host.span_files import Label

_TIMEOUT_S = 60.0
_HOW = "start Audacity with its module mod-script-pipe enabled (stembridge daw install audacity)"


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
            msg = "a running Audacity is reached on Linux and macOS only; use labels and files here"
            raise SessionError(msg)
        self._timeout_s = timeout_s
        pipes = [folder / f"audacity_script_pipe.{way}.{os.getuid()}" for way in ("to", "from")]
        if not all(pipe.exists() for pipe in pipes):
            msg = f"no Audacity answers; {_HOW}"
            raise SessionError(msg)
        deadline = time.monotonic() + 5.0
        while True:
            try:
                # Without waiting for the other end, which may be gone.
                self._to = os.open(pipes[0], os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:
                if time.monotonic() > deadline:
                    msg = f"no Audacity reads its pipe; {_HOW}"
                    raise SessionError(msg) from None
                time.sleep(0.1)
        self._from = os.open(pipes[1], os.O_RDONLY | os.O_NONBLOCK)

    def __enter__(self) -> "Audacity":
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
        os.write(self._to, (line + "\n").encode())
        answer = self._read_answer(line)
        body, _, status = answer.rstrip("\n").rpartition("\n")
        if "BatchCommand finished: OK" not in status:
            msg = f"Audacity refuses {line!r}: {body.strip() or status.strip()}"
            raise SessionError(msg)
        return body

    def info(self, kind: str) -> Any:
        """Return what ``GetInfo`` tells: ``"Tracks"``, ``"Clips"`` or ``"Labels"``."""
        return json.loads(self.do("GetInfo", Type=kind, Format="JSON") or "[]")

    def track_index(self, name: str) -> int:
        """Return the number of the only track of a name, from 0."""
        return one_named([str(track.get("name", "")) for track in self.info("Tracks")], name)

    def labels(self) -> tuple[Label, ...]:
        """Return the labels of all label tracks."""
        return tuple(
            Label(str(text), float(start), float(end))
            for _, labels in self.info("Labels")
            for start, end, text in labels
        )

    def export(self, track: int, start_s: float, end_s: float, file: Path, channels: int) -> None:
        """Write a stretch of a track to a WAV file, which Audacity makes 16 bit with dither."""
        self.do("Select", Track=track, TrackCount=1, Mode="Set", Start=start_s, End=end_s)
        self.do("Export2", Filename=file, NumChannels=channels)
        if not file.exists():
            msg = f"Audacity wrote no {file.name}; close any dialog in it and try again"
            raise SessionError(msg)

    def add_track(self, file: Path, name: str, start_s: float) -> None:
        """Import a file as a new track with its clip at a time."""
        if not file.exists():
            # Audacity would wait for an answer to its dialog.
            msg = f"{file} is not there to be imported"
            raise SessionError(msg)
        number = len(self.info("Tracks"))
        self.do("Import2", Filename=file)
        self.do("Select", Track=number, TrackCount=1, Mode="Set")
        self.do("SetTrack", Name=name)
        self.do("SetClip", At=0, Start=start_s)

    def mute(self, track: int, *, muted: bool) -> None:
        """Mute a track or not."""
        self.do("Select", Track=track, TrackCount=1, Mode="Set")
        self.do("SetTrack", Mute=int(muted))

    def remove_track(self, track: int) -> None:
        """Remove a track."""
        self.do("Select", Track=track, TrackCount=1, Mode="Set")
        self.do("RemoveTracks")

    def _read_answer(self, line: str) -> str:
        answer = b""
        deadline = time.monotonic() + self._timeout_s
        while not answer.endswith(b"\n\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                msg = f"Audacity does not answer {line!r}; close any dialog in it and try again"
                raise SessionError(msg)
            readable, _, _ = select.select([self._from], [], [], left)
            if readable:
                part = os.read(self._from, 1 << 16)
                if not part:
                    time.sleep(0.05)
                answer += part
        return answer.decode("utf-8", "replace")


def _value(value: object) -> str:
    text = f"{value:.9f}" if isinstance(value, float) else str(value)
    if any(c in text for c in '"\n\r'):
        msg = f"{text!r} cannot be told to Audacity: it holds quotes or line ends"
        raise InputError(msg)
    return f'"{text}"'
