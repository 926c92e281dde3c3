"""A test set of real recordings: songs, singers, speakers, general sounds and productions.

Its material is what `split` keeps from training: recordings of a folder with an index, and music
of Debian packages. Nothing of it comes with the project.

Layout: ``<kind>/<name>/mixture.wav`` with one file for each stem, and ``set.json``, which says
what each kind is asked. Mixtures are stereo, 44.1 kHz, 16 bits, and the sum of their stems.

Tracker modules are rendered with libopenmpt. Many of their instruments have names that say what
they are, which makes a module a production with stems.
"""

from __future__ import annotations

import csv
import ctypes
import ctypes.util
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pedalboard
import soundfile
from numpy.typing import NDArray

from bridge.signal.resampling import resample
from onnx_export.training.held_out import activity
from onnx_export.training.sound.treatment import pan, to_pcm
from onnx_export.training.stem_pool import is_held_out_file, is_held_out_group

Audio = NDArray[np.float32]

_PACKAGE = "libopenmpt0"
_BLOCK = 4096
#: Functions of the interface "interactive", in their order.
_INTERACTIVE = (
    "set_current_speed",
    "set_current_tempo",
    "set_tempo_factor",
    "get_tempo_factor",
    "set_pitch_factor",
    "get_pitch_factor",
    "set_global_volume",
    "get_global_volume",
    "set_channel_volume",
    "get_channel_volume",
    "set_channel_mute_status",
    "get_channel_mute_status",
    "set_instrument_mute_status",
    "get_instrument_mute_status",
    "play_note",
    "stop_note",
)


class Module:
    """A tracker module.

    Parameters
    ----------
    path : Path
        In any format of libopenmpt.

    Raises
    ------
    FileNotFoundError
        If libopenmpt is not installed, with the command that installs it.
    ValueError
        If the file is no module.
    """

    def __init__(self, path: Path) -> None:
        self._library = _load()
        self._path = path
        self._data = path.read_bytes()
        _, module, close = self._open()
        try:
            count = self._library.openmpt_module_get_num_instruments(module)
            kind = "instrument" if count else "sample"
            if not count:
                count = self._library.openmpt_module_get_num_samples(module)
            get = getattr(self._library, f"openmpt_module_get_{kind}_name")
            self.names = tuple(self._text(get(module, number)) for number in range(count))
        finally:
            close()

    def render(
        self, sample_rate: int, seconds: float, instruments: Collection[int] | None = None
    ) -> Audio:
        """Render the beginning.

        Parameters
        ----------
        sample_rate : int
            In Hz.
        seconds : float
            At most; a module that ends earlier is shorter.
        instruments : collection of int or None
            Numbers of those in `names` that are heard; None means all.

        Returns
        -------
        ndarray of float32, shape (2, samples)
        """
        extended, module, close = self._open()
        try:
            if instruments is not None:
                table = (ctypes.c_void_p * len(_INTERACTIVE))()
                got = self._library.openmpt_module_ext_get_interface(
                    extended, b"interactive", table, ctypes.sizeof(table)
                )
                if not got:
                    raise ValueError("this libopenmpt cannot mute instruments; install a newer one")
                mute = ctypes.CFUNCTYPE(
                    ctypes.c_int, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int
                )(table[_INTERACTIVE.index("set_instrument_mute_status")] or 0)
                for number in range(len(self.names)):
                    mute(extended, number, int(number not in instruments))
            return self._read(module, sample_rate, round(seconds * sample_rate))
        finally:
            close()

    def _read(self, module: int, sample_rate: int, samples: int) -> Audio:
        out = np.zeros((2, samples), np.float32)
        done = 0
        block = np.zeros((2, _BLOCK), np.float32)
        while done < samples:
            count = self._library.openmpt_module_read_float_stereo(
                module,
                sample_rate,
                min(_BLOCK, samples - done),
                block[0].ctypes.data,
                block[1].ctypes.data,
            )
            if not count:
                break
            out[:, done : done + count] = block[:, :count]
            done += count
        return out[:, :done]

    def _open(self) -> tuple[int, int, Any]:
        """Return the module with its extensions, the module, and what closes it."""
        extended = self._library.openmpt_module_ext_create_from_memory(
            self._data, len(self._data), None, None, None, None, None, None, None
        )
        if not extended:
            raise ValueError(f"{self._path}: libopenmpt cannot read it as a module")
        module = self._library.openmpt_module_ext_get_module(extended)
        return extended, module, lambda: self._library.openmpt_module_ext_destroy(extended)

    def _text(self, pointer: int | None) -> str:
        if not pointer:
            return ""
        try:
            value = ctypes.cast(pointer, ctypes.c_char_p).value or b""
            return value.decode("utf-8", "replace")
        finally:
            self._library.openmpt_free_string(pointer)


