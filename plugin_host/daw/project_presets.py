"""The presets of a project, wherever its kind of session keeps them.

Beside any file in ``.stembridge/presets``; inside an Ardour session in its ``<Extra>``, inside a
REAPER project in its extension state, inside a DAWproject as files of the archive.
"""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from plugin_host.daw.ardour import ArdourSession
from plugin_host.daw.dawproject import DawprojectSession
from plugin_host.daw.open_session import open_session
from plugin_host.daw.reaper import ReaperSession
from presets import Preset, PresetError, PresetStore, format_preset, parse_preset
from presets.library import project_store
from presets.store import check_name

Holder = ArdourSession | ReaperSession | DawprojectSession


def project_presets(project: Path) -> PresetStore:
    """Return the presets that belong to a project.

    Parameters
    ----------
    project
        A session file, whose presets travel inside it; any other file, or a folder, which keeps
        them in ``.stembridge/presets``.
    """
    if project.suffix.lower() in (".ardour", ".rpp", ".dawproject") and project.is_file():
        return SessionStore(project)
    return project_store(project if project.is_dir() else project.parent)


class SessionStore:
    """Presets inside a session file; those beside it are found too.

    Parameters
    ----------
    path
        The session file.
    """

    label = "project"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = project_store(path.parent)

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted({*self._open().preset_texts(), *self._beside.names()})

    def load(self, name: str) -> Preset:
        """Return a preset, one inside the session before one beside it.

        Raises
        ------
        PresetError
            There is none of that name, or it cannot be read.
        """
        text = self._open().preset_texts().get(check_name(name))
        if text is None:
            return self._beside.load(name)
        return parse_preset(text, source=f"{self._path}: preset {name}")

    def save(self, name: str, preset: Preset, *, overwrite: bool = False) -> None:
        """Save a preset inside the session.

        Raises
        ------
        PresetError
            The name is taken and ``overwrite`` is not set.
        """

        def put(texts: dict[str, str]) -> None:
            if check_name(name) in texts and not overwrite:
                msg = f"{self._path} has a preset {name!r}; pass --overwrite to replace it"
                raise PresetError(msg)
            texts[name] = format_preset(preset)

        self._change(put)

    def delete(self, name: str) -> None:
        """Delete a preset inside the session.

        Raises
        ------
        PresetError
            There is none of that name.
        """

        def drop(texts: dict[str, str]) -> None:
            if texts.pop(check_name(name), None) is None:
                msg = f"no preset {name!r} inside {self._path}"
                raise PresetError(msg)

        self._change(drop)

    def _open(self) -> Holder:
        session = open_session(self._path)
        if not isinstance(session, Holder):
            msg = f"{self._path}: this kind of session holds no presets"
            raise PresetError(msg)
        return session

    def _change(self, change: Callable[[dict[str, str]], None]) -> None:
        folder = self._path.parent / ".stembridge"
        folder.mkdir(exist_ok=True)
        # Two programs of ours at once: the second reads what the first wrote.
        with FileLock(folder / "session.lock", timeout=10.0):
            session = self._open()
            texts = dict(session.preset_texts())
            change(texts)
            session.set_preset_texts(texts)
            session.write(self._path)
