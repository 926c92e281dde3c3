"""Where presets live, a folder of TOML files or the program's own, and finding one by name."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import Protocol

from bridge.files import (
    data_directory,
    make_folders,
    read_bounded,
    replacing,
    sha256_of_file,
    write_whole,
)
from bridge.request import is_safe_name
from presets.preset import MOST_BYTES, Preset, PresetError, format_preset, parse_preset

_SUFFIX = ".toml"
_LOCK = ".lock"
_KEPT = ".replaced"
_FILES = ".files"


class PresetStore(Protocol):
    """A place that holds presets by name."""

    label: str

    def place(self, name: str) -> str:
        """Describe where a preset is."""
        ...

    def names(self) -> list[str]:
        """Return the names, sorted."""
        ...

    def load(self, name: str) -> Preset:
        """Return a preset; PresetError if there is none of that name or it cannot be read."""
        ...

    def save(self, name: str, preset: Preset, *, overwrite: bool = False) -> None:
        """Save a preset; PresetError if the name is taken and ``overwrite`` is not set."""
        ...

    def delete(self, name: str) -> None:
        """Delete a preset; PresetError if there is none of that name."""
        ...


def check_name(name: str) -> str:
    """Return a preset's name if it can be a file name everywhere.

    Raises
    ------
    PresetError
        It cannot.
    """
    if not is_safe_name(name):
        raise PresetError(f"{name!r} cannot name a preset; use letters, digits, spaces and dashes")
    return name


class FactoryStore:
    """The presets that come with the program; read only."""

    label = "factory"

    def place(self, name: str) -> str:
        """Describe where a preset is."""
        del name
        return self.label

    def names(self) -> list[str]:
        """Return the names, sorted."""
        files = resources.files("presets").joinpath("factory").iterdir()
        return sorted(f.name.removesuffix(_SUFFIX) for f in files if f.name.endswith(_SUFFIX))

    def load(self, name: str) -> Preset:
        """Return a preset.

        Raises
        ------
        PresetError
            There is none of that name.
        """
        if name not in self.names():
            raise PresetError(f"no factory preset {name!r}; there are {', '.join(self.names())}")
        file = resources.files("presets").joinpath("factory", name + _SUFFIX)
        return parse_preset(file.read_text("utf-8"), source=f"factory preset {name}")

    def save(self, name: str, preset: Preset, *, overwrite: bool = False) -> None:
        """Refuse: factory presets cannot be changed."""
        del preset, overwrite
        raise PresetError(
            f"factory presets cannot be changed; save {name!r} as a user or project preset"
        )

    def delete(self, name: str) -> None:
        """Refuse: factory presets cannot be deleted."""
        raise PresetError(f"the factory preset {name!r} cannot be deleted")


class FolderStore:
    """Presets as ``NAME.toml`` in a folder.

    Two programs may save at once: of two that create the same name one is refused, and what an
    overwriting save replaces is kept in the subfolder ``.replaced``.

    Parameters
    ----------
    folder
        Made when the first preset is saved.
    label
        What lists call the place: ``"user"`` or ``"project"``.
    private
        Whether the folder, and what is missing above it, is made for this user alone.
    """

    def __init__(self, folder: Path, label: str, *, private: bool = False) -> None:
        self.folder = folder
        self.label = label
        self._private = private

    def place(self, name: str) -> str:
        """Describe where a preset is."""
        return f"{self.label}, {self._path(name)}"

    def names(self) -> list[str]:
        """Return the names, sorted."""
        try:
            files = [path.name for path in self.folder.iterdir()]
        except OSError:  # also one that somebody else keeps closed
            return []
        return sorted(
            name.removesuffix(_SUFFIX)
            for name in files
            if name.endswith(_SUFFIX) and not name.startswith(".")
        )

    def load(self, name: str) -> Preset:
        """Return a preset.

        Raises
        ------
        PresetError
            There is none of that name, or its file cannot be read.
        """
        path = self._path(name)
        try:
            text = read_bounded(path, MOST_BYTES).decode("utf-8")
        except FileNotFoundError:
            raise PresetError(f"no {self.label} preset {name!r} in {self.folder}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise PresetError(f"{path}: cannot be read ({error})") from error
        return parse_preset(text, source=str(path))

    def save(self, name: str, preset: Preset, *, overwrite: bool = False) -> None:
        """Write a preset under a temporary name and move it into place.

        Raises
        ------
        PresetError
            The name is taken and ``overwrite`` is not set, or the folder cannot be written.
        """
        path = self._path(name)
        with self._locked():
            if path.exists() and not overwrite:
                raise PresetError(
                    f"{path} exists; pass --overwrite to replace it, or choose another name"
                )
            self._keep(path)
            write_whole(path, format_preset(preset).encode(), private=True, sync=True)

    def keep_file(self, path: Path, name: str) -> Path:
        """Copy a file that a preset shall name, so that it lasts as long as the preset.

        Parameters
        ----------
        path, name
            Where it is, and what to call it.

        Returns
        -------
        Path
            The copy, in the subfolder ``.files``; one only of the same content and name.

        Raises
        ------
        PresetError
            It cannot be copied.
        """
        letters = (c if c.isalnum() or c in " .-_" else "-" for c in PurePath(name).name)
        with self._locked():
            digest = sha256_of_file(path)
            target = (
                self.folder / _FILES / digest[:16] / ("".join(letters)[-80:].strip(" .") or "file")
            )
            if not target.is_file() or sha256_of_file(target) != digest:
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as partial:
                    shutil.copyfile(path, partial)
        return target

    def delete(self, name: str) -> None:
        """Delete a preset; its text is kept in ``.replaced``.

        Raises
        ------
        PresetError
            There is none of that name.
        """
        path = self._path(name)
        if not path.exists():
            raise PresetError(f"no {self.label} preset {name!r} in {self.folder}")
        with self._locked():
            self._keep(path)
            path.unlink(missing_ok=True)

    def rename(self, old: str, new: str) -> None:
        """Give a preset another name, never that of an existing one.

        Raises
        ------
        PresetError
            There is no ``old``, or there is a ``new``.
        """
        source, target = self._path(old), self._path(new)
        with self._locked():
            if not source.exists():
                raise PresetError(f"no {self.label} preset {old!r} in {self.folder}")
            if target.exists():
                raise PresetError(f"{target} exists; choose another name")
            source.rename(target)

    def _path(self, name: str) -> Path:
        return self.folder / (check_name(name) + _SUFFIX)

    def _keep(self, path: Path) -> None:
        """Copy a file that is about to go into ``.replaced``, under a name of its content."""
        with contextlib.suppress(FileNotFoundError):
            content = read_bounded(path, MOST_BYTES)
            kept = self.folder / _KEPT
            kept.mkdir(exist_ok=True)
            digest = hashlib.sha256(content).hexdigest()[:12]
            (kept / f"{path.stem}.{digest}{_SUFFIX}").write_bytes(content)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Loaded here, since only what changes presets waits for others.
        from filelock import FileLock

        try:
            if self._private:
                make_folders(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / _LOCK, timeout=10.0):
                yield
        except OSError as error:
            raise PresetError(
                f"{self.folder}: cannot save there ({error.strerror or error})"
            ) from error


PROJECT = "project"
"""What stores of a project are labelled."""

PROJECT_FOLDER = Path(".stembridge") / "presets"


def project_store(folder: Path) -> FolderStore:
    """Return the store beside a project: ``.stembridge/presets`` in its folder."""
    return FolderStore(folder / PROJECT_FOLDER, PROJECT)


def user_store() -> FolderStore:
    """Return the user's own store, in the data directory of the platform."""
    return FolderStore(data_directory() / "presets", "user", private=True)


