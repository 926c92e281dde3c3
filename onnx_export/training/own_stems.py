"""Turning a folder of a user's own stems into a pool that training reads.

Layout of the folder: ``FOLDER/<song>/<stem name>.wav``, any rate and number of channels, and if
wanted ``FOLDER/prompts.toml`` with prompts for the stems, ``theremin = ["theremin", "a theremin
playing"]``. A stem without an entry is prompted by its name, or, if the name is one of the
project's families, by that family's phrasings.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from bridge.request import slug
from onnx_export.training.pool import POOL_RATE, write_stem
from onnx_export.training.stem_pool import PROMPTS_FILE
from plugin_host.evaluation.cases import MIXTURE, read_prompts

__all__ = ["import_stems"]

_SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".ogg", ".mp3")
#: Of fewer songs, the end of each is held back for validation instead of whole songs.
_FEWEST_SONGS = 4
_HELD_BACK = 0.15


def import_stems(
    folder: Path, out: Path, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, int]:
    """Convert stems to a pool.

    Every seventh song is held back for validation; of fewer than four songs, the last 15 % of each.

    Parameters
    ----------
    folder
        Songs, a folder each.
    out
        Root of the pool; it may hold other stems, such as the synthesised ones, to train with.
    progress
        Called with `(songs done, songs)`.

    Returns
    -------
    dict of str to int
        Stems written of each family, the two splits together.

    Raises
    ------
    ValueError
        If there are no stems, or a stem's name holds nothing that a family can be called.
    InputError
        If `prompts.toml` cannot be read.
    """
    songs = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = [(song, _stems(song)) for song in songs]
    found = [(song, stems) for song, stems in found if stems]
    if not found:
        raise ValueError(
            f"{folder}: expected folders with stems, FOLDER/<song>/<stem name>.wav, found none"
        )
    given = {}
    if (folder / PROMPTS_FILE).is_file():
        given = {_family(name): list(texts)
                 for name, texts in read_prompts(folder / PROMPTS_FILE).items()}  # fmt: skip
    written: dict[str, int] = {}
    for number, (song, stems) in enumerate(found):
        for path in stems:
            family = _family(path.stem)
            audio = _read(path)
            if len(found) >= _FEWEST_SONGS:
                parts = {"valid" if number % 7 == 3 else "train": audio}
            else:
                cut = round(len(audio) * (1 - _HELD_BACK))
                parts = {"train": audio[:cut], "valid": audio[cut:]}
            for split, part in parts.items():
                done = write_stem(out / split / family, _family(song.name), "own", part)
                written[family] = written.get(family, 0) + done
        if progress:
            progress(number + 1, len(found))
    _keep_prompts(out, given)
    return written


def _stems(song: Path) -> list[Path]:
    return sorted(
        path
        for path in song.iterdir()
        if path.suffix.lower() in _SUFFIXES and path.stem.lower() != MIXTURE
    )


def _family(name: str) -> str:
    """Make a folder's name of a stem's; two underscores would end the song's part of a file."""
    family = slug(name.replace("_", " "))
    if not family:
        raise ValueError(f"{name!r}: expected a name with letters or digits; rename the file")
    return family


def _read(path: Path) -> NDArray[np.float32]:
    """Read a stem in blocks, as mono at the pool's rate."""
    with soundfile.SoundFile(path) as file:
        resampler = soxr.ResampleStream(file.samplerate, POOL_RATE, 1, dtype="float32")
        parts = [
            resampler.resample_chunk(np.ascontiguousarray(block.mean(axis=1)))
            for block in file.blocks(1 << 18, dtype="float32", always_2d=True)
        ]
        parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(parts).astype(np.float32)


def _keep_prompts(out: Path, given: dict[str, list[str]]) -> None:
    """Add prompts to those that the pool has."""
    import tomli_w

    path = out / PROMPTS_FILE
    known = {k: list(v) for k, v in read_prompts(path).items()} if path.is_file() else {}
    if not given:
        return
    partial = path.with_suffix(".part")
    partial.write_text(tomli_w.dumps({**known, **given}))
    shutil.move(partial, path)
