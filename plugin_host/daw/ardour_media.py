"""New audio among the files of an Ardour session."""

import contextlib
from collections.abc import Mapping
from pathlib import Path


def move_flat(files: Mapping[str, Path], audio: Path) -> dict[str, Path]:
    """Move stems into the folder of audio itself, under names that tell where they came from.

    Ardour finds files in folders below it and plays them, but never draws their waveforms.

    Parameters
    ----------
    files
        Stem to file, which lies in a folder of a clip in one of a run.
    audio
        The session's folder of audio.

    Returns
    -------
    Stem to file as it is named now. Folders that became empty are removed.
    """
    moved = {}
    for stem, file in files.items():
        part = file.parent
        name = f"{part.parent.name} {part.name} {stem}"
        numbered = (f"{name}{n}.wav" for n in ("", *(f" {i}" for i in range(2, 10_000))))
        target = next(audio / n for n in numbered if not (audio / n).exists())
        moved[stem] = file.replace(target)
    for folder in {file.parent for file in files.values()}:
        for empty in (folder, folder.parent, folder.parent.parent):
            with contextlib.suppress(OSError):  # Other runs' files are in it.
                empty.rmdir()
    return moved
