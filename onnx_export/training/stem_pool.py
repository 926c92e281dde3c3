"""The pool of stems on disk that training mixes from: made, added to and read.

Layout: `POOL/<split>/<family>/<song>__<source>.npy`, int16 mono at 24 kHz, one file for each stem;
`POOL/pool.json` says the rate, and a pool without it is of the 16 kHz that earlier versions had.
All stems of a song have the same song name and length, so they can be mixed in time. A song depends
on the seed and its index only, and files appear under their names when they are complete: a pool
can be extended, resumed, and read while it grows. `POOL/prompts.toml`, if there, says how families
are prompted that the project does not know.

Stems of real recordings have a row each in `POOL/index.tsv`: where one lies, what is heard, who
made it and under which licence. Recordings of one group (a player, a singer, a piece, a session)
are on one side of a split, never on both: what measurements hear is held out with everything of
its group, never by excerpt. Sources with few groups are split by hand, so that both sides hear each
kind of sound; the many single recordings are split by a hash of their group's name.

Stems of a user's own come from `FOLDER/<song>/<stem name>.wav`, any rate and number of channels,
and if wanted `FOLDER/prompts.toml` with prompts for the stems, `theremin = ["theremin", "a theremin
playing"]`. A stem without an entry is prompted by its name, or, if the name is one of the project's
families, by that family's phrasings.
"""

from __future__ import annotations

import csv
import json
import shutil
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from bridge.files import replacing
from bridge.request import slug
from onnx_export.evaluation.cases import MIXTURE, PROMPTS_FILE, read_prompts
from onnx_export.training.sound.families import FAMILIES, ancestors
from onnx_export.training.sound.render import (
    SOUNDFONTS,
    missing_packages,
    missing_sample_packages,
    render_song,
    require_packages,
)
from onnx_export.training.sound.songs import compose
from onnx_export.training.sound.speech import missing_voice_packages, talk
from onnx_export.training.sound.synths import NOISES, make_noise
from onnx_export.training.sound.treatment import treat

__all__ = [
    "AUDIO_SUFFIXES",
    "INDEX_FILE",
    "POOL_RATE",
    "PROMPTS_FILE",
    "SPLITS",
    "Origin",
    "Pool",
    "Stem",
    "StemPool",
    "allowed",
    "draws_validation",
    "family_of",
    "import_stems",
    "keep_prompts",
    "open_pool",
    "pool_rate",
    "read_mono",
    "synthesise_pool",
    "synthesise_song",
    "write_stem",
]

POOL_RATE = 24000
SPLITS = ("train", "valid")
_RENDER_RATE = 48000
_ABOUT_FILE = "pool.json"
_FIRST_RATE = 16000


def pool_rate(root: Path) -> int:
    """Return the sample rate of a pool's stems."""
    path = root / _ABOUT_FILE
    return int(json.loads(path.read_text())["sample_rate"]) if path.is_file() else _FIRST_RATE


