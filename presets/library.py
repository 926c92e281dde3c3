"""Finding a preset by name: in the project first, then the user's, then the factory's."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from presets.preset import Preset, PresetError
from presets.store import FactoryStore, FolderStore, PresetStore
from presets.text import parse_preset

PROJECT_FOLDER = Path(".stembridge") / "presets"


def project_store(folder: Path) -> FolderStore:
    """Return the store beside a project: ``.stembridge/presets`` in its folder."""
    return FolderStore(folder / PROJECT_FOLDER, "project")


def user_store() -> FolderStore:
    """Return the user's own store, in the data directory of the platform."""
    return FolderStore(
        Path(platformdirs.user_data_dir("stembridge", appauthor=False)) / "presets", "user"
    )


def library(project: PresetStore | None = None) -> list[PresetStore]:
    """Return the stores in the order they are searched.

    Parameters
    ----------
    project
        The presets of a DAW session; by default those beside the current folder.
    """
    return [project or project_store(Path.cwd()), user_store(), FactoryStore()]


def find_preset(name: str, stores: Sequence[PresetStore] | None = None) -> Preset:
    """Return the first preset of a name, or the one in a file.

    Parameters
    ----------
    name
        A preset's name, or the path of a TOML file.
    stores
        Where to look, first to last; by default `library`.

    Raises
    ------
    PresetError
        There is none, or it cannot be read.
    """
    if name.endswith(".toml"):
        try:
            return parse_preset(Path(name).read_text("utf-8"), source=name)
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{name}: cannot be read ({error})"
            raise PresetError(msg) from None
    searched = library() if stores is None else stores
    known: list[str] = []
    for store in searched:
        names = store.names()
        if name in names:
            return store.load(name)
        known += [other for other in names if other not in known]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    msg = f"no preset {name!r}; {hint}"
    raise PresetError(msg)
