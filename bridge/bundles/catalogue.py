"""Which models this server can run: installed ones by name, registered ones by checksum.

Paths never travel. A client names a model; a bundle in a directory of the user's own is
registered by leaving a note of its path, named by the checksum of its manifest, in the user's
private directory, and the request carries that checksum. Only who may write to that directory
can register, and a note that does not lead to the manifest with its checksum counts for nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from bridge.bundles import manifest as manifests
from bridge.bundles.bundle import list_bundles
from bridge.bundles.manifest import Manifest
from bridge.errors import ModelError
from bridge.wire.descriptors import ModelRef


class Catalogue:
    """The models that requests may name.

    Parameters
    ----------
    notes : Path
        The directory with the notes of registered bundles.
    directories : iterable of Path
        Bundles given to this server by path; they go before installed ones of the same name.
    """

    def __init__(self, notes: Path, directories: Iterable[Path] = ()) -> None:
        self._notes = notes
        self._given = {manifests.load(path).name: path.resolve() for path in directories}

    def names(self) -> tuple[str, ...]:
        """Return the names of the models that can be asked for without a checksum."""
        return tuple(sorted({*self._given, *list_bundles()}))

    def find(self, reference: ModelRef) -> tuple[Path, Manifest]:
        """Find a bundle and read its manifest.

        Raises
        ------
        ModelError
            If there is no such model, or not with that checksum.
        """
        path = self._given.get(reference.name) or list_bundles().get(reference.name)
        if path is not None:
            manifest = manifests.load(path)
            if reference.sha256 in (None, manifest.sha256):
                return path, manifest
        if reference.sha256 is not None:
            noted = self._registered(reference.sha256)
            if noted is not None:
                return noted
            raise ModelError(
                f"the server has no model {reference.name!r} with the checksum "
                f"{reference.sha256[:12]}...; start it with --model DIRECTORY"
            )
        raise ModelError(
            f"unknown model {reference.name!r}; the server has {', '.join(self.names()) or 'none'}"
        )

    def _registered(self, sha256: str) -> tuple[Path, Manifest] | None:
        try:
            path = Path((self._notes / sha256).read_text(encoding="utf-8"))
            manifest = manifests.load(path)
        except (OSError, UnicodeDecodeError, ModelError):
            return None
        return (path, manifest) if manifest.sha256 == sha256 else None


def register(notes: Path, directory: Path) -> ModelRef:
    """Leave a note of a bundle for the servers of this user, and return how to ask for it.

    Raises
    ------
    ModelError
        If the directory holds no readable manifest.
    """
    manifest = manifests.load(directory)
    notes.mkdir(parents=True, exist_ok=True, mode=0o700)
    note = notes / manifest.sha256
    # A name of its own, since several clients may register the same bundle at the same time.
    partial = note.with_name(f".{secrets.token_hex(8)}")
    partial.write_text(str(directory.resolve()), encoding="utf-8")
    partial.replace(note)
    return ModelRef(manifest.name, manifest.sha256)