def open_pool(root: Path) -> None:
    """Make a pool, or make sure that one can be added to.

    Raises
    ------
    ValueError
        If it holds stems of another rate.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / _ABOUT_FILE
    if not path.is_file() and next(root.glob("*/*/*__*.npy"), None) is None:
        path.write_text(json.dumps({"sample_rate": POOL_RATE}))
    if pool_rate(root) != POOL_RATE:
        raise ValueError(
            f"{root}: expected stems at {POOL_RATE} Hz, found a pool of {pool_rate(root)} Hz, "
            "which an earlier version made; choose another folder"
        )


def write_stem(folder: Path, song: str, source: str, stem: NDArray[np.float32]) -> bool:
    """Write one stem (samples,) as int16 with a peak of 0.7; a silent one is not written."""
    peak = float(np.max(np.abs(stem), initial=0.0))
    if peak < 1e-4:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{song}__{source}.npy"
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, np.round(stem * (0.7 * 32767 / peak)).astype(np.int16))
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
    for number, (family, source, audio) in enumerate(stems):
        treated = treat(rng, audio, _RENDER_RATE, family, share=0.3 if held_out else 0.65)
        write_stem(out / split / family, song, f"{source}-{number}", _to_pool_rate(treated))
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
        Number of songs of this seed and split to have in the pool.
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
        For an unknown split, a count or seed below 0, or a pool of another rate.
    FileNotFoundError
        If FluidSynth, soundfonts or voices are missing, with the Debian packages to install.
    """
    if split not in SPLITS or songs < 0 or seed < 0 or workers < 1:
        raise ValueError(
            f"expected a split of {', '.join(SPLITS)}, songs and seed not below 0 and at least one "
            f"worker, got {split!r}, {songs}, {seed}, {workers}"
        )
    held_out = split == "valid"
    wanted = ("test",) if held_out else ("train",)
    fonts = [name for name, font in SOUNDFONTS.items() if font.split in wanted]
    missing = missing_packages(fonts) | missing_voice_packages(held_out=held_out)
    # Everything is asked for, since a song must not depend on what happens to be installed.
    require_packages(missing if held_out else missing | missing_sample_packages())
    open_pool(out)
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


#: Singers, speakers, players and songs that only measurements hear.
HELD_OUT_GROUPS = frozenset(
    {
        "berklee-femalevoice",
        "efree-sodium",
        "fsdd-theo",
        "librispeech-198",
        "producerspace-etv_cm_136",
        "producerspace-shv_e_125",
        "smstools-singing-female",
        "smstools-speech-male",
        "smstools-vignesh",
        "weresax",
    }
)
#: Packages of songs with known stems that only measurements hear.
HELD_OUT_PACKAGES = frozenset({"fretsonfire-songs-sectoid"})

_SINGLE_RECORDINGS = ("berklee", "freesound", "modsounds", "cdda", "soundbible")
#: Sources of singers, whose groups the hash must not move.
_BY_HAND = frozenset({"berklee-malevoice", "berklee-vocal_hum", "freesound-123092"})
_ONE_IN = 5


def is_held_out_group(group: str) -> bool:
    """Say whether a group of recordings is kept from training.

    Parameters
    ----------
    group : str
        ``SOURCE-NAME``, as the column ``group`` of an index of recordings has it.
    """
    if group in HELD_OUT_GROUPS:
        return True
    if group in _BY_HAND or not group.startswith(_SINGLE_RECORDINGS):
        return False
    return _falls_out(group)


def is_held_out_file(package: str, name: str) -> bool:
    """Say whether a piece of music or a tracker module of a Debian package is kept from training.

    Parameters
    ----------
    package, name : str
        Of the package, and of the file without its folder.
    """
    return package in HELD_OUT_PACKAGES or _falls_out(f"{package}/{name}")


def _falls_out(key: str) -> bool:
    return zlib.crc32(b"b" + key.encode()) % _ONE_IN == 0


INDEX_FILE = "index.tsv"
#: Licences that may enter the weights; those of a pack are compared by their beginning.
_ALLOWED = (
    "cc0", "public domain", "cc-by-4.0", "cc-by-3.0", "cc-by-2", "cc-by-1", "cc-by-sa-4.0", "mit",
    "bsd", "apache", "isc", "zlib", "gpl-2+", "gpl-2.0+", "gpl-3", "lgpl",
)  # fmt: skip


def allowed(licence: str) -> bool:
    """Say whether recordings under a licence, or under several, may be trained on."""
    names = [name.strip().lower() for name in licence.split(" | ")]
    return all(name == "cc-by" or name.startswith(_ALLOWED) for name in names)


@dataclass(frozen=True)
class Origin:
    """Where a stem comes from.

    Attributes
    ----------
    family : str
        What is heard.
    text : str
        A phrase of its own that describes it; empty for none.
    group : str
        Singer, player, piece or recording; it decides the split.
    source, author, licence : str
        For the table of the model card.
    """

    family: str
    text: str
    group: str
    source: str
    author: str
    licence: str


