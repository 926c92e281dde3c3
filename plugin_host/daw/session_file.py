"""Writing a session's file, all of it or nothing."""

from collections.abc import Callable
from pathlib import Path

from plugin_host.audio_files import replace_file, temporary_beside
from plugin_host.daw.session import SessionError


def write_session(path: Path, write: Callable[[Path], object], *, media_of: Path | None) -> None:
    """Write a session under a temporary name and move it into place.

    Parameters
    ----------
    path
        Where to.
    write
        Writes the session into the file it is given.
    media_of
        The session that was read, if the new one refers to media relative to its folder and so
        must lie beside it.

    Raises
    ------
    SessionError
        Another folder, or one that is not writable.
    """
    if media_of is not None and path.resolve().parent != media_of.resolve().parent:
        msg = f"{path}: write the session into {media_of.parent}, where its media are"
        raise SessionError(msg)
    try:
        with temporary_beside(path) as temporary:
            write(temporary)
            replace_file(temporary, path)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror or error})"
        raise SessionError(msg) from error