@cache
def _load() -> Any:
    name = ctypes.util.find_library("openmpt")
    if name is None:
        raise FileNotFoundError(f"libopenmpt is missing; run: apt-get install {_PACKAGE}")
    library = ctypes.CDLL(name)
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    for function, result, arguments in (
        (
            "module_ext_create_from_memory",
            pointer,
            (ctypes.c_char_p, ctypes.c_size_t, *[pointer] * 7),
        ),
        ("module_ext_get_module", pointer, (pointer,)),
        (
            "module_ext_get_interface",
            ctypes.c_int,
            (pointer, ctypes.c_char_p, pointer, ctypes.c_size_t),
        ),
        ("module_ext_destroy", None, (pointer,)),
        ("module_get_num_instruments", number, (pointer,)),
        ("module_get_num_samples", number, (pointer,)),
        ("module_get_instrument_name", pointer, (pointer, number)),
        ("module_get_sample_name", pointer, (pointer, number)),
        ("free_string", None, (pointer,)),
        (
            "module_read_float_stereo",
            ctypes.c_size_t,
            (pointer, number, ctypes.c_size_t, pointer, pointer),
        ),
    ):
        entry = getattr(library, f"openmpt_{function}")
        entry.restype, entry.argtypes = result, arguments
    return library


RATE = 44100
SET_FILE = "set.json"
INDEX_FILE = "index.tsv"
REST = "accompaniment"

#: Real songs of one guitar and the rest, both as files.
SONGS_PACKAGE = "fretsonfire-songs-sectoid"
#: Instrumental music of games, all of it held out.
MUSIC = {
    "colobot-common-sounds": ("Humanitarian.ogg", "Proton.ogg"),
    "freedroidrpg-data": ("hellforce.ogg", "town.ogg"),
    "supertux-data": (
        "call_of_the_winding_path.ogg",
        "classic.ogg",
        "forest-sprint.ogg",
        "forest.ogg",
        "halloween_1.ogg",
        "ice_music.ogg",
        "theme.ogg",
    ),
    "torcs-data": ("torcs1.ogg",),
    "wesnoth-1.16-music": ("battle.ogg", "knolls.ogg"),
    "widelands-data": ("ingame_05.ogg", "ingame_12.ogg", "ingame_17.ogg", "ingame_26.ogg"),
}
#: Tracker modules whose instruments have names, all of them held out.
MODULES = {
    "biniax2-data": ("biniax_common03.it",),
    "heroes-sound-tracks": ("heroes07.xm",),
    "pingus-data": ("pingus-1.it", "pingus-3.it", "pingus-5.it", "pingus-8.it"),
    "rafkill-data": ("song3.xm",),
}
#: Words in the names of their instruments; the first that fits counts.
_INSTRUMENT_WORDS = (
    ("drums", "drum snare tom crash hat cym hht conga ride pelti virveli tomit basari metalhit"),
    ("bass", "bass tb303"),
    ("strings", "string"),
    ("piano", "piano"),
    ("flute", "flute huilu"),
    ("guitar", "guitar kitara"),
    ("vibraphone", "vibes vibra"),
)
_OTHER = "other"

