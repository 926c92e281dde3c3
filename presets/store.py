"""Where presets live: a folder of TOML files, or the ones that come with the program."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from bridge.request import is_safe_name
from presets.preset import Preset, PresetError
from presets.text import format_preset, parse_preset

_SUFFIX = ".toml"
_LOCK = ".lock"
_KEPT = ".replaced"


class PresetStore(Protocol):
    """A place that holds presets by name."""

    label: str

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
        msg = f"{name!r} cannot name a preset; use letters, digits, spaces and dashes"
        raise PresetError(msg)
    return name


class FactoryStore:
    """The presets that come with the program; read only."""

    label = "factory"

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
            msg = f"no factory preset {name!r}; there are {', '.join(self.names())}"
            raise PresetError(msg)
        file = resources.files("presets").joinpath("factory", name + _SUFFIX)
        return parse_preset(file.read_text("utf-8"), source=f"factory preset {name}")

    def save(self, name: str, preset: Preset, *, overwrite: bool = False) -> None:
        """Refuse: factory presets cannot be changed."""
        del preset, overwrite
        msg = f"factory presets cannot be changed; save {name!r} as a user or project preset"
        raise PresetError(msg)

    def delete(self, name: str) -> None:
        """Refuse: factory presets cannot be deleted."""
        msg = f"the factory preset {name!r} cannot be deleted"
        raise PresetError(msg)


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
    """

    def __init__(self, folder: Path, label: str) -> None:
        self.folder = folder
        self.label = label

    def names(self) -> list[str]:
        """Return the names, sorted."""
        try:
            files = [path.name for path in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
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
            text = path.read_text("utf-8")
        except FileNotFoundError:
            msg = f"no {self.label} preset {name!r} in {self.folder}"
            raise PresetError(msg) from None
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: cannot be read ({error})"
            raise PresetError(msg) from error
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
                msg = f"{path} exists; pass --overwrite to replace it, or choose another name"
                raise PresetError(msg)
            self._keep(path)
            handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=self.folder)
            try:
                with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                    file.write(format_preset(preset))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    def delete(self, name: str) -> None:
        """Delete a preset; its text is kept in ``.replaced``.

        Raises
        ------
        PresetError
            There is none of that name.
        """
        path = self._path(name)
        if not path.exists():
            msg = f"no {self.label} preset {name!r} in {self.folder}"
            raise PresetError(msg)
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
                msg = f"no {self.label} preset {old!r} in {self.folder}"
                raise PresetError(msg)
            if target.exists():
                msg = f"{target} exists; choose another name"
                raise PresetError(msg)
            source.rename(target)

    def _path(self, name: str) -> Path:
        return self.folder / (check_name(name) + _SUFFIX)

    def _keep(self, path: Path) -> None:
        """Copy a file that is about to go into ``.replaced``, under a name of its content."""
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
            kept = self.folder / _KEPT
            kept.mkdir(exist_ok=True)
            digest = hashlib.sha256(content).hexdigest()[:12]
            (kept / f"{path.stem}.{digest}{_SUFFIX}").write_bytes(content)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / _LOCK, timeout=10.0):
                yield
        except OSError as error:
            msg = f"{self.folder}: cannot save there ({error.strerror or error})"
            raise PresetError(msg) from error
