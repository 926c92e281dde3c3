"""Zip archives of a project: unpacked safely, written again with some entries changed."""

import zipfile
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path


def list_names(path: Path) -> list[str]:
    """Return the names of an archive's entries."""
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive; entries whose name leads out of the folder are left out.

    Raises
    ------
    OSError, zipfile.BadZipFile
        It cannot be read.
    """
    inside = folder.resolve()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if (folder / name).resolve().is_relative_to(inside):
                archive.extract(name, folder)


def repack(
    old: Path,
    new: Path,
    gone: AbstractSet[str],
    texts: Mapping[str, bytes],
    files: Mapping[str, Path],
) -> None:
    """Write an archive again: entries as they were, but for those that are gone, new or changed.

    Parameters
    ----------
    old, new
        The archive to read and the file to write.
    gone
        Names to leave out.
    texts
        Name to content, small ones, which are compressed.
    files
        Name to file, large ones, which are stored as they are.

    Raises
    ------
    OSError
        It cannot be read or written.
    """
    with (
        zipfile.ZipFile(old) as source,
        zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for item in source.infolist():
            if item.filename not in gone and item.filename not in texts:
                target.writestr(item, source.read(item))
        for name, content in texts.items():
            target.writestr(name, content)
        for name, file in files.items():
            target.write(file, name, zipfile.ZIP_STORED)
