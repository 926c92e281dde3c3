"""Drum patterns: styles, variations, fills and rests, as General MIDI percussion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_export.training.songs import Sheet

__all__ = ["CRASH", "HAT", "KICK", "SNARE", "write_drums"]

KICK, SNARE, HAT, CRASH = 36, 38, 42, 49
_OPEN_HAT, _PEDAL_HAT, _RIDE, _RIM, _CLAP = 46, 44, 51, 37, 39
_TOMS = (50, 48, 47, 45, 43, 41)

# One bar of sixteenths (twelve for the waltz): x hit, o soft, . rest. Several choices a style.
_KICKS = {
    "rock": ("x.......x.......", "x.....x.x.......", "x..x....x.x.....", "x.......x.x...x."),
    "funk": ("x..x..x...x..x..", "x.x....x..x.....", "x......x.xx.....", "x..x......x..x.x"),
    "four": ("x...x...x...x...", "x...x...x...x.x."),
    "swing": ("o...o...o...o...", "x.........o.....", "o...o...o...o..o"),
    "latin": ("x..xx..xx..xx..x", "x.....x.x.....x.", "x..x..x...x.x..."),
    "half": ("x.........x.....", "x..x......x.x...", "x.....x.....x..."),
    "ballad": ("x.......x.......", "x.........x.....", "x.......x.x....."),
    "waltz": ("x...........", "x.........x.", "x.....x....."),
}
_SNARES = {
    "rock": ("....x.......x...", "....x.......x..o", "....x..o.o..x..."),
    "funk": ("....x..o.o..x..o", "....x.......x...", "....x..o....x.o."),
    "four": ("....x.......x...", "............x...", "....x.......x..x"),
    "swing": ("....o.......o...", ".......o......o.", "....x..o....x..."),
    "latin": ("...x..x...x.x...", "..x...x....x..x.", "x..x..x...x.x..."),
    "half": ("........x.......", "........x.....o.", "........x..o...."),
    "ballad": ("....x.......x...", "........x......."),
    "waltz": ("....x...x...", "........x...", "....o...o..."),
}
_HATS = {
    "rock": ("x.x.x.x.x.x.x.x.", "x.o.x.o.x.o.x.o.", "x...x...x...x..."),
    "funk": ("xoxoxoxoxoxoxoxo", "x.xxx.xxx.xxx.xx", "x.x.x.x.x.x.x.x."),
    "four": ("..x...x...x...x.", "x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo"),
    "swing": ("x...x..xx...x..x", "x...x...x...x..."),
    "latin": ("x.xxx.xxx.xxx.xx", "x.x.x.x.x.x.x.x.", "x..xx..xx..xx..x"),
    "half": ("x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo", "x...x...x...x..."),
    "ballad": ("x.x.x.x.x.x.x.x.", "x...x...x...x..."),
    "waltz": ("x...x...x...", "x.x.x.x.x.x.", "....x...x..."),
}


def _fill(
    rng: np.random.Generator, beats: int, kit: tuple[int, ...]
) -> list[tuple[float, int, float]]:
    """Write a fill of `beats` beats: offsets, drums, accents."""
    hits = []
    for k in range(beats * 4):
        if rng.random() < 0.8:
            drum = kit[min(len(kit) - 1, int(k / (beats * 4) * len(kit) + rng.uniform(0, 1.2)))]
            hits.append((k * 0.25, drum, float(rng.uniform(0.75, 1.2))))
    return hits


def _pattern(
    rng: np.random.Generator, lines: Sequence[tuple[int, str]], last: int, *, only_time: bool
) -> list[tuple[int, int, float]]:
    """Play one bar of kick, back beat and time keeper up to the sixteenth `last`.

    Returns sixteenths, drums, accents. `only_time` leaves the time keeper alone.
    """
    hits = []
    for index, (drum, line) in enumerate(lines):
        if only_time and index != 2:
            continue
        for step, mark in enumerate(line):
            if step >= last or mark == "." or rng.random() < 0.03:
                continue
            accent = 1.0 if mark == "x" else 0.6
            if index == 2:
                accent *= 1.0 if step % 4 == 0 else 0.8
            sounding = drum
            if drum == HAT and step % 8 == 6 and rng.random() < 0.25:
                sounding = _OPEN_HAT
            hits.append((step, sounding, accent))
    return hits


def write_drums(
    rng: np.random.Generator, sheet: Sheet, active: Sequence[bool]
) -> list[tuple[float, float, int, float]]:
    """Write the raw notes of a drummer.

    Parameters
    ----------
    active
        Whether the drums play, for each bar.

    Returns
    -------
    list of tuple
        Notes `(beat, length in beats, GM percussion key, accent)`.
    """
    style = sheet.style
    picks = [
        tuple(str(rng.choice(table[style])) for table in (_KICKS, _SNARES, _HATS)) for _ in range(2)
    ]
    time_keeper = int(rng.choice([HAT, HAT, HAT, _RIDE, _PEDAL_HAT, 53, 69, 70, 82]))
    back_beat = int(rng.choice([SNARE, SNARE, SNARE, 40, _RIM, _CLAP]))
    kick = int(rng.choice([36, 36, 35]))
    toms = tuple(int(t) for t in rng.choice(_TOMS, size=4))
    fill_kit = (SNARE, SNARE, *toms) if rng.random() < 0.7 else (SNARE,)
    fill_every = int(rng.choice([4, 4, 8, 100]))
    sparse = rng.random() < 0.12  # hats or kick alone, as in intros
    shaker = int(rng.choice([0, 0, 0, 54, 82, 75, 56, 64]))
    ghosts = float(rng.uniform(0, 0.12))
    raw = []

    def hit(beat: float, drum: int, accent: float) -> None:
        raw.append((beat, 0.25, drum, accent))

    section_starts = set(sheet.sections)
    for bar in range(sheet.bars):
        if not active[bar]:
            continue
        start = float(bar * sheet.beats_per_bar)
        section = sum(1 for first in sheet.sections if first <= bar)
        kicks, snares, hats = picks[section % 2]
        fill_beats = 0
        if (bar + 1) in section_starts or (bar + 1) % fill_every == 0:
            fill_beats = int(rng.choice([0, 1, 2, sheet.beats_per_bar]))
        last = (sheet.beats_per_bar - fill_beats) * 4
        lines = ((kick, kicks), (back_beat, snares), (time_keeper, hats))
        for step, drum, accent in _pattern(rng, lines, last, only_time=sparse and section == 1):
            hit(start + step / 4, drum, accent)
        for step in range(last):
            if rng.random() < ghosts * 0.5:
                hit(start + step / 4, SNARE, 0.45)
            if shaker and step % 2 == 0:
                hit(start + step / 4, shaker, 0.7 if step % 4 else 0.9)
        for offset, drum, accent in _fill(rng, fill_beats, fill_kit):
            hit(start + last / 4 + offset, drum, accent)
        if bar in section_starts and rng.random() < 0.6:
            hit(start, int(rng.choice([CRASH, 57, 55])), 1.1)
    return raw