#: Labels of general sounds, and what a person would call them where that is something else.
SOUNDS = {
    "baby-crying": "baby crying",
    "bells": "bells",
    "birds": "birds",
    "car-engine": "car engine",
    "car-horn": "car horn",
    "chainsaw": "chainsaw",
    "clock-ticking": "clock ticking",
    "coins": "coins",
    "dog-barking": "dog barking",
    "door": "door",
    "drill-tools": "electric drill",
    "explosion": "explosion",
    "fire-crackling": "fire crackling",
    "footsteps": "footsteps",
    "glass-breaking": "glass breaking",
    "gunshot": "gunshot",
    "helicopter": "helicopter",
    "insects": "insects",
    "keys-jingling": "keys jingling",
    "paper": "paper",
    "rain": "rain",
    "rooster": "rooster",
    "sea-waves": "sea waves",
    "siren-alarm": "siren",
    "sneezing": "sneezing",
    "thunder": "thunder",
    "train": "train",
    "water": "water",
    "wind": "wind",
}
#: Of these no two are mixed, since nobody could tell them apart for sure.
_ALIKE = (
    {"rain", "sea-waves", "water", "fire-crackling", "wind"},
    {"car-engine", "chainsaw", "drill-tools", "helicopter", "train"},
    {"gunshot", "explosion", "thunder", "door"},
    {"coins", "keys-jingling", "glass-breaking"},
)
INSTRUMENTS = {
    "bells": "bells",
    "guitar": "acoustic guitar",
    "hand-drums": "hand drums",
    "piano": "piano",
    "saxophone": "saxophone",
    "shaker": "shaker",
    "synth-bass": "synth bass",
    "tambourine": "tambourine",
    "theremin": "theremin",
    "violin": "violin",
}
_DRUMS = ("drums", "kick-drum", "snare-drum", "hi-hat", "tom-drum", "cymbals")
_PRODUCTION = {
    **dict.fromkeys(_DRUMS, "drums"),
    "synth-bass": "bass",
    "synthesizer": "synthesizer",
    "piano": "piano",
    "backing-vocals": "backing vocals",
    "spoken-vocals": "vocals",
}
_SONG_S, _PIECE_S, _MIX_S, _SOUND_S = 20.0, 20.0, 12.0, 8.0
_MODULE_START_S = 8.0


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the mixtures of one kind.

    Attributes
    ----------
    prompts : dict of str to list of str
        For each stem what to ask for it.
    rest : str or None
        Stem that is what remains.
    absent : tuple of str
        Prompts for what these mixtures do not hold, one after another in turn.
    """

    prompts: dict[str, list[str]]
    rest: str | None = None
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recording:
    """A row of the index of a folder of recordings.

    Attributes
    ----------
    path : Path
    label, group : str
    song : str
        Empty for recordings that are not part of a multitrack.
    """

    path: Path
    label: str
    group: str
    song: str


def read_index(folder: Path) -> list[Recording]:
    """List the recordings of a folder with an ``index.tsv``.

    Raises
    ------
    FileNotFoundError
        If there is no index.
    ValueError
        If it lacks one of the columns path, label, group and song.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        raise FileNotFoundError(f"{index}: expected an index of recordings, found none")
    with index.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    wanted = ("path", "label", "group", "song")
    if not rows or any(rows[0].get(name) is None for name in wanted):
        raise ValueError(f"{index}: expected the columns {', '.join(wanted)}, tab-separated")
    return [Recording(folder / r["path"], r["label"], r["group"], r["song"]) for r in rows]


def package_files(package: str, unpacked: Path | None = None) -> list[Path]:
    """List the files of a Debian package.

    Parameters
    ----------
    package : str
    unpacked : Path or None
        Folder with packages unpacked by ``dpkg -x``, a folder of its name each; a package that is
        not there has to be installed.

    Raises
    ------
    FileNotFoundError
        If it is neither unpacked nor installed, with the command that installs it.
    """
    root = unpacked / package if unpacked is not None else None
    if root is not None and root.is_dir():
        return sorted(path for path in root.rglob("*") if path.is_file())
    try:
        done = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise FileNotFoundError(
            f"the Debian package {package} is missing; run: apt-get install {package}"
        ) from None
    return sorted(path for path in map(Path, done.stdout.splitlines()) if path.is_file())


