"""Drum kits beside the soundfonts: Hydrogen's recorded kits and drums made here from scratch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from onnx_export.training.songs import Part

__all__ = ["KITS", "list_kits", "render_kit", "render_made_drums"]

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


def _role_of_key(key: int) -> str:
    return next((role for role, (keys, _) in _ROLES.items() if key in keys), "hat")


def _role_of_name(name: str) -> str | None:
    name = name.lower()
    if "roll" in name or "snare" in name:
        return None if "roll" in name else "snare"
    return next((r for r, (_, words) in _ROLES.items() if any(w in name for w in words)), None)


def list_kits() -> tuple[str, ...]:
    """Return the names of the installed Hydrogen kits that have at least a kick and a snare."""
    if not KITS.is_dir():
        return ()
    names = sorted(p.parent.name for p in KITS.glob("*/drumkit.xml"))
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