@dataclass(frozen=True)
class Found:
    """A preset and where it came from, in words."""

    preset: Preset
    place: str


def library(project: PresetStore | None = None) -> list[PresetStore]:
    """Return the stores in the order they are searched.

    Parameters
    ----------
    project
        The presets of a project that was asked for; they go before the user's. By default those
        beside the current folder, which come last.
    """
    own: list[PresetStore] = [user_store(), FactoryStore()]
    return [*own, project_store(Path.cwd())] if project is None else [project, *own]


def list_names(stores: Sequence[PresetStore]) -> Iterator[tuple[PresetStore, str, bool]]:
    """Yield the presets of stores: where it is, its name, and whether another one hides it."""
    reserved = {*FactoryStore().names()}
    seen: set[str] = set()
    for store in stores:
        for name in store.names():
            hidden = name in seen or (store.label == PROJECT and name in reserved)
            yield store, name, hidden
            if not hidden:
                seen.add(name)


def check_new_name(store: PresetStore, name: str) -> None:
    """Return if a preset of that name would be found in a store.

    Raises
    ------
    PresetError
        It is the name of one that comes with the program, which a project's cannot replace.
    """
    if store.label == PROJECT and name in FactoryStore().names():
        raise PresetError(
            f"{name!r} comes with the program, and a project cannot replace it; choose another"
        )


def find_preset(name: str, stores: Sequence[PresetStore] | None = None) -> Preset:
    """Return the first preset of a name, or the one in a file; see `locate_preset`."""
    return locate_preset(name, stores).preset


def locate_preset(name: str, stores: Sequence[PresetStore] | None = None) -> Found:
    """Return the first preset of a name, or the one in a file, and where it is.

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
            text = read_bounded(Path(name), MOST_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PresetError(
                f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from None
        return Found(parse_preset(text, source=name), f"the file {name}")
    known: list[str] = []
    for store, other, hidden in list_names(library() if stores is None else stores):
        if hidden:
            continue
        if other == name:
            return Found(store.load(name), store.place(name))
        known.append(other)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    raise PresetError(f"no preset {name!r}; {hint}")