def draws_validation(group: str) -> bool:
    """Say whether training validates on a group, one in ten; always the same answer."""
    return zlib.crc32(b"valid" + group.encode()) % 10 == 0


def read_mono(path: Path, *, longest_s: float | None = None) -> NDArray[np.float32]:
    """Read a file as mono at the rate of the pool, its offset removed.

    Raises
    ------
    soundfile.LibsndfileError
        If it is no audio.
    """
    with soundfile.SoundFile(path) as file:
        frames = -1 if longest_s is None else int(longest_s * file.samplerate)
        audio = file.read(frames, dtype="float32", always_2d=True)
        rate = file.samplerate
    mono = audio.mean(axis=1)
    if len(mono):
        mono = soxr.resample(mono - mono.mean(), rate, POOL_RATE)
    return np.asarray(mono, np.float32)


class Pool:
    """A stem pool that is written to, with its index.

    Parameters
    ----------
    root : Path

    Raises
    ------
    ValueError
        If its stems have another rate.
    """

    def __init__(self, root: Path) -> None:
        open_pool(root)
        self.root = root
        self._rows: dict[str, dict[str, str]] = {}
        path = root / INDEX_FILE
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self._rows = {row["path"]: row for row in csv.DictReader(file, delimiter="\t")}

    def add(
        self, split: str, origin: Origin, song: str, name: str, audio: NDArray[np.float32]
    ) -> bool:
        """Write a stem (samples,) and note where it comes from; False if it is silent.

        Raises
        ------
        ValueError
            If its licence does not allow training.
        """
        if not allowed(origin.licence):
            raise ValueError(
                f"{origin.source}: expected a licence that allows training, got {origin.licence!r}"
            )
        folder = self.root / split / origin.family
        song, name = _plain(song), _plain(name)
        if not write_stem(folder, song, name, audio):
            return False
        path = f"{split}/{origin.family}/{song}__{name}.npy"
        self._rows[path] = {
            "path": path,
            "seconds": f"{len(audio) / POOL_RATE:.1f}",
            **asdict(origin),
        }
        return True

    def holds(self, split: str, family: str, song: str, name: str) -> bool:
        """Say whether there is a stem of this name."""
        return f"{split}/{family}/{_plain(song)}__{_plain(name)}.npy" in self._rows

    def has(self, split: str, family: str, source: str = "") -> bool:
        """Say whether there are stems of a family, of a source whose name begins so."""
        return any(
            row["path"].startswith(f"{split}/{family}/") and row["source"].startswith(source)
            for row in self._rows.values()
        )

    def stems(self, split: str, family: str) -> list[tuple[str, Origin]]:
        """List the paths below the pool of a family's stems that `collect` wrote, by name."""
        names = [field.name for field in fields(Origin)]
        return [
            (path, Origin(**{name: row[name] for name in names}))
            for path, row in sorted(self._rows.items())
            if path.startswith(f"{split}/{family}/")
        ]

    def minutes(self) -> dict[str, float]:
        """Count the minutes of each family."""
        found: dict[str, float] = {}
        for row in self._rows.values():
            found[row["family"]] = found.get(row["family"], 0.0) + float(row["seconds"]) / 60
        return found

    def save(self) -> None:
        """Write the index, under a temporary name first."""
        names = ["path", "seconds", *(field.name for field in fields(Origin))]
        partial = self.root / (INDEX_FILE + ".part")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, delimiter="\t")
            writer.writeheader()
            writer.writerows(row for _, row in sorted(self._rows.items()))
        partial.replace(self.root / INDEX_FILE)


