"""Renders the parts of a song to stems: chooses instruments and plays them.

FluidSynth plays soundfonts. All parts that share one go into one MIDI file, one after another with
a gap in between, so that the soundfont is loaded once; the result is cut at the known times.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mido
import numpy as np
import soundfile
from numpy.typing import NDArray

from onnx_export.training.sound.families import FAMILIES, instrument_family
from onnx_export.training.sound.samples import (
    list_kits,
    patch_path,
    render_kit,
    render_made_drums,
    render_patch,
)
from onnx_export.training.sound.songs import Part, Song, weighted
from onnx_export.training.sound.synths import SYNTHESISED, render_synth

__all__ = [
    "SOUNDFONTS",
    "Instrument",
    "Soundfont",
    "choose_instrument",
    "missing_packages",
    "missing_sample_packages",
    "presets",
    "render_parts",
    "render_song",
    "require_packages",
]

_GAP_S = 3.0
_DRUM_BANK = 128
_FOLDER = Path("/usr/share/sounds/sf2")


@dataclass(frozen=True)
class Soundfont:
    """A soundfont as Debian ships it.

    Parameters
    ----------
    name
        Short name, used in file names of the pool.
    package
        Debian package.
    file
        Its file in `/usr/share/sounds/sf2`.
    split
        `train`, `test` (never in training; for validation and tests), or `tune` (never in training;
        for choices beside it).
    weight
        How often it is drawn within its split.
    """

    name: str
    package: str
    file: str
    split: str
    weight: float = 1.0

    @property
    def path(self) -> Path:
        """Where Debian installs the file."""
        return _FOLDER / self.file


#: csound's sf_GMbank.sf2 never trains: it holds many samples of TimGM6mb, which is the soundfont
#: kept for testing. What it has of its own serves for tuning.
SOUNDFONTS: dict[str, Soundfont] = {
    font.name: font
    for font in (
        Soundfont("fluidr3", "fluid-soundfont-gm", "FluidR3_GM.sf2", "train", 0.4),
        Soundfont(
            "musescore",
            "musescore-general-soundfont-lossless",
            "MuseScore_General_Full.sf2",
            "train",
            0.45,
        ),
        Soundfont("opl3", "opl3-soundfont", "OPL-3_FM_128M.sf2", "train", 0.15),
        Soundfont("timgm6mb", "timgm6mb-soundfont", "TimGM6mb.sf2", "test"),
        Soundfont("csound", "csound-soundfont", "sf_GMbank.sf2", "tune"),
    )
}


@dataclass(frozen=True)
class Instrument:
    """A preset of a soundfont: bank, program, and tuning in cents."""

    bank: int
    program: int
    detune_cents: float = 0.0


def missing_packages(names: Iterable[str]) -> set[str]:
    """Return the Debian packages of FluidSynth and the named soundfonts that are absent."""
    missing = set() if shutil.which("fluidsynth") else {"fluidsynth"}
    return missing | {SOUNDFONTS[n].package for n in names if not SOUNDFONTS[n].path.is_file()}


def require_packages(missing: set[str]) -> None:
    """Refuse to go on without Debian packages.

    Raises
    ------
    FileNotFoundError
        If `missing` is not empty, with the command that installs them.
    """
    if missing:
        names = " ".join(sorted(missing))
        raise FileNotFoundError(
            f"synthesis needs Debian packages that are not installed; run: apt-get install {names}"
        )


@lru_cache(maxsize=16)
def presets(font: str) -> frozenset[tuple[int, int]]:
    """Return the `(bank, program)` pairs of a soundfont, read from its preset headers.

    Presets for wind controllers ("Expr.") are left out: they are silent without a breath signal.
    """
    require_packages(missing_packages((font,)))
    data = SOUNDFONTS[font].path.read_bytes()
    at = data.rfind(b"phdr")
    size = struct.unpack("<I", data[at + 4 : at + 8])[0]
    found = set()
    for k in range(at + 8, at + 8 + size - 38, 38):  # the last record only ends the list
        name = data[k : k + 20].split(b"\0")[0].decode("latin1")
        program, bank = struct.unpack("<HH", data[k + 20 : k + 24])
        if not name.endswith("Expr."):
            found.add((bank, program))
    return frozenset(found)


def _events(
    part: Part, instrument: Instrument, channel: int, offset_s: float
) -> list[tuple[float, int, mido.Message]]:
    """List `(time_s, order, message)` of one part; note ends come before starts."""
    bank = 0 if instrument.bank == _DRUM_BANK else instrument.bank
    bend = int(np.clip(instrument.detune_cents / 200 * 8192, -8192, 8191))
    events: list[tuple[float, int, mido.Message]] = [
        (0.0, 0, mido.Message("control_change", channel=channel, control=0, value=bank)),
        (0.0, 1, mido.Message("program_change", channel=channel, program=instrument.program)),
        (0.0, 2, mido.Message("pitchwheel", channel=channel, pitch=bend)),
    ]
    for time_s, control, value in part.controls:
        message = mido.Message("control_change", channel=channel, control=control, value=value)
        events.append((offset_s + time_s, 3, message))
    sounding: dict[int, float] = {}
    for note in reversed(part.notes):
        # A repeated pitch ends the note before it, as on a real instrument.
        end = min(note.start_s + note.length_s, sounding.get(note.pitch, np.inf) - 0.002)
        sounding[note.pitch] = note.start_s
        if end <= note.start_s:
            continue
        on = mido.Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity)
        off = mido.Message("note_off", channel=channel, note=note.pitch)
        events += [(offset_s + note.start_s, 5, on), (offset_s + end, 4, off)]
    return events


def render_parts(
    font: str,
    parts: list[Part],
    instruments: list[Instrument],
    seconds: float,
    sample_rate: int = 32000,
) -> list[NDArray[np.float32]]:
    """Render parts with one soundfont.

    Parameters
    ----------
    font
        A key of `SOUNDFONTS`.
    parts, instruments
        Up to 15 pitched parts, each with its instrument; drums use bank 128.
    seconds
        Length of the song. What rings on after it is cut off with a short fade.
    sample_rate
        32 kHz leaves no alias below 8 kHz for the usual 44.1 kHz samples.

    Returns
    -------
    list of ndarray
        Stereo audio `(2, samples)` for each part, dry.

    Raises
    ------
    FileNotFoundError
        If FluidSynth or the soundfont is missing.
    RuntimeError
        If FluidSynth fails.
    """
    require_packages(missing_packages((font,)))
    stride_s = seconds + _GAP_S
    events: list[tuple[float, int, mido.Message]] = []
    channels = iter([c for c in range(16) if c != 9])
    for k, (part, instrument) in enumerate(zip(parts, instruments, strict=True)):
        channel = 9 if instrument.bank == _DRUM_BANK else next(channels)
        events += _events(part, instrument, channel, k * stride_s)
    end_s = len(parts) * stride_s
    events.sort(key=lambda event: event[:2])

    ticks_per_s = 960.0
    midi = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    midi.tracks.append(track)
    now = 0
    for time_s, _, message in events:
        tick = round(time_s * ticks_per_s)
        track.append(message.copy(time=max(0, tick - now)))
        now = max(now, tick)
    track.append(mido.MetaMessage("end_of_track", time=max(1, round(end_s * ticks_per_s) - now)))

    with tempfile.TemporaryDirectory(prefix="stembridge-") as folder:
        midi.save(f"{folder}/song.mid")
        command = ["fluidsynth", "-niq", "-R", "0", "-C", "0", "-g", "0.4"]
        command += [
            "-o",
            "synth.dynamic-sample-loading=1",
            "-o",
            "synth.polyphony=200",
            "-T",
            "wav",
            "-O",
            "float",
            "-r",
            str(sample_rate),
        ]
        command += ["-F", f"{folder}/song.wav", str(SOUNDFONTS[font].path), f"{folder}/song.mid"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not Path(folder, "song.wav").is_file():
            raise RuntimeError(f"fluidsynth failed with {font}: {done.stderr.strip()[:500]}")
        audio, _ = soundfile.read(f"{folder}/song.wav", dtype="float32", always_2d=True)
    length = round(seconds * sample_rate)
    fade = np.ones(length, np.float32)
    fade[-200:] = np.linspace(1, 0, 200, dtype=np.float32)
    stems = []
    for k in range(len(parts)):
        first = round(k * stride_s * sample_rate)
        stem = audio[first : first + length].T
        stem = np.pad(stem, ((0, 0), (0, length - stem.shape[1])))
        stems.append((stem * fade).astype(np.float32))
    return stems


# Programs that suit short notes only, and those that need long ones.
_PLUCKED = (45,)
_SLOW = (44, 49, 50, 51, 89)
_DRUMS_LEFT_OUT = (48, 55, 56, 57, 58, 59, 95, 96, 127)


def choose_instrument(rng: np.random.Generator, font: str, part: Part) -> Instrument:
    """Draw a preset of the part's family that the soundfont has.

    Variations in other banks of the same program are drawn half of the time.
    """
    available = presets(font)
    if part.family == "drums":
        kits = sorted(p for b, p in available if b == 128 and p not in _DRUMS_LEFT_OUT)
        return Instrument(128, int(rng.choice(kits)) if kits else 0)
    programs = {
        str(program): weight
        for program, weight in FAMILIES[part.family].programs.items()
        if (0, program) in available
        and not (part.style in ("pad", "melody", "duet") and program in _PLUCKED)
        and not (part.style in ("arpeggio", "stabs") and program in _SLOW)
    }
    program = int(weighted(rng, programs))
    banks = sorted(b for b, p in available if p == program and 0 < b < 128)
    bank = int(rng.choice(banks)) if banks and rng.random() < 0.5 else 0
    return Instrument(bank, program, detune_cents=float(rng.normal(0, 6)))


def missing_sample_packages() -> set[str]:
    """Return the Debian packages of patches and drum kits that are absent."""
    found = {
        "freepats": patch_path(0) is not None,
        "hydrogen-drumkits": "ColomboAcousticDrumkit" in list_kits(),
        "hydrogen-data": "GMRockKit" in list_kits(),
    }
    return {package for package, there in found.items() if not there}


def _others(rng: np.random.Generator, part: Part) -> tuple[str, int] | None:
    """Draw a source beside the soundfonts: `(kind, GM program)`, or None for a soundfont."""
    draw = rng.random()
    if part.family == "drums":
        if draw < 0.28 and list_kits():
            return "kit", 0
        if draw < 0.33 and patch_path(38, drum=True):
            return "patch", 0
        return ("made", 0) if draw < 0.5 else None
    if draw < 0.18:
        programs = {
            str(p): w
            for p, w in FAMILIES[part.family].programs.items()
            if patch_path(p) is not None
        }
        return ("patch", int(weighted(rng, programs))) if programs else None
    return ("made", 0) if draw < 0.4 and part.family in SYNTHESISED else None


def _render_other(
    rng: np.random.Generator, part: Part, other: tuple[str, int], seconds: float, sample_rate: int
) -> tuple[str, str, NDArray[np.float32]]:
    """Render with a source of `_others`; returns the family, its name and the audio."""
    kind, program = other
    if kind == "kit":
        kit = str(rng.choice(list_kits()))
        name = "".join(c for c in kit.lower() if c.isalnum())
        return part.family, f"kit-{name}", render_kit(rng, part, kit, seconds, sample_rate)
    if kind == "patch":
        cents = float(rng.normal(0, 6))
        audio = render_patch(part, program, seconds, sample_rate, detune_cents=cents)
        return instrument_family(part.family, program), "freepats", audio
    if part.family == "drums":
        return part.family, "made", render_made_drums(rng, part, seconds, sample_rate)
    return part.family, "made", render_synth(rng, part, seconds, sample_rate)


def render_song(
    rng: np.random.Generator, song: Song, sample_rate: int, *, held_out: bool = False
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """Render every part of a song with random instruments.

    Parameters
    ----------
    held_out
        Use only what is kept out of training (True), or only the rest (False).

    Returns
    -------
    list of tuple
        `(family, source, audio (1 or 2, samples))` for each part; the family is the narrowest that
        the instrument has, such as `violin` in place of `strings`.
    """
    fonts = {
        n: f.weight for n, f in SOUNDFONTS.items() if f.split == ("test" if held_out else "train")
    }
    pair = [weighted(rng, fonts), weighted(rng, fonts)]
    stems = []
    groups: dict[str, list[Part]] = {}
    for part in song.parts:
        other = None if held_out else _others(rng, part)
        if other is not None:
            stems.append(_render_other(rng, part, other, song.seconds, sample_rate))
            continue
        font = pair[int(rng.random() < 0.5)]
        groups.setdefault(font, []).append(part)
    for font, parts in sorted(groups.items()):
        instruments = [choose_instrument(rng, font, part) for part in parts]
        rendered = render_parts(font, parts, instruments, song.seconds, sample_rate)
        stems += [
            (instrument_family(part.family, instrument.program), font, audio)
            for part, instrument, audio in zip(parts, instruments, rendered, strict=True)
        ]
    return stems
