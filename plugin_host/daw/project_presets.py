"""The presets of a project, wherever its kind of session keeps them.

Beside any file in ``.stembridge/presets``; inside an Ardour session in its ``<Extra>``, inside a
REAPER project in its extension state, inside a DAWproject as files of the archive.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plugin_host.daw import open_session, session_kind
from plugin_host.daw.media import hold_project
from plugin_host.daw.session import HoldsPresets
from presets import Preset, PresetError, format_preset, parse_preset
from presets.library import PROJECT, FolderStore, check_name, project_store


def project_presets(project: Path) -> FolderStore | SessionStore:
    """Return the presets that belong to a project.

    Parameters
    ----------
    project
        A session file in which presets can travel, and do; any other file, or a folder, which
        keeps them in ``.stembridge/presets``.
    """
    kind = session_kind(project)
    if kind is not None and issubclass(kind, HoldsPresets) and project.is_file():
        return SessionStore(project)
    return project_store(project if project.is_dir() else project.parent)


class SessionStore:
    """Presets inside a session file; those beside it are found too.

    Parameters
    ----------
    path
        The session file.
    """

    label = PROJECT

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = project_store(path.parent)

    def place(self, name: str) -> str:
        """Describe where a preset is."""
        inside = name in self._open().preset_texts()
        return f"project, inside {self._path}" if inside else self._beside.place(name)

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
                raise PresetError(
                    f"{self._path} has a preset {name!r}; pass --overwrite to replace it"
                )
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
                raise PresetError(f"no preset {name!r} inside {self._path}")

        self._change(drop)

    def keep_file(self, path: Path, name: str) -> Path:
        """Keep a file that a preset names beside the session; see `FolderStore.keep_file`."""
        return self._beside.keep_file(path, name)

    def _open(self) -> HoldsPresets:
        session = open_session(self._path)
        if not isinstance(session, HoldsPresets):
            raise PresetError(f"{self._path}: this kind of session holds no presets")
        return session

    def _change(self, change: Callable[[dict[str, str]], None]) -> None:
        # Two programs of ours at once: the second reads what the first wrote.
        with hold_project(self._path):
            session = self._open()
            texts = dict(session.preset_texts())
            change(texts)
            session.set_preset_texts(texts)
            session.write(self._path)