def _plain(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-." else "-" for c in name.lower())
    return kept.strip("-.")[:80]


def join(texts: Iterable[str]) -> str:
    """Return the text that all have, or none."""
    found = set(texts)
    return found.pop() if len(found) == 1 else ""


#: A stem's family and its file.
Stem = tuple[str, Path]


@dataclass
class _Part:
    """One of the pools that stems are drawn from."""

    root: Path
    share: float
    given: Mapping[str, tuple[str, ...]]
    by_family: dict[str, list[Path]] = field(default_factory=dict)
    songs: list[list[Stem]] = field(default_factory=list)
    #: By path below the root, of stems of recordings: their own phrase, and who or what is heard.
    texts: dict[str, str] = field(default_factory=dict)
    _groups: dict[str, str] = field(default_factory=dict)
    _by_group: dict[str, list[list[Path]]] = field(default_factory=dict)

    def read_index(self) -> None:
        """Read what is known of recordings, and forget what was read before."""
        self.texts, self._groups, self._by_group = {}, {}, {}
        if (self.root / INDEX_FILE).is_file():
            with (self.root / INDEX_FILE).open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file, delimiter="\t"):
                    self._groups[row["path"]] = row["group"]
                    if row["text"]:
                        self.texts[row["path"]] = row["text"].lower()

    def by_group(self, family: str) -> list[list[Path]]:
        """Return a family's stems by singer, player or recording; those of no recording as one."""
        if family not in self._by_group:
            groups: dict[str, list[Path]] = defaultdict(list)
            for path in self.by_family[family]:
                groups[self._groups.get(path.relative_to(self.root).as_posix(), "")].append(path)
            self._by_group[family] = list(groups.values())
        return self._by_group[family]


class StemPool:
    """The stems of one split, by family and by song.

    Parameters
    ----------
    root : Path
        The pool.
    split : str
        ``train`` or ``valid``.
    shares : mapping of str to float, optional
        Other pools of the same rate, and how often a stem or a song comes from each where it could
        come from all, above 0 and together below 1. The rest is the pool's own.

    Raises
    ------
    ValueError
        If there are no stems of two families, or shares or rates do not fit.
    """

    def __init__(self, root: Path, split: str, shares: Mapping[str, float] | None = None) -> None:
        self.root, self.split = root, split
        self.rate = pool_rate(root)
        others = dict(shares or {})
        if any(share <= 0 for share in others.values()) or sum(others.values()) >= 1:
            raise ValueError(
                f"data.pools: expected shares above 0 and below 1 together, got {others}"
            )
        self._parts = [self._open(root, 1 - sum(others.values()))]
        self._parts += [self._open(Path(path), share) for path, share in others.items()]
        self.refresh()

    def _open(self, root: Path, share: float) -> _Part:
        if pool_rate(root) != self.rate:
            raise ValueError(
                f"{root}: expected stems at {self.rate} Hz, as {self.root} has, found "
                f"{pool_rate(root)} Hz"
            )
        path = root / PROMPTS_FILE
        return _Part(root, share, read_prompts(path) if path.is_file() else {})

    def refresh(self) -> None:
        """Read the directories again: a pool may grow while it is used."""
        for part in self._parts:
            by_family: dict[str, list[Path]] = {}
            by_song: dict[str, list[Stem]] = defaultdict(list)
            for folder in sorted(p for p in (part.root / self.split).glob("*") if p.is_dir()):
                paths = sorted(folder.glob("*__*.npy"))
                if paths:
                    by_family[folder.name] = paths
                for path in paths:
                    by_song[path.name.split("__")[0]].append((folder.name, path))
            part.by_family = by_family
            part.read_index()
            part.songs = [stems for _, stems in sorted(by_song.items()) if len(stems) > 1]
        found = {family for part in self._parts for family in part.by_family}
        if len(found) < 2:
            raise ValueError(
                f"{self.root / self.split}: expected a folder of stems for each of at least two "
                f"families, found {sorted(found) or 'none'}; run the synthesise command first"
            )
        self.families = sorted(found)
        #: Families that prompts may name: those of the stems and what these are kinds of.
        self.prompted = sorted({wider for name in found for wider in ancestors(name)})
        self._of_kind = {
            wider: [name for name in self.families if wider in ancestors(name)]
            for wider in self.prompted
        }

    def __len__(self) -> int:
        return sum(len(paths) for part in self._parts for paths in part.by_family.values())

    def phrasings(self, family: str) -> tuple[str, ...]:
        """Prompts of a family: as the pools say, else the project's own, else its name."""
        for part in self._parts:
            if family in part.given:
                return part.given[family]
        known = FAMILIES.get(family)
        return known.phrasings if known else (family.replace("-", " "),)

    def text(self, path: Path) -> str | None:
        """Return the phrase that describes one stem, if it has one."""
        for part in self._parts:
            if path.is_relative_to(part.root):
                return part.texts.get(path.relative_to(part.root).as_posix())
        return None

    def vocabulary(self) -> list[str]:
        """List all prompts that the tokenizer has to know, those of absent families as well."""
        given = {family for part in self._parts for family in part.given}
        families = {*FAMILIES, *self.families, *given}
        phrases = {phrase for family in families for phrase in self.phrasings(family)}
        return sorted(phrases.union(*(part.texts.values() for part in self._parts)))

    def kinds_of(self, *families: str) -> list[str]:
        """List the stems' families that are kinds of any of those given."""
        return sorted({name for family in families for name in self._of_kind.get(family, ())})

    def any_stem(self, rng: np.random.Generator, family: str) -> Path:
        """Choose a stem of a family.

        First a singer, player or recording, each as often as the root of how many stems there are
        of it: one who sang much is heard more often than others, but does not drown them. What is
        synthesised counts as one.
        """
        part = _draw(rng, [part for part in self._parts if family in part.by_family])
        groups = part.by_group(family)
        paths = groups[0]
        if len(groups) > 1:
            often = np.sqrt([len(group) for group in groups])
            paths = groups[int(rng.choice(len(groups), p=often / often.sum()))]
        return paths[int(rng.integers(len(paths)))]

    def song(self, rng: np.random.Generator) -> list[Stem]:
        """Choose a song: its stems with their families, some of which may be the same."""
        songs = _draw(rng, [part for part in self._parts if part.songs] or self._parts).songs
        return songs[int(rng.integers(len(songs)))]


