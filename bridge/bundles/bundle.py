"""Model bundles on disk: finding one, and verifying its files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import platformdirs

from bridge.bundles import manifest as manifests
from bridge.bundles.manifest import FileInfo, Manifest
from bridge.errors import ModelError

_verified: dict[tuple[str, int, int], FileInfo] = {}
_verified_lock = threading.Lock()


def bundle_directories() -> tuple[Path, ...]:
    """Directories searched for bundles by name: the package's own, then the user's."""
    return (
        Path(__file__).parents[1] / "models",
        Path(platformdirs.user_data_dir("stembridge", appauthor=False)) / "models",
    )


def list_bundles() -> dict[str, Path]:
    """Find every bundle that can be asked for by name; the package's own come first."""
    found: dict[str, Path] = {}
    for directory in bundle_directories():
        for path in sorted(directory.glob(f"*/{manifests.FILE_NAME}")):
            found.setdefault(path.parent.name, path.parent)
    return found


def find_bundle(model: str | os.PathLike[str]) -> Path:
    """Find a bundle by name, or by the path of a directory with a manifest.

    Raises
    ------
    ModelError
        If there is none.
    """
    path = Path(model).expanduser()
    if (path / manifests.FILE_NAME).is_file():
        return path.resolve()
    known = list_bundles()
    if isinstance(model, str) and model in known:
        return known[model]
    names = ", ".join(known) or "none"
    raise ModelError(
        f"unknown model {os.fspath(model)!r}: neither a directory with {manifests.FILE_NAME} "
        f"nor one of the installed models ({names})"
    )


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Compare every file of a bundle with its manifest.

    A file is hashed once per process, as long as its size and time of change stay the same.

    Raises
    ------
    ModelError
        If a file is missing, cannot be read, or has other contents.
    """
    for name, expected in manifest.files.items():
        path = directory / name
        try:
            found = _describe_once(path)
        except OSError as error:
            raise ModelError(
                f"{path}: cannot be read ({error.strerror or error}); fetch or export "
                f"the model {manifest.name!r} again"
            ) from error
        if found != expected:
            raise ModelError(
                f"{path}: sha256 {found.sha256[:12]}..., {found.size_bytes} bytes, but the "
                f"manifest says {expected.sha256[:12]}..., {expected.size_bytes} bytes: the file "
                f"is damaged; fetch or export the model {manifest.name!r} again"
            )


def _describe_once(path: Path) -> FileInfo:
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    with _verified_lock:
        if key not in _verified:
            _verified[key] = manifests.describe_file(path)
        return _verified[key]
