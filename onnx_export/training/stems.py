"""Chooses the instruments of a song and renders its parts to stems."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_export.training.drumkits import list_kits, render_kit, render_made_drums
from onnx_export.training.families import FAMILIES
from onnx_export.training.render import SOUNDFONTS, Instrument, presets, render_parts
from onnx_export.training.sampler import patch_path, render_patch
from onnx_export.training.songs import Part, Song, weighted
from onnx_export.training.synths import render_synth
from onnx_export.training.timbres import SYNTHESISED

__all__ = ["DRUM_SOUNDFONTS", "choose_instrument", "missing_sample_packages", "render_song"]

# Programs that suit short notes only, and those that need long ones.
_PLUCKED = (45,)
_SLOW = (44, 49, 50, 51, 89)
DRUM_SOUNDFONTS = ("blackpearl", "redzeppelin")
_DRUMS_LEFT_OUT = (48, 55, 56, 57, 58, 59, 95, 96, 127)


def choose_instrument(rng: np.random.Generator, font: str, part: Part) -> Instrument:
    """Draw a preset of the part's family that the soundfont has.

    Variations in other banks of the same program are drawn half of the time.
    """
    available = presets(font)
    if font in DRUM_SOUNDFONTS:
        return Instrument(0, 0)
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
        "hydrogen-drumkits": "ForzeeStereo" in list_kits(),
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
) -> tuple[str, NDArray[np.float32]]:
    """Render with a source of `_others`; returns its name and the audio."""
    kind, program = other
    if kind == "kit":
        kit = str(rng.choice(list_kits()))
        name = "".join(c for c in kit.lower() if c.isalnum())
        return f"kit-{name}", render_kit(rng, part, kit, seconds, sample_rate)
    if kind == "patch":
        cents = float(rng.normal(0, 6))
        audio = render_patch(part, program, seconds, sample_rate, detune_cents=cents)
        return "freepats", audio
    if part.family == "drums":
        return "made", render_made_drums(rng, part, seconds, sample_rate)
    return "made", render_synth(rng, part, seconds, sample_rate)


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
        `(family, source, audio (1 or 2, samples))` for each part.
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
            source, audio = _render_other(rng, part, other, song.seconds, sample_rate)
            stems.append((part.family, source, audio))
            continue
        font = pair[int(rng.random() < 0.5)]
        if part.family == "drums" and not held_out and rng.random() < 0.25:
            font = weighted(rng, dict.fromkeys(DRUM_SOUNDFONTS, 1.0))
        groups.setdefault(font, []).append(part)
    for font, parts in sorted(groups.items()):
        instruments = [choose_instrument(rng, font, part) for part in parts]
        rendered = render_parts(font, parts, instruments, song.seconds, sample_rate)
        stems += [(p.family, font, audio) for p, audio in zip(parts, rendered, strict=True)]
    return stems
