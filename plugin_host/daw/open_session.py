"""Opening a session by what its file is."""

from pathlib import Path

from plugin_host.daw.session import Session, SessionError


def open_session(path: Path) -> Session:
    """Open a session file.

    Parameters
    ----------
    path
        ``.rpp`` of REAPER, ``.dawproject``, ``.ardour``, or the folder of an Ardour session.

    Raises
    ------
    SessionError
        There is no such file, or it is none of these.
    """
    if path.is_dir():
        inside = sorted(path.glob("*.ardour"))
        if len(inside) != 1:
            msg = f"{path}: expected a session file, got a folder with {len(inside)} of Ardour's"
            raise SessionError(msg)
        path = inside[0]
    if not path.exists():
        msg = f"{path}: no such session; check the name"
        raise SessionError(msg)
    kind = path.suffix.lower()
    if kind == ".rpp":
        from plugin_host.daw.reaper import ReaperSession

        return ReaperSession(path)
    if kind == ".dawproject":
        from plugin_host.daw.dawproject import DawprojectSession

        return DawprojectSession(path)
    if kind == ".ardour":
        from plugin_host.daw.ardour import ArdourSession

        return ArdourSession(path)
    msg = f"{path}: expected .rpp, .dawproject or .ardour, got {kind or 'no suffix'}"
    raise SessionError(msg)
