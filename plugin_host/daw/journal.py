"""What was added to a session, written beside it, so that it can be taken away again."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock

from plugin_host.audio_files import replace_file
from plugin_host.daw.session import Addition, SessionError

_FOLDER = ".stembridge"
_NAME = "additions.json"


class Entry(msgspec.Struct, frozen=True):
    """One run of ``session apply``.

    Attributes
    ----------
    session
        File name of the session.
    track
        The source track.
    label
        Name of the group of new tracks.
    preset
        The preset used, or an empty string.
    tracks, muted
        See `plugin_host.daw.session.Addition`.
    files
        Audio that was written for it, relative to the session's folder.
    """

    session: str
    track: str
    label: str
    preset: str
    tracks: tuple[str, ...]
    muted: str | None
    files: tuple[str, ...]

    @property
    def addition(self) -> Addition:
        """What the session needs to take it away."""
        return Addition(self.tracks, self.muted)


class Journal:
    """The entries of all sessions in a folder.

    Parameters
    ----------
    folder
        Where the sessions are.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FOLDER / _NAME

    def entries(self, session: str) -> list[Entry]:
        """Return the entries of a session, oldest first."""
        return [entry for entry in self._read() if entry.session == session]

    def earlier(self, session: str, track: str, preset: str) -> list[Entry]:
        """Return the entries of a session that came from a track with a preset."""
        return [e for e in self.entries(session) if (e.track, e.preset) == (track, preset)]

    def append(self, entry: Entry) -> None:
        """Add an entry."""
        with self._locked():
            self._write([*self._read(), entry])

    def discard(self, entry: Entry) -> None:
        """Take an entry away."""
        with self._locked():
            self._write([other for other in self._read() if other != entry])

    def _read(self) -> list[Entry]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Entry])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            msg = f"{self._path}: cannot be read ({error}); move it away to go on without undo"
            raise SessionError(msg) from None

    def _write(self, entries: list[Entry]) -> None:
        with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
            file.write(msgspec.json.format(msgspec.json.encode(entries)))
        replace_file(Path(file.name), self._path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._path.with_suffix(".lock"), timeout=10.0):
                yield
        except OSError as error:
            msg = f"{self._path}: cannot be written ({error.strerror or error})"
            raise SessionError(msg) from error
