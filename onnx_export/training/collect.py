"""The pool of real sound: labelled recordings, Debian packages, and what is made of both.

A folder of recordings has an `index.tsv` with the columns path, label, text, seconds, group, song,
stem, source, author and licence. Clips are joined, for a mixture wants sound throughout: phrases
one after the other, notes as a player would place them, hits of drums on a grid of beats.

Packages are fetched for training alone and not installed. Each row of `SOURCES` names what is taken
of one. The licence is that of these files in the
package's own copyright file.
"""

from __future__ import annotations

import csv
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from onnx_export.training.real_set import RATE, module_stems
from onnx_export.training.sound.families import FAMILIES, ancestors
from onnx_export.training.sound.treatment import treat
from onnx_export.training.stem_pool import (
    POOL_RATE,
    Origin,
    Pool,
    allowed,
    draws_validation,
    is_held_out_file,
    is_held_out_group,
    join,
    read_mono,
)
from onnx_export.training.sung import collect_singers, collect_sung, hears_singing

__all__ = [
    "MODULES",
    "SOURCES",
    "Source",
    "collect",
    "collect_modules",
    "collect_packages",
    "collect_recordings",
    "credits_table",
    "fetch_package",
    "read_index",
]

Row = dict[str, str]
_STEM_S = 32.0
#: Families of labels that have another name in the project.
_FAMILIES = {
    "spoken-vocals": "rap",
    "piano": "acoustic-piano",
    "guitar": "acoustic-guitar",
    "hand-drums": "percussion",
    "tambourine": "percussion",
    "shaker": "percussion",
    "woodblock": "percussion",
    "angklung": "mallets",
    "prepared-piano": "piano",
    "synthesizer": "synth",
    "siren-alarm": "siren",
}
_HITS = frozenset({"kick-drum", "snare-drum", "hi-hat", "tom-drum", "percussion"})
_NOTES = frozenset({"acoustic-guitar", "electric-guitar", "electric-bass", "double-bass", "piano",
                    "synth-bass", "acoustic-piano", "tuba", "saxophone", "kalimba", "sitar",
                    "mallets", "flute", "violin", "cello", "theremin"})  # fmt: skip
_CHORDS = frozenset({"acoustic-guitar", "electric-guitar", "acoustic-piano", "piano", "kalimba"})
#: Of sources with few groups, those that training validates on.
_SPLITS = {
    "solfege-jennifer": "valid",
    "producerspace-etv_fm_136": "valid",
    "berklee-malevoice": "valid",
    "librispeech-5703": "valid",
    "producerspace-hollywood": "valid",
    "fsdd-yweweler": "valid",
    "efree-caesium": "valid",
}
_MEN = ("berklee-malevoice", "pjs-singer", "solfege-chengu", "vocobox-martin", "smstools-vignesh")
_WOMEN = ("berklee-femalevoice", "solfege-jennifer", "freesound-123092", "smstools-singing-female",
          "smstools-soprano")  # fmt: skip


def _split_of(row: Row) -> str:
    group = row["group"]
    if is_held_out_group(group):
        return "test"
    if group in _SPLITS:
        return _SPLITS[group]
    # Of what has few groups all that is left trains; the many single recordings validate too.
    single = row["label"].removeprefix("other-sounds/") in FAMILIES
    sounds = single and not {"music", "voice"} & ancestors(_family(row))
    return "valid" if sounds and draws_validation(group) else "train"


def _family(row: Row) -> str:
    label = row["label"].removeprefix("other-sounds/")
    if label == "vocals":
        if row["group"].startswith(_MEN):
            return "male-singer"
        return "female-singer" if row["group"].startswith(_WOMEN) else "lead-vocals"
    if label == "speech" and not row["song"]:
        return "speech"
    return _FAMILIES.get(label, label)


