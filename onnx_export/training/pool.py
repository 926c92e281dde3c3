"""The pool of stems on disk that training mixes from.

Layout: `POOL/<split>/<family>/<song>__<source>.npy`, int16 mono at 16 kHz, one file for each stem.
All stems of a song have the same song name and length, so they can be mixed in time. A song depends
on the seed and its index only, and files appear under their names when they are complete: a pool
can be extended, resumed, and read while it grows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from onnx_export.training.compose import compose
from onnx_export.training.noises import NOISES, make_noise
from onnx_export.training.render import SOUNDFONTS, missing_packages, require_packages
from onnx_export.training.speech import missing_voice_packages, talk
from onnx_export.training.stems import missing_sample_packages, render_song
from onnx_export.training.treatment import treat

__all__ = ["POOL_RATE", "SPLITS", "synthesise_pool", "synthesise_song", "write_stem"]

POOL_RATE = 16000
SPLITS = ("train", "valid")
_RENDER_RATE = 32000


def write_stem(folder: Path, song: str, source: str, stem: NDArray[np.float32]) -> bool:
    """Write one stem (samples,) as int16 with a peak of 0.7; a silent one is not written."""
    peak = float(np.max(np.abs(stem), initial=0.0))
    if peak < 1e-4:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{song}__{source}.npy"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.save(file, np.round(stem * (0.7 * 32767 / peak)).astype(np.int16))
    partial.replace(path)
    return True


def _to_pool_rate(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix to mono and resample to the rate of the pool."""
    mono = audio.mean(axis=0) if audio.ndim == 2 else audio
    return np.asarray(soxr.resample(mono, _RENDER_RATE, POOL_RATE), dtype=np.float32)


def synthesise_song(out: Path, index: int, seed: int, split: str) -> int:
    """Compose, render and write all stems of one song.

    Parameters
    ----------
    out
        Root of the pool.
    index, seed, split
        Name the song: the same three give the same stems.

    Returns
    -------
    int
        Stems written; 0 if the song was there already.

    Raises
    ------
    ValueError
        For an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}, got {split!r}")
    song = f"s{seed}-{index:05d}"
    done = out / split / ".songs" / song
    if done.exists():
        return 0
    held_out = split == "valid"
    rng = np.random.default_rng([seed, index, SPLITS.index(split)])
    composed = compose(rng)
    stems = render_song(rng, composed, _RENDER_RATE, held_out=held_out)
    written = 0
    for family, source, audio in stems:
        treated = treat(rng, audio, _RENDER_RATE, family, share=0.3 if held_out else 0.65)
        write_stem(out / split / family, song, source, _to_pool_rate(treated))
        written += 1

    seconds = composed.seconds
    for k in range(1 if rng.random() < 0.6 else 2):
        speech, source = talk(rng, seconds, _RENDER_RATE, held_out=held_out)
        treated = treat(rng, speech[None], _RENDER_RATE, "speech", share=0.4)
        write_stem(out / split / "speech", song, f"{source}-{k}", _to_pool_rate(treated))
        written += 1
    if rng.random() < 0.3:
        family = str(rng.choice(NOISES))
        noise = make_noise(rng, family, seconds, _RENDER_RATE)
        write_stem(out / split / family, song, "made", _to_pool_rate(noise))
        written += 1
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()
    return written


def synthesise_pool(
    out: Path,
    songs: int,
    seed: int,
    split: str = "train",
    workers: int = 2,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the songs `0 .. songs - 1` of a seed into a pool, leaving those that are there.

    Parameters
    ----------
    out
        Root of the pool; made if it does not exist.
    songs
        How many songs the pool shall have of this seed and split.
    seed
        Any number not below 0.
    split
        `train`, or `valid`: the soundfont and the voices kept out of training.
    workers
        Processes.
    progress
        Called with `(songs done, songs)`.

    Returns
    -------
    int
        Stems written.

    Raises
    ------
    ValueError
        For an unknown split, or a count or seed below 0.
    FileNotFoundError
        If FluidSynth, soundfonts or voices are missing, with the Debian packages to install.
    """
    if split not in SPLITS or songs < 0 or seed < 0 or workers < 1:
        raise ValueError(
            f"expected a split of {', '.join(SPLITS)}, songs and seed not below 0 and at least one "
            f"worker, got {split!r}, {songs}, {seed}, {workers}"
        )
    held_out = split == "valid"
    wanted = ("test",) if held_out else ("train", "drums")
    fonts = [name for name, font in SOUNDFONTS.items() if font.split in wanted]
    missing = missing_packages(fonts) | missing_voice_packages(held_out=held_out)
    # Everything is asked for, since a song must not depend on what happens to be installed.
    require_packages(missing if held_out else missing | missing_sample_packages())
    written = 0
    if workers == 1:
        for index in range(songs):
            written += synthesise_song(out, index, seed, split)
            if progress:
                progress(index + 1, songs)
        return written
    # Fresh processes: a fork would copy the threads' locks of whoever calls.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        results = executor.map(
            synthesise_song, repeat(out), range(songs), repeat(seed), repeat(split), chunksize=1
        )
        for index, count in enumerate(results):
            written += count
            if progress:
                progress(index + 1, songs)
    return written