def make_real_set(
    out: Path,
    recordings: Path,
    unpacked: Path | None = None,
    seed: int = 1,
    *,
    scenes: int = 46,
    progress: Callable[[str], None] = lambda _kind: None,
) -> None:
    """Write the set; a set that is complete is left alone.

    Parameters
    ----------
    out : Path
        Folder of the set.
    recordings : Path
        Folder with an ``index.tsv``; only its held-out groups are used.
    unpacked : Path or None
        As for `package_files`.
    seed : int
        Each mixture depends on it, its kind and its number.
    scenes : int
        Mixtures of general sounds; of instruments there are a third as many.
    progress : callable
        Called with each kind before it is made.

    Raises
    ------
    FileNotFoundError, ValueError
        If the index or a package is missing or of another form.
    """
    if (out / SET_FILE).is_file():
        return
    held_out = [r for r in read_index(recordings) if is_held_out_group(r.group)]
    music = _find(MUSIC, unpacked)
    songs = package_files(SONGS_PACKAGE, unpacked)
    kinds: dict[str, tuple[Kind, Iterator[tuple[str, dict[str, Audio]]]]] = {
        "guitar": (
            Kind({"guitar": ["electric guitar"]}, REST, ("vocals", "dog barking")),
            _guitar_songs(songs),
        ),
        "singers": (
            Kind({"vocals": ["vocals", "lead vocals"]}, REST, ("person speaking",)),
            _voices(held_out, "vocals", music, 4, seed),
        ),
        "speakers": (
            Kind({"speech": ["person speaking"]}, REST, ("vocals",)),
            _voices(held_out, "speech", music, 4, seed + 1),
        ),
        "productions": (
            Kind(
                {name: [name] for name in dict.fromkeys(_PRODUCTION.values())},
                None,
                ("dog barking", "flute"),
            ),
            _productions(held_out),
        ),
        "modules": (
            Kind({name: [name] for name, _ in _INSTRUMENT_WORDS}, None, ("vocals", "rain")),
            _modules(unpacked),
        ),
        "sounds": (
            Kind({name: [name] for name in SOUNDS.values()}, None, ("bass guitar", "vocals")),
            _scenes(held_out, SOUNDS, scenes, seed + 2),
        ),
        "instruments": (
            Kind({name: [name] for name in INSTRUMENTS.values()}, None, ("rain", "dog barking")),
            _scenes(held_out, INSTRUMENTS, scenes // 3 + 1, seed + 3),
        ),
    }
    for kind, (_, mixtures) in kinds.items():
        progress(kind)
        for name, stems in mixtures:
            _write(out / kind / name, stems)
    text = msgspec.json.format(msgspec.json.encode({k: about for k, (about, _) in kinds.items()}))
    (out / SET_FILE).write_bytes(text + b"\n")


def read_set(folder: Path) -> dict[str, Kind]:
    """Read what the kinds of a set are asked.

    Raises
    ------
    FileNotFoundError
        If the folder holds no complete set.
    """
    if not (folder / SET_FILE).is_file():
        raise FileNotFoundError(f"{folder}: expected {SET_FILE} of a set of real recordings")
    return msgspec.json.decode((folder / SET_FILE).read_bytes(), type=dict[str, Kind])


def _find(wanted: dict[str, tuple[str, ...]], unpacked: Path | None) -> list[Path]:
    found = []
    for package, names in wanted.items():
        files = {path.name: path for path in package_files(package, unpacked)}
        for name in names:
            if not is_held_out_file(package, name):
                raise ValueError(f"{package}: {name} is not held out; the split has changed")
            if name not in files:
                raise FileNotFoundError(f"{package}: expected the file {name}, found none")
            found.append(files[name])
    return found


def _read(path: Path, channels: int) -> Audio:
    """Read a file as (channels, samples) at `RATE`."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if channels == 1:
        audio = audio.mean(axis=1, keepdims=True)
    elif audio.shape[1] == 1:
        audio = np.repeat(audio, 2, axis=1)
    return np.stack([resample(audio[:, c], rate, RATE) for c in range(channels)])


def _power(audio: Audio) -> float:
    """Mean power of the 25 ms frames in which a signal (channels, samples) sounds."""
    mono = np.sqrt(np.mean(np.square(audio), axis=0))
    sounding = np.repeat(activity(mono, RATE), round(0.025 * RATE))
    return float(np.mean(np.square(mono[: len(sounding)][sounding]), dtype=np.float64))


def _write(folder: Path, stems: dict[str, Audio]) -> None:
    mixture, rounded = to_pcm(list(stems.values()))
    folder.mkdir(parents=True, exist_ok=True)
    for name, stem in zip(stems, rounded, strict=True):
        soundfile.write(folder / f"{name}.wav", stem.T, RATE, subtype="PCM_16")
    soundfile.write(folder / "mixture.wav", mixture.T, RATE, subtype="PCM_16")


def _guitar_songs(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Audio]]]:
    """Cut the 20 s of each song in which the guitar is loudest, and the 20 s next to that."""
    for guitar_file in (path for path in files if path.name == "guitar.ogg"):
        guitar, rest = (
            _read(guitar_file.with_name(name), 2) for name in ("guitar.ogg", "song.ogg")
        )
        length = max(guitar.shape[1], rest.shape[1])
        guitar, rest = (np.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in (guitar, rest))
        size, step = round(_SONG_S * RATE), RATE
        starts = np.arange(0, length - size + 1, step)
        loudness = np.array([np.mean(np.square(guitar[:, s : s + size])) for s in starts])
        for number in range(2):
            start = int(starts[np.argmax(loudness)])
            loudness[np.abs(starts - start) < size] = -1.0
            part = slice(start, start + size)
            name = guitar_file.parent.name.lower().replace(" ", "-")
            yield f"{name}-{number}", {"guitar": guitar[:, part], REST: rest[:, part]}


def _join(rng: np.random.Generator, paths: Sequence[Path], seconds: float) -> Audio:
    """Join recordings in a random order, with short pauses, to one of a length (1, samples)."""
    wanted = round(seconds * RATE)
    parts: list[Audio] = []
    while sum(part.shape[1] for part in parts) < wanted:
        for k in rng.permutation(len(paths)):
            pause = np.zeros((1, round(float(rng.uniform(0.1, 0.5)) * RATE)), np.float32)
            parts += [_read(paths[k], 1), pause]
            if sum(part.shape[1] for part in parts) >= wanted:
                break
    return np.concatenate(parts, axis=1)[:, :wanted]


def _voices(
    recordings: Sequence[Recording], label: str, music: Sequence[Path], each: int, seed: int
) -> Iterator[tuple[str, dict[str, Audio]]]:
    """Put every held-out voice into the middle of real music, produced as a voice is."""
    groups = sorted({r.group for r in recordings if r.label == label})
    stem = "vocals" if label == "vocals" else "speech"
    order = np.random.default_rng([seed, 0]).permutation(len(music))
    turn = 0
    for group in groups:
        paths = [r.path for r in recordings if r.label == label and r.group == group]
        for number in range(each):
            rng = np.random.default_rng([seed, turn + 1])
            accompaniment = _read(music[order[turn % len(music)]], 2)
            turn += 1
            size = round(_MIX_S * RATE)
            start = int(rng.integers(max(1, accompaniment.shape[1] - size - RATE)))
            accompaniment = accompaniment[:, start : start + size]
            voice = np.repeat(_join(rng, paths, accompaniment.shape[1] / RATE), 2, axis=0)
            studio = pedalboard.Pedalboard(
                [
                    pedalboard.HighpassFilter(90.0),
                    pedalboard.Compressor(-20.0 + 20 * np.log10(_power(voice) ** 0.5 / 0.1), 3.0),
                    pedalboard.Reverb(
                        room_size=float(rng.uniform(0.2, 0.6)),
                        wet_level=float(rng.uniform(0.02, 0.12)),
                        dry_level=0.4,
                    ),
                ]
            )
            voice = studio(voice, RATE)
            level = 10 ** (float(rng.uniform(-4, 4)) / 20)
            voice *= np.float32(level * np.sqrt(_power(accompaniment) / _power(voice)))
            yield f"{group}-{number}", {stem: voice, REST: accompaniment}


def _productions(recordings: Sequence[Recording]) -> Iterator[tuple[str, dict[str, Audio]]]:
    """Cut held-out multitracks into pieces; rhythm and voices in the middle, the rest beside."""
    for song in sorted({r.song for r in recordings if r.song}):
        tracks = [r for r in recordings if r.song == song and r.label in _PRODUCTION]
        sides = iter(np.tile([-0.6, 0.6], len(tracks)))
        whole: dict[str, Audio] = {}
        for track in tracks:
            name = _PRODUCTION[track.label]
            place = float(next(sides)) if name in ("synthesizer", "piano") else 0.0
            placed = pan(_read(track.path, 1)[0], place)
            whole[name] = whole[name] + placed if name in whole else placed
        size = round(_PIECE_S * RATE)
        length = min(stem.shape[1] for stem in whole.values())
        for number, start in enumerate(range(0, length - size + 1, size)):
            pieces = {name: stem[:, start : start + size] for name, stem in whole.items()}
            mixture_power = np.mean(np.square(sum(pieces.values())))
            stems = {
                name: piece
                for name, piece in pieces.items()
                if np.mean(np.square(piece)) > 1e-3 * mixture_power
            }
            if len(stems) > 1:
                yield f"{song.lower().replace(' ', '-')}-{number}", stems


def module_stems(path: Path, first_s: float, seconds: float) -> dict[str, Audio]:
    """Render a passage of a module as stems, by the names that its instruments have.

    Parameters
    ----------
    path : Path
    first_s, seconds : float
        Where the passage begins and how long it is at most.

    Returns
    -------
    dict of str to ndarray, shape (2, samples)
        What is heard of each family, and ``other``: the instruments whose names do not say what
        they are, and all that muting changes. Their sum is the passage.
    """
    size, first = round(seconds * RATE), round(first_s * RATE)
    module = Module(path)
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(module.names):
        low = name.casefold()
        family = next(
            (f for f, words in _INSTRUMENT_WORDS if any(w in low for w in words.split())),
            _OTHER,
        )
        groups.setdefault(family, []).append(number)
    whole = module.render(RATE, first_s + seconds)[:, first : first + size]
    stems = {
        family: module.render(RATE, first_s + seconds, numbers)[:, first:][:, :size]
        for family, numbers in groups.items()
    }
    power = np.mean(np.square(whole))
    heard = {f: stem for f, stem in stems.items() if np.mean(np.square(stem)) > 3e-3 * power}
    heard[_OTHER] = whole - sum(stem for f, stem in heard.items() if f != _OTHER)
    return heard


def _modules(unpacked: Path | None) -> Iterator[tuple[str, dict[str, Audio]]]:
    for path in _find(MODULES, unpacked):
        yield path.stem.lower(), module_stems(path, _MODULE_START_S, _PIECE_S)


def _scenes(
    recordings: Sequence[Recording], labels: dict[str, str], count: int, seed: int
) -> Iterator[tuple[str, dict[str, Audio]]]:
    """Mix two or three recordings of different labels, each of them equally often."""
    by_label = {label: [r for r in recordings if r.label == label] for label in labels}
    times = {label: 0 for label, found in by_label.items() if found}
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        chosen: list[str] = []
        for label in sorted(times, key=lambda name: (times[name], rng.random())):
            alike = any(label in group and group & set(chosen) for group in _ALIKE)
            if not alike and len(chosen) < 2 + index % 2:
                chosen.append(label)
        stems = {}
        for label in chosen:
            times[label] += 1
            groups = sorted({r.group for r in by_label[label]})
            group = groups[int(rng.integers(len(groups)))]
            paths = [r.path for r in by_label[label] if r.group == group]
            audio = _join(rng, paths, _SOUND_S)[0]
            level = 10 ** (float(rng.uniform(-5, 5)) / 20) / np.sqrt(_power(audio[np.newaxis]))
            # Half of them in the middle, as most recordings of this sort are.
            place = float(rng.uniform(-0.6, 0.6)) if rng.random() < 0.5 else 0.0
            stems[labels[label]] = pan(audio * np.float32(level), place)
        yield f"{index:03d}", stems