def _origin(rows: Sequence[Row]) -> Origin:
    first = rows[0]
    return Origin(
        _family(first),
        join(row["text"] for row in rows),
        join(row["group"] for row in rows) or "several",
        "; ".join(sorted({row["source"].split(":")[0] for row in rows})),
        "; ".join(sorted({row["author"] for row in rows})),
        " | ".join(sorted({row["licence"] for row in rows})),
    )


def read_index(folder: Path) -> list[Row]:
    """Read what a folder of recordings says of each.

    Raises
    ------
    FileNotFoundError
        If the folder has no index.
    """
    with (folder / "index.tsv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def collect_recordings(
    folder: Path,
    pool: Pool,
    *,
    seed: int = 1,
    variants: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add a folder of recordings to a pool; what it has of a family is not added again.

    Parameters
    ----------
    folder : Path
        With its ``index.tsv``.
    pool : Pool
    seed : int
        Of the order of clips and of the treatment.
    variants : int
        How many times singers and instruments are heard, each time joined and treated anew.
    progress : callable
        Receives labels done and labels.

    Returns
    -------
    int
        Stems written.

    Raises
    ------
    FileNotFoundError
        If the folder has no index.
    """
    rows = read_index(folder)
    written = _add_songs(folder, [row for row in rows if row["song"]], pool)
    parts: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if not row["song"]:
            parts[_family(row), _split_of(row)].append(row)
    for number, ((family, split), members) in enumerate(sorted(parts.items())):
        if progress:
            progress(number, len(parts))
        # The stem with the first of the sources begins with its name.
        if pool.has(split, family, min(row["source"].split(":")[0] for row in members)):
            continue
        rng = np.random.default_rng([seed, number])
        written += _add_family(rng, folder, family, split, members, pool, variants)
        pool.save()
    return written


def _add_songs(folder: Path, rows: Sequence[Row], pool: Pool) -> int:
    written = 0
    for number, row in enumerate(rows):
        split, origin = _split_of(row), _origin([row])
        song, name = f"multi-{row['song']}", f"{row['stem']}-{number}"
        if not pool.holds(split, origin.family, song, name):
            written += pool.add(split, origin, song, name, read_mono(folder / row["path"]))
    return written


def _add_family(
    rng: np.random.Generator,
    folder: Path,
    family: str,
    split: str,
    rows: Sequence[Row],
    pool: Pool,
    variants: int,
) -> int:
    clips = {row["path"]: read_mono(folder / row["path"]) for row in rows}
    musical = family in _HITS or family in _NOTES or "vocals" in family or "singer" in family
    written = 0
    for variant in range(variants if musical and split == "train" else 1):
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            groups[row["group"] if musical else "all"].append(row)
        for group, members in sorted(groups.items()):
            order = [members[i] for i in rng.permutation(len(members))]
            while order:
                taken, audio = _join(rng, family, order, clips)
                order = order[len(taken) :]
                if variant or split != "train":
                    audio = treat(rng, audio[None], POOL_RATE, _treated_as(family))[0]
                name = f"{taken[0]['path'].split('/')[-1].split('__')[0]}-{len(order)}-{variant}"
                song = f"real-{family}-{split}-{group}-{variant}-{len(order)}"
                written += pool.add(split, _origin(taken), song, name, audio)
    return written


def _treated_as(family: str) -> str:
    if "guitar" in family:
        return "guitar"
    if "bass" in family:
        return "bass"
    return "drums" if family in _HITS else family


def _join(
    rng: np.random.Generator,
    family: str,
    rows: Sequence[Row],
    clips: dict[str, NDArray[np.float32]],
) -> tuple[list[Row], NDArray[np.float32]]:
    """Make a stem of the first of `rows`; returns those that it took."""
    if family in _HITS and len(rows) and max(len(clips[r["path"]]) for r in rows) < 8 * POOL_RATE:
        return _on_grid(rng, rows, clips)
    if family in _NOTES:
        return _as_notes(rng, family, rows, clips)
    pieces: list[NDArray[np.float32]] = []
    taken: list[Row] = []
    total = 0
    sung = "vocals" in family or "singer" in family
    for row in rows:
        clip = clips[row["path"]]
        level = float(10 ** (rng.uniform(-4, 4) / 20)) * 0.1 / max(float(np.std(clip)), 1e-4)
        gap = np.zeros(int(rng.exponential(0.35 if sung else 0.5) * POOL_RATE), np.float32)
        pieces += [clip * np.float32(level), gap]
        total += len(clip) + len(gap)
        taken.append(row)
        if total > _STEM_S * POOL_RATE:
            break
    audio = np.concatenate(pieces)
    return taken, _repeat(audio)


def _repeat(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat what is shorter than a crop."""
    shortest = 6 * POOL_RATE
    return audio if len(audio) >= shortest else np.tile(audio, -(-shortest // max(1, len(audio))))


def _fade(clip: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
    length = max(int(0.05 * POOL_RATE), int(seconds * POOL_RATE))
    if len(clip) <= length:
        return clip
    release = min(length // 2, int(0.06 * POOL_RATE))
    out = clip[:length].copy()
    out[-release:] *= np.linspace(1, 0, release, dtype=np.float32)
    return out


def _on_grid(
    rng: np.random.Generator, rows: Sequence[Row], clips: dict[str, NDArray[np.float32]]
) -> tuple[list[Row], NDArray[np.float32]]:
    """Play hits on a grid: a random pattern of sixteen steps, repeated with changes."""
    taken = list(rows[: int(rng.integers(2, 9))])
    step_s = 60 / float(rng.uniform(75, 175)) / 4
    audio = np.zeros(int((_STEM_S + 4) * POOL_RATE), np.float32)
    pattern = rng.random(16) < rng.uniform(0.12, 0.6)
    pattern[int(rng.integers(0, 4)) * 4] = True
    favourite = int(rng.integers(len(taken)))
    for step in range(int(_STEM_S / step_s)):
        if pattern[step % 16] != (rng.random() < 0.06):
            pick = favourite if rng.random() < 0.7 else int(rng.integers(len(taken)))
            clip = clips[taken[pick]["path"]]
            start = int((step * step_s + rng.normal(0, 0.004) + 0.02) * POOL_RATE)
            piece = clip[: len(audio) - start]
            audio[start : start + len(piece)] += piece * np.float32(rng.uniform(0.4, 1.0))
    return taken, audio


def _as_notes(
    rng: np.random.Generator,
    family: str,
    rows: Sequence[Row],
    clips: dict[str, NDArray[np.float32]],
) -> tuple[list[Row], NDArray[np.float32]]:
    """Play notes in the rhythm of a random line, some of them together."""
    beat_s = 60 / float(rng.uniform(70, 160))
    audio = np.zeros(int((_STEM_S + 8) * POOL_RATE), np.float32)
    taken: list[Row] = []
    at, sustain = 0.05, float(rng.uniform(0.7, 1.6))
    while at < _STEM_S and len(taken) < len(rows):
        length = beat_s * float(rng.choice([0.5, 0.5, 1.0, 1.0, 2.0, 4.0]))
        together = int(rng.integers(2, 5)) if family in _CHORDS and rng.random() < 0.4 else 1
        for row in rows[len(taken) : len(taken) + together]:
            clip = _fade(clips[row["path"]], max(length, 0.2) * sustain)
            start = int((at + abs(rng.normal(0, 0.006))) * POOL_RATE)
            piece = clip[: len(audio) - start]
            audio[start : start + len(piece)] += piece * np.float32(rng.uniform(0.6, 1.0))
            taken.append(row)
        at += length + (beat_s if rng.random() < 0.08 else 0.0)
    return taken, _repeat(audio[: int((at + 2) * POOL_RATE)])


@dataclass(frozen=True)
class Source:
    """Files of a package that hold one family.

    Attributes
    ----------
    package, pattern : str
        Debian package, and which of its files.
    family, text : str
        What is heard; no family where a file has stems of several.
    author, licence : str
    left_out : tuple of str
        Parts of names that are not taken.
    joined : bool
        Whether files are short and become stems by the folder that they are in.
    minutes : float
        The most that is taken, spread over the files.
    """

    package: str
    pattern: str
    family: str
    author: str
    licence: str
    text: str = ""
    left_out: tuple[str, ...] = ()
    joined: bool = False
    minutes: float = 60.0


SOURCES: tuple[Source, ...] = (
    Source("supertux-data", "**/music/**/*.ogg", "music", "Marek Moeckel, SuperTux team", "GPL-2+"),
    Source("wesnoth-1.16-music", "**/music/*.ogg", "music", "Battle for Wesnoth project", "GPL-2+"),
    Source("widelands-data", "**/music/*.ogg", "music", "Widelands Development Team", "GPL-2+",
           left_out=("ingame_24", "ingame_25", "ingame_26")),
    Source("freedroidrpg-data", "**/music/*.ogg", "music", "freedroidRPG team", "GPL-2+"),
    Source("colobot-common-sounds", "**/music/*.ogg", "music", "TerranovaTeam", "GPL-3+"),
    Source("festvox-ru", "**/wav/*.wav", "speech", "Nickolay V. Shmyrev", "BSD-like",
           "man speaking", joined=True, minutes=25),
    Source("klettres-data", "**/klettres/*/*/*.ogg", "speech", "KLettres authors", "GPL-2+",
           joined=True, minutes=20),
    Source("ktuberling-data", "**/ktuberling/sounds/*/*", "speech", "KTuberling authors", "GPL-2+",
           joined=True, minutes=30),
    Source("tuxpaint-stamps-default", "**/*_desc_*.ogg", "speech", "Tux Paint team", "GPL-2+",
           joined=True, minutes=60),
    Source("bucklespring-data", "**/*.wav", "typing", "Ico Doornekamp", "GPL-2+", joined=True,
           minutes=4),
)  # fmt: skip
#: Tracker modules: packages, licences, and what of them is left out because it is another's music,
#: sings, or has instruments whose names mislead (a bassoon is no bass).
MODULES: tuple[Source, ...] = (
    Source("pingus-data", "**/*.it", "", "Pingus team: Yuri R. Sucupira, Craig Timpany and others",
           "GPL-2+", left_out=("gd-matth", "gd-ite", "sorcerer", "pingus-9")),
    Source("biniax2-data", "**/*.it", "", "Jordan Tuzsuzov", "zlib"),
    Source("heroes-sound-tracks", "**/*.xm", "", "Alexel, ToalNkor", "GPL-2+"),
    Source("pachi-data", "**/*.s3m", "", "Peter Hajba", "GPL-2+"),
)  # fmt: skip
_MODULE_S = 60.0
#: Groups whose split is not left to chance.
_GROUP_SPLITS = {
    "festvox-ru": "train",
    "tuxpaint-stamps-default-es": "valid",
    "tuxpaint-stamps-default-fr": "test",
    "klettres-data-en": "valid",
    "ktuberling-data-en": "valid",
    "bucklespring-data": "train",
}
_PIECE_S, _JOINED_S = 90.0, 30.0


def fetch_package(name: str, cache: Path) -> Path:
    """Download a package with apt and unpack it below `cache`, unless that was done.

    Raises
    ------
    subprocess.CalledProcessError
        If apt knows no such package, or cannot reach it.
    """
    folder = cache / name
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", name], cwd=cache, check=True, capture_output=True)
        archive = next(cache.glob(f"{name}_*.deb"))
        partial = cache / f".{name}"
        subprocess.run(["dpkg-deb", "-x", str(archive), str(partial)], check=True)
        partial.rename(folder)
        archive.unlink()
    return folder


def _files(source: Source, folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.glob(source.pattern))
        if path.is_file() and not any(part in path.name for part in source.left_out)
    ]


def _joined(
    rng: np.random.Generator, files: list[Path], seconds: float
) -> Iterator[NDArray[np.float32]]:
    """Yield stems of about half a minute made of short files."""
    total, pieces, length = 0.0, [], 0
    for index in rng.permutation(len(files)):
        audio = read_mono(files[index])
        loud = float(np.std(audio)) if len(audio) else 0.0
        if loud < 1e-4:
            continue
        gap = np.zeros(int(rng.exponential(0.3) * POOL_RATE), np.float32)
        pieces += [audio * np.float32(0.1 / loud), gap]
        length += len(audio) + len(gap)
        if length > _JOINED_S * POOL_RATE:
            yield np.concatenate(pieces)
            total += length / POOL_RATE
            pieces, length = [], 0
            if total > seconds:
                return
    if length > 6 * POOL_RATE:
        yield np.concatenate(pieces)


def collect_packages(
    cache: Path,
    pool: Pool,
    *,
    seed: int = 1,
    keep: Callable[[NDArray[np.float32]], bool] = lambda _: True,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add the packages' sound to a pool; a package that it has sound of is left alone.

    Parameters
    ----------
    cache : Path
        Where packages are unpacked.
    pool : Pool
    seed : int
        Of the order of what is joined.
    keep : callable
        Told each piece of music; what sings is not accompaniment.
    progress : callable
        Receives sources done and sources.

    Returns
    -------
    int
        Stems written.
    """
    written = 0
    for number, source in enumerate(SOURCES):
        if pool.has("train", source.family, f"Debian {source.package}"):
            continue
        files = _files(source, fetch_package(source.package, cache))
        rng = np.random.default_rng([seed, number])
        add = _add_joined if source.joined else _add_pieces
        written += add(rng, source, files, pool, keep)
        pool.save()
        if progress:
            progress(number + 1, len(SOURCES))
    return written


def collect_modules(
    cache: Path,
    pool: Pool,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add the instruments of tracker modules to a pool, each module a song.

    Parameters
    ----------
    cache : Path
        Where packages are unpacked.
    pool : Pool
        A package that it has sound of is left alone.
    progress : callable
        Receives packages done and packages.

    Returns
    -------
    int
        Stems written.
    """
    written = 0
    for number, source in enumerate(MODULES):
        if not any(pool.has("train", family, f"Debian {source.package}") for family in FAMILIES):
            for path in _files(source, fetch_package(source.package, cache)):
                if not is_held_out_file(source.package, path.name):
                    written += _add_module(source, path, pool)
            pool.save()
        if progress:
            progress(number + 1, len(MODULES))
    return written


def _add_module(source: Source, path: Path, pool: Pool) -> int:
    group = f"{source.package}-{path.stem.lower()}"
    split = "valid" if draws_validation(group) else "train"
    written = 0
    for family, stem in module_stems(path, 0.0, _MODULE_S).items():
        if family in FAMILIES:
            origin = replace(_package_origin(source, group), family=family)
            audio = np.asarray(soxr.resample(stem.mean(axis=0), RATE, POOL_RATE), np.float32)
            written += pool.add(split, origin, f"module-{group}", "named", audio)
    return written


def _package_origin(source: Source, group: str) -> Origin:
    return Origin(source.family, source.text, group, f"Debian {source.package}", source.author,
                  source.licence)  # fmt: skip


def _language(path: Path) -> str:
    """Tell the language, which is also the voice, by the name of a file or its folder."""
    if "_desc_" in path.name:
        return path.name.split("_desc_")[1].split(".")[0]
    folder = path.parent
    return (folder.parent if folder.name in ("alpha", "syllab") else folder).name


def _add_joined(
    rng: np.random.Generator,
    source: Source,
    files: list[Path],
    pool: Pool,
    _keep: Callable[[NDArray[np.float32]], bool],
) -> int:
    parents = len({path.parent for path in files})
    languages: dict[str, list[Path]] = {}
    for path in files:
        languages.setdefault(_language(path) if parents > 1 else "", []).append(path)
    written = 0
    for language, members in sorted(languages.items()):
        group = f"{source.package}-{language}".strip("-")
        split = _GROUP_SPLITS.get(group) or ("valid" if draws_validation(group) else "train")
        share = source.minutes * 60 * len(members) / len(files)
        for stem, audio in enumerate(_joined(rng, members, share)):
            origin = _package_origin(source, group)
            written += pool.add(split, origin, f"real-{group}-{stem}", "joined", audio)
    return written


def _add_pieces(
    _rng: np.random.Generator,
    source: Source,
    files: list[Path],
    pool: Pool,
    keep: Callable[[NDArray[np.float32]], bool],
) -> int:
    written, left_s = 0, source.minutes * 60
    for path in files:
        group = f"{source.package}-{path.stem}"
        if is_held_out_file(source.package, path.name):
            split = "test"
        else:
            split = "valid" if draws_validation(group) else "train"
        audio = read_mono(path, longest_s=_PIECE_S + 20)[5 * POOL_RATE :]
        if left_s <= 0:
            break
        if len(audio) < 10 * POOL_RATE or not keep(audio):
            continue
        left_s -= len(audio) / POOL_RATE
        origin = _package_origin(source, group)
        written += pool.add(split, origin, f"real-{group}", "piece", audio)
    return written


def collect(
    out: Path,
    folders: Sequence[Path],
    cache: Path | None,
    seed: int,
    progress: Callable[[str, int, int], None],
    sung_minutes: float = 60.0,
    changed_minutes: float = 60.0,
) -> dict[str, float]:
    """Add real sound to a stem pool.

    Parameters
    ----------
    out : Path
        Root of the pool.
    folders : sequence of Path
        Of labelled recordings, see `collect_recordings`.
    cache : Path or None
        Where Debian packages are unpacked; None leaves them out.
    seed : int
    progress : callable
        Receives a stage, done and total.
    sung_minutes : float
        Of lines that speakers are made to sing; see `collect_sung`.
    changed_minutes : float
        Of singers who get another body; see `collect_singers`.

    Returns
    -------
    dict of str to float
        Minutes of each family in the index.
    """
    pool = Pool(out)
    for folder in folders:
        collect_recordings(folder, pool, seed=seed, progress=partial(progress, folder.name))
        pool.save()
    if cache is not None:
        collect_packages(
            cache,
            pool,
            seed=seed,
            keep=lambda audio: not hears_singing(audio),
            progress=partial(progress, "packages"),
        )
        collect_modules(cache, pool, progress=partial(progress, "modules"))
    if sung_minutes > 0:
        collect_sung(pool, minutes=sung_minutes, seed=seed, progress=partial(progress, "singing"))
    if changed_minutes > 0:
        collect_singers(
            pool, minutes=changed_minutes, seed=seed, progress=partial(progress, "singers")
        )
    return pool.minutes()


def credits_table(folders: Sequence[Path]) -> str:
    """List whose recordings training hears, as a table in Markdown.

    Parameters
    ----------
    folders : sequence of Path
        Of labelled recordings; those that only measurements hear are left out.

    Returns
    -------
    str
        A row for each source, author and licence.
    """
    found: dict[tuple[str, str, str], set[str]] = {}
    for folder in folders:
        for row in read_index(folder):
            if not is_held_out_group(row["group"]) and allowed(row["licence"]):
                # Where an index links to a list of names instead of giving them.
                author = "as the source names them" if "](" in row["author"] else row["author"]
                key = row["source"].split("@")[0], author, row["licence"]
                found.setdefault(key, set()).add(row["label"].removeprefix("other-sounds/"))
    for source in (*SOURCES, *MODULES):
        key = f"Debian {source.package}", source.author, source.licence
        found.setdefault(key, set()).add(source.family or "drums, bass and other instruments")
    lines = ["| source | author | licence | what |", "| --- | --- | --- | --- |"]
    for key, labels in sorted(found.items()):
        cells = (*key, ", ".join(sorted(labels)))
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"
