"""Recorded instruments beside the soundfonts: Gravis UltraSound patches, and drum kits.

Patches are Debian's `freepats`. One holds samples for ranges of pitches, with loops and a six-stage
envelope whose levels are logarithmic. Kits are those of Hydrogen; drums are also made here from
scratch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from onnx_export.training.sound.songs import Part

__all__ = [
    "KITS",
    "PATCHES",
    "Sample",
    "list_kits",
    "patch_path",
    "read_patch",
    "render_kit",
    "render_made_drums",
    "render_patch",
]

PATCHES = Path("/usr/share/midi/freepats")
_MAGIC = b"GF1PATCH110\0"
_UNSIGNED, _LOOP, _PING_PONG, _SUSTAIN, _ENVELOPE = 2, 4, 8, 32, 64
# The same recording as in the soundfont kept for testing.
_LEFT_OUT = ("079_Ocarina.pat",)


@dataclass(frozen=True)
class Sample:
    """One sample of a patch.

    `low_hz` to `high_hz` is the range it serves; `levels` and `rates` are the envelope's bytes.
    """

    data: NDArray[np.float32]
    rate: int
    low_hz: float
    high_hz: float
    root_hz: float
    loop: tuple[float, float]
    modes: int
    levels: tuple[int, ...]
    rates: tuple[int, ...]


def patch_path(program: int, *, drum: bool = False) -> Path | None:
    """Return the file of a GM program, or of a GM percussion key; None if there is none."""
    folder = PATCHES / ("Drum_000" if drum else "Tone_000")
    found = sorted(p for p in folder.glob(f"{program:03d}_*.pat") if p.name not in _LEFT_OUT)
    return found[0] if found else None


@lru_cache(maxsize=40)
def read_patch(path: Path) -> tuple[Sample, ...]:
    """Read the samples of a patch.

    Raises
    ------
    ValueError
        If the file is not a 16-bit GF1 patch of version 110.
    """
    data = path.read_bytes()
    if data[:12] != _MAGIC:
        raise ValueError(f"{path}: expected a GF1 patch of version 110, got {data[:12]!r}")
    count = data[129 + 63 + 6]
    at = 129 + 63 + 47
    samples = []
    for _ in range(count):
        header = data[at : at + 96]
        size, loop_start, loop_end = struct.unpack("<III", header[8:20])
        (rate,) = struct.unpack("<H", header[20:22])
        low, high, root = struct.unpack("<III", header[22:34])
        modes = header[55]
        raw = np.frombuffer(data[at + 96 : at + 96 + size // 2 * 2], dtype="<u2")
        at += 96 + size
        if not modes & 1:
            raise ValueError(f"{path}: expected 16-bit samples, got 8-bit ones")
        wave = raw.astype(np.float32) - 32768 if modes & _UNSIGNED else raw.astype("<i2")
        samples.append(
            Sample(
                np.asarray(wave, np.float32) / np.float32(32768),
                rate,
                low / 1000,
                high / 1000,
                root / 1000,
                (loop_start / 2, min(loop_end // 2, len(raw) - 1)),
                modes,
                tuple(header[43:49]),
                tuple(header[37:43]),
            )
        )
    return tuple(samples)


def _stage_s(change: float, rate: int) -> float:
    """Time in which the envelope moves by `change` levels at a rate byte."""
    step = (rate & 0x3F) << (3 * (3 - (rate >> 6)))
    return abs(change) * 8192 / max(step, 1) / 44100


def _envelope(sample: Sample, held_s: float, sample_rate: int) -> NDArray[np.float32]:
    """Return the amplitude over time, from key down until it has died away."""
    if not sample.modes & _ENVELOPE:
        total = int((held_s + 0.1) * sample_rate)
        fade = np.arange(total) / sample_rate - held_s
        return np.clip(1 - fade / 0.1, 0, 1).astype(np.float32)
    times, levels = [0.0], [0.0]
    for stage in range(3):
        times.append(times[-1] + _stage_s(sample.levels[stage] - levels[-1], sample.rates[stage]))
        levels.append(float(sample.levels[stage]))
    at_release = float(np.interp(held_s, times, levels))
    kept = [k for k, t in enumerate(times) if t < held_s]
    times = [times[k] for k in kept] + [held_s]
    levels = [levels[k] for k in kept] + [at_release]
    for stage in range(3, 6):
        step_s = _stage_s(sample.levels[stage] - levels[-1], sample.rates[stage])
        times.append(times[-1] + min(step_s, 1.5))
        levels.append(float(sample.levels[stage]))
    # Whatever the patch says, a released note ends within two seconds.
    end_s = min(times[-1], held_s + 2.0)
    grid = np.arange(int(end_s * sample_rate) + 1) / sample_rate
    curve = 2.0 ** ((np.interp(grid, times, levels) - 246) / 16)
    curve *= np.clip((end_s - grid) / 0.02, 0, 1)
    return curve.astype(np.float32)


def _play(sample: Sample, hertz: float, held_s: float, sample_rate: int) -> NDArray[np.float32]:
    """Play one note."""
    step = sample.rate / sample_rate * hertz / sample.root_hz
    envelope = _envelope(sample, held_s, sample_rate)
    at = np.arange(len(envelope)) * step
    first, last = sample.loop
    span = last - first
    if sample.modes & _LOOP and span > 8:
        beyond = at > last
        over = at[beyond] - first
        there_and_back = span - np.abs(over % (2 * span) - span)
        at[beyond] = first + (there_and_back if sample.modes & _PING_PONG else over % span)
    else:
        at = at[at < len(sample.data) - 1]
    whole = at.astype(np.int64)
    part = (at - whole).astype(np.float32)
    after = np.minimum(whole + 1, len(sample.data) - 1)
    wave = sample.data[whole] * (1 - part) + sample.data[after] * part
    return wave * envelope[: len(wave)]


def render_patch(
    part: Part, program: int, seconds: float, sample_rate: int, *, detune_cents: float = 0.0
) -> NDArray[np.float32]:
    """Render a pitched part with the patch of a GM program, or drums with the percussion patches.

    Parameters
    ----------
    part
        Drums ignore `program`.
    seconds, sample_rate
        Length and rate of the result.

    Returns
    -------
    ndarray
        `(1, samples)` float32, zero where no patch serves a note.
    """
    total = round(seconds * sample_rate)
    audio = np.zeros(total, np.float32)
    drums = part.family == "drums"
    for note in part.notes:
        path = patch_path(note.pitch if drums else program, drum=drums)
        if path is None:
            continue
        samples = read_patch(path)
        hertz = 440 * 2 ** ((note.pitch - 69 + detune_cents / 100) / 12)
        fits = [s for s in samples if s.low_hz <= hertz * 1.01 and hertz <= s.high_hz * 1.01]
        near = fits or [min(samples, key=lambda s: abs(np.log(s.root_hz / hertz)))]
        sample = near[0]
        wave = _play(sample, sample.root_hz if drums else hertz, note.length_s, sample_rate)
        start = round(note.start_s * sample_rate)
        piece = wave[: max(0, total - start)] * np.float32((note.velocity / 127) ** 1.6)
        audio[start : start + len(piece)] += piece
    return audio[None]


KITS = Path("/usr/share/hydrogen/data/drumkits")

# Roles, the GM percussion keys that play them, and words in the names of a kit's instruments.
_ROLES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "kick": ((35, 36), ("kick", "bass drum", "bassdrum", "thump", "bass")),
    "rim": ((37, 75, 76), ("stick", "rim", "clave", "wood", "click")),
    "snare": ((38, 40), ("snare", "slap")),
    "clap": ((39,), ("clap", "snap")),
    "pedal": ((44,), ("pedal", "hat low", "foot")),
    "open": ((46,), ("open", "ohh", "hat op")),
    "hat": ((42,), ("closed", "hat", "hh", "maraca", "bell mute")),
    "high tom": ((48, 50, 62), ("tom hi", "high tom", "tom 1", "bongo hi", "tone", "conga")),
    "mid tom": ((45, 47, 63), ("tom mid", "middle tom", "tom 2", "bongo lo", "drum", "tom")),
    "low tom": ((41, 43, 64), ("tom low", "low tom", "floor", "head hit")),
    "bell": ((53, 56), ("cowbell", "bell", "cup", "agogo")),
    "ride": ((51, 59), ("ride", "cymbal", "waterglass")),
    "crash": ((49, 55, 57, 52), ("crash", "splash", "china", "cymbal")),
    "shaker": ((54, 69, 70, 82), ("shaker", "tambourine", "maraca", "agogo")),
}
# What stands in for a role that a kit lacks.
_INSTEAD = {
    "pedal": "hat",
    "open": "hat",
    "rim": "snare",
    "clap": "snare",
    "mid tom": "low tom",
    "high tom": "mid tom",
    "low tom": "high tom",
    "bell": "ride",
    "ride": "hat",
    "shaker": "hat",
}
_LONGEST_S = 2.5
# Under CC BY-SA 3.0, or under version 2 of the GPL alone.
_KITS_LEFT_OUT = (
    "BJA_Pacific",
    "ForzeeStereo",
    "Gimme A Hand 1.0",
    "Millo-Drums_v.1",
    "Millo_MultiLayered2",
    "Millo_MultiLayered3",
    "The Black Pearl 1.0",
    "circAfrique v4",
)


def _role_of_key(key: int) -> str:
    return next((role for role, (keys, _) in _ROLES.items() if key in keys), "hat")


def _role_of_name(name: str) -> str | None:
    name = name.lower()
    if "roll" in name or "snare" in name:
        return None if "roll" in name else "snare"
    return next((r for r, (_, words) in _ROLES.items() if any(w in name for w in words)), None)


def list_kits() -> tuple[str, ...]:
    """Return the installed Hydrogen kits that train: licensed for it, with a kick and a snare."""
    if not KITS.is_dir():
        return ()
    names = sorted({p.parent.name for p in KITS.glob("*/drumkit.xml")} - set(_KITS_LEFT_OUT))
    return tuple(name for name in names if {"kick", "snare"} <= set(_layers(name)))


@lru_cache(maxsize=64)
def _layers(kit: str) -> dict[str, tuple[tuple[Path, ...], ...]]:
    """Return, for each role, the instruments of a kit as their sample files, softest first."""
    roles: dict[str, list[tuple[Path, ...]]] = {}
    for element in ElementTree.parse(KITS / kit / "drumkit.xml").iter():
        if element.tag.rpartition("}")[2] != "instrument":
            continue
        name, files = "", []
        for child in element.iter():
            tag = child.tag.rpartition("}")[2]
            if tag == "name" and not name:
                name = child.text or ""
            elif tag == "filename" and child.text:
                files.append(KITS / kit / child.text)
        role = _role_of_name(name)
        present = tuple(path for path in files if path.is_file())
        if role and present:
            roles.setdefault(role, []).append(present)
    return {role: tuple(instruments) for role, instruments in roles.items()}


@lru_cache(maxsize=400)
def _load(path: Path, sample_rate: int) -> NDArray[np.float32]:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = audio[: int(rate * _LONGEST_S)].mean(axis=1)
    return np.asarray(soxr.resample(mono, rate, sample_rate), dtype=np.float32)


def _place(audio: NDArray[np.float32], hit: NDArray[np.float32], start: int, gain: float) -> None:
    piece = hit[: max(0, len(audio) - start)]
    audio[start : start + len(piece)] += piece * np.float32(gain)


def render_kit(
    rng: np.random.Generator, part: Part, kit: str, seconds: float, sample_rate: int
) -> NDArray[np.float32]:
    """Render drums with a Hydrogen kit, each piece at its own random tuning and level.

    Parameters
    ----------
    part
        Notes are GM percussion keys.
    kit
        One of `list_kits`.

    Returns
    -------
    ndarray
        `(1, samples)` float32.
    """
    layers = _layers(kit)
    audio = np.zeros(round(seconds * sample_rate), np.float32)
    tuning = float(np.exp(rng.normal(0, 0.08)))
    pieces: dict[int, tuple[tuple[Path, ...], float, float]] = {}
    for note in part.notes:
        if note.pitch not in pieces:
            role = _role_of_key(note.pitch)
            while role not in layers and role in _INSTEAD and role != "low tom":
                role = _INSTEAD[role]
            choices = layers.get(role, ())
            files = choices[int(rng.integers(len(choices)))] if choices else ()
            pieces[note.pitch] = (
                files,
                tuning * float(np.exp(rng.normal(0, 0.04))),
                float(rng.uniform(0.6, 1.2)),
            )
        files, ratio, level = pieces[note.pitch]
        if not files:
            continue
        layer = min(len(files) - 1, int(note.velocity / 128 * len(files)))
        hit = _load(files[layer], round(sample_rate / ratio / 50) * 50)
        _place(audio, hit, round(note.start_s * sample_rate), level * (note.velocity / 127) ** 1.5)
    return audio[None]


def _made_hit(rng: np.random.Generator, role: str, sample_rate: int) -> NDArray[np.float32]:
    """Make one drum: swept sines for skins, shaped noise and clusters of squares for metal."""
    long = {"crash": 1.8, "ride": 1.0, "open": 0.5, "kick": 0.6, "low tom": 0.5}.get(role, 0.3)
    time = np.arange(int(long * sample_rate)) / sample_rate
    noise = rng.standard_normal(len(time))

    def decay(tau_s: float) -> NDArray[np.float64]:
        return np.exp(-time / tau_s)

    def sweep(low_hz: float, high_hz: float, tau_s: float) -> NDArray[np.float64]:
        angle = np.cumsum(low_hz + (high_hz - low_hz) * decay(tau_s)) / sample_rate
        return np.sin(2 * np.pi * angle)

    if role == "kick":
        low = float(rng.uniform(38, 70))
        body = sweep(low, low * rng.uniform(2, 8), rng.uniform(0.008, 0.05))
        wave = np.tanh(rng.uniform(0.8, 4) * body) * decay(rng.uniform(0.06, 0.3))
        wave += rng.uniform(0, 0.4) * noise * decay(rng.uniform(0.001, 0.006))
    elif role in ("snare", "clap", "rim"):
        low = float(rng.uniform(140, 260)) * (3 if role == "rim" else 1)
        bright = np.diff(noise, prepend=0.0) * rng.uniform(0, 1) + noise * rng.uniform(0.2, 1)
        wave = bright * decay(rng.uniform(0.03, 0.14)) * (0.15 if role == "rim" else 0.5)
        if role == "clap":
            wave = (
                np.sum([np.roll(wave, int(k * 0.011 * sample_rate)) for k in range(3)], axis=0) / 2
            )
        else:
            wave = wave + rng.uniform(0.2, 1) * sweep(low, low * 1.6, 0.02) * decay(
                rng.uniform(0.02, 0.12)
            )
    elif role.endswith("tom"):
        low = {"low tom": 75, "mid tom": 110, "high tom": 160}[role] * float(rng.uniform(0.8, 1.3))
        wave = sweep(low, low * rng.uniform(1.2, 2), 0.05) * decay(rng.uniform(0.08, 0.25))
        wave += rng.uniform(0, 0.1) * noise * decay(0.02)
    else:
        base = float(rng.uniform(250, 700))
        ratios = rng.uniform(1, 8, size=6)
        metal = sum(np.sign(np.sin(2 * np.pi * base * r * time)) for r in ratios) / 6
        mix = float(rng.uniform(0, 0.9))
        wave = np.diff(mix * metal + (1 - mix) * noise, n=2, prepend=[0.0, 0.0])
        tau = {"crash": 0.5, "ride": 0.3, "open": 0.18, "bell": 0.15, "shaker": 0.05}.get(
            role, 0.04
        )
        wave *= decay(tau * float(rng.uniform(0.6, 1.5))) * 0.3
        if role == "bell":
            wave += 0.4 * np.sin(2 * np.pi * 560 * time) * decay(0.1)
    peak = float(np.abs(wave).max())
    return (wave / max(peak, 1e-9)).astype(np.float32)


def render_made_drums(
    rng: np.random.Generator, part: Part, seconds: float, sample_rate: int
) -> NDArray[np.float32]:
    """Render drums with a kit made from scratch at random, as drum machines do.

    Returns
    -------
    ndarray
        `(1, samples)` float32.
    """
    audio = np.zeros(round(seconds * sample_rate), np.float32)
    level = {"kick": 1.0, "snare": 0.8, "clap": 0.6, "crash": 0.5, "ride": 0.35, "hat": 0.35}
    hits: dict[int, tuple[NDArray[np.float32], float]] = {}
    for note in part.notes:
        if note.pitch not in hits:
            role = _role_of_key(note.pitch)
            made = _made_hit(rng, role, sample_rate)
            hits[note.pitch] = made, level.get(role, 0.5) * float(rng.uniform(0.7, 1.3))
        hit, gain = hits[note.pitch]
        start = round(note.start_s * sample_rate)
        _place(audio, hit, start, gain * (note.velocity / 127) ** 1.3)
    return audio[None]