def _draw(rng: np.random.Generator, parts: Sequence[_Part]) -> _Part:
    """Choose one of some pools by their shares."""
    if len(parts) == 1:
        return parts[0]
    shares = np.array([part.share for part in parts])
    return parts[int(rng.choice(len(parts), p=shares / shares.sum()))]


#: Of files that are taken for recordings.
AUDIO_SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".ogg", ".mp3")
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
        If there are no stems, a stem's name holds nothing that a family can be called, or the pool
        is of another rate.
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
    open_pool(out)
    given = {}
    if (folder / PROMPTS_FILE).is_file():
        given = {family_of(name): list(texts)
                 for name, texts in read_prompts(folder / PROMPTS_FILE).items()}  # fmt: skip
    written: dict[str, int] = {}
    for number, (song, stems) in enumerate(found):
        for path in stems:
            family = family_of(path.stem)
            audio = _read(path)
            if len(found) >= _FEWEST_SONGS:
                parts = {"valid" if number % 7 == 3 else "train": audio}
            else:
                cut = round(len(audio) * (1 - _HELD_BACK))
                parts = {"train": audio[:cut], "valid": audio[cut:]}
            for split, part in parts.items():
                done = write_stem(out / split / family, family_of(song.name), "own", part)
                written[family] = written.get(family, 0) + done
        if progress:
            progress(number + 1, len(found))
    keep_prompts(out, given)
    return written


def _stems(song: Path) -> list[Path]:
    return sorted(
        path
        for path in song.iterdir()
        if path.suffix.lower() in AUDIO_SUFFIXES and path.stem.lower() != MIXTURE
    )


def family_of(name: str) -> str:
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


def keep_prompts(out: Path, given: dict[str, list[str]]) -> None:
    """Add prompts to those that the pool has."""
    import tomli_w

    path = out / PROMPTS_FILE
    known = {k: list(v) for k, v in read_prompts(path).items()} if path.is_file() else {}
    if not given:
        return
    partial = path.with_suffix(".part")
    partial.write_text(tomli_w.dumps({**known, **given}))
    shutil.move(partial, path)
