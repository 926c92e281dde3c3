"""Composes a song: who plays, in which bars, and what."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from onnx_export.training.families import FAMILIES
from onnx_export.training.grooves import write_drums
from onnx_export.training.parts import write_part
from onnx_export.training.performance import perform
from onnx_export.training.songs import Part, Sheet, Song, draw_sheet

__all__ = ["compose"]

# How often each family takes part in a song. A song has 6 to 8 parts.
_PRESENCE = {
    "drums": 0.9,
    "bass": 0.9,
    "piano": 0.75,
    "guitar": 0.75,
    "strings": 0.75,
    "brass": 0.75,
    "organ": 0.72,
    "flute": 0.75,
    "mallets": 0.22,
    "synth": 0.28,
    "choir": 0.18,
}
_SUSTAINED = ("pad", "melody", "duet")


def _activity(rng: np.random.Generator, sheet: Sheet) -> list[bool]:
    """Say in which bars a part plays: whole sections, now and then a rest or a drop."""
    share = float(rng.uniform(0.65, 1.0))
    active = [False] * sheet.bars
    for first, last in pairwise(sheet.sections):
        if rng.random() < share:
            active[first:last] = [True] * (last - first)
            if last - first >= 4 and rng.random() < 0.25:
                active[last - 1] = False  # leaves the last bar to the others
        elif rng.random() < 0.3:
            active[last - 1] = True  # pickup into the next section
    if sum(active) < 0.4 * sheet.bars:
        first = int(rng.integers(0, max(1, sheet.bars // 2)))
        active[first : first + sheet.bars // 2] = [True] * len(
            active[first : first + sheet.bars // 2]
        )
    return active


def _swells(
    rng: np.random.Generator, sheet: Sheet, style: str
) -> tuple[tuple[float, int, int], ...]:
    """Draw expression (controller 11) and vibrato (controller 1) for a sustained part."""
    if not style.startswith(_SUSTAINED) or rng.random() < 0.4:
        return ()
    depth = float(rng.uniform(5, 45))
    period_s = float(rng.uniform(1.5, 8.0))
    phase = float(rng.uniform(0, 2 * np.pi))
    times = np.arange(0, sheet.seconds, 0.1)
    level = 127 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * times / period_s + phase))
    controls = [(float(t), 11, int(v)) for t, v in zip(times, level, strict=True)]
    if rng.random() < 0.5:
        controls.append((0.0, 1, int(rng.integers(10, 70))))
    return tuple(sorted(controls))


def compose(
    rng: np.random.Generator,
    seconds: tuple[float, float] = (24.0, 36.0),
    families: tuple[str, ...] | None = None,
) -> Song:
    """Compose a random song.

    Parameters
    ----------
    rng
        The only source of randomness.
    seconds
        Range of the length.
    families
        Families that must play, and no others; drawn at random when left out.

    Returns
    -------
    Song
        Parts in the order of the families, each with at least one note.
    """
    sheet = draw_sheet(rng, seconds)
    if families is None:
        chosen = [name for name, share in _PRESENCE.items() if rng.random() < share]
        missing = [name for name in _PRESENCE if name not in chosen]
        while len(chosen) < 5:
            chosen.append(missing.pop(int(rng.integers(min(8, len(missing))))))
        while len(chosen) > 8:
            chosen.pop(int(rng.integers(len(chosen))))
        families = tuple(name for name in _PRESENCE if name in chosen)
    parts = []
    for name in families:
        active = _activity(rng, sheet)
        if name == "drums":
            style, raw = sheet.style, write_drums(rng, sheet, active)
        else:
            family = FAMILIES[name]
            style, raw = write_part(rng, sheet, active, name, (family.lowest, family.highest))
        notes = perform(rng, sheet, raw)
        if notes:
            parts.append(Part(name, style, notes, _swells(rng, sheet, style)))
    return Song(sheet.seconds, sheet.bpm, tuple(parts))
