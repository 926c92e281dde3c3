"""Sessions of digital audio workstations: read what a track plays, add what was separated.

Thin scripts around files and pipes. No audio is computed here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from plugin_host.daw.session import Session, SessionError

_KINDS: Final = {
    ".rpp": ("reaper", "ReaperSession"),
    ".rpp-bak": ("reaper", "ReaperSession"),
    ".dawproject": ("dawproject", "DawprojectSession"),
    ".ardour": ("ardour", "ArdourSession"),
}
"""What the files end in that `open_session` opens: the module here, and its class."""

SUFFIXES: Final = tuple(_KINDS)
SHOWN_SUFFIXES: Final = tuple(suffix for suffix in SUFFIXES if not suffix.endswith("-bak"))
"""Those to be named in texts; the others are of backups."""


def is_session(path: Path) -> bool:
    """Whether a path is that of a session rather than of audio: by its suffix, or a folder."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def session_path(path: Path) -> Path:
    """Return the file of a session that is given by its file or, for Ardour, its folder.

    Raises
    ------
    SessionError
        There is no such file, or no single one in the folder.
    """
    if path.is_dir():
        inside = sorted(path.glob("*.ardour"))
        named = path / f"{path.resolve().name}.ardour"
        if len(inside) != 1 and named not in inside:
            found = f"several of Ardour's: {', '.join(file.name for file in inside)}"
            raise SessionError(
                f"{path}: expected a session file, got a folder with "
                f"{found if inside else 'none of Ardour'}"
            )
        # Snapshots and backups lie beside the session, which has the folder's name.
        path = named if named in inside else inside[0]
    if not path.exists():
        raise SessionError(f"{path}: no such session; check the name")
    return path


def open_session(path: Path) -> Session:
    """Open a session file.

    Parameters
    ----------
    path
        A file that ends in one of `SUFFIXES`, or the folder of an Ardour session.

    Raises
    ------
    SessionError
        There is no such file, or it is of another kind.
    """
    path = session_path(path)
    kind = session_kind(path)
    if kind is None:
        *most, last = SHOWN_SUFFIXES
        raise SessionError(
            f"{path}: expected {', '.join(most)} or {last}, got {path.suffix or 'no suffix'}"
        )
    return kind(path)


def session_kind(path: Path) -> type[Session] | None:
    """Return the class of sessions that a file is of, by its suffix; None for any other file.

    Only the module of that class is imported.
    """
    if path.suffix.lower() not in _KINDS:
        return None
    module, name = _KINDS[path.suffix.lower()]
    kind: type[Session] = getattr(import_module(f"plugin_host.daw.{module}"), name)
    return kind
