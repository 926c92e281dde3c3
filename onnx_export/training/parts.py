"""The notes of pitched parts: bass lines, chords, arpeggios, strums and melodies.

Every writer takes the generator, the sheet and the bars in which the part plays, and returns raw
notes `(beat, length in beats, pitch, accent 0 to 1.3)`, which `performance` turns into seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_export.training.performance import Raw
from onnx_export.training.songs import Sheet, weighted

__all__ = ["STYLES", "rhythm_cell", "write_part"]

#: How each family is played: style to weight.
STYLES: dict[str, dict[str, float]] = {
    "bass": {"bass": 1.0},
    "piano": {"comp": 0.3, "arpeggio": 0.3, "pad": 0.1, "comp and melody": 0.2, "melody": 0.1},
    "guitar": {"strum": 0.35, "arpeggio": 0.25, "melody": 0.25, "chug": 0.15},
    "strings": {"pad": 0.45, "melody": 0.35, "arpeggio": 0.2},
    "brass": {"stabs": 0.35, "melody": 0.45, "pad": 0.2},
    "organ": {"pad": 0.45, "comp": 0.3, "melody": 0.1, "comp and melody": 0.15},
    "flute": {"melody": 0.75, "duet": 0.15, "arpeggio": 0.1},
    "mallets": {"melody": 0.4, "arpeggio": 0.45, "comp": 0.15},
    "synth": {"melody": 0.45, "arpeggio": 0.3, "pad": 0.25},
    "choir": {"pad": 0.6, "melody": 0.2, "duet": 0.2},
}


def rhythm_cell(
    rng: np.random.Generator, beats: int, density: float, *, triplets: bool = False
) -> list[tuple[float, float]]:
    """Draw the rhythm of one bar.

    Parameters
    ----------
    beats
        Beats in the bar.
    density
        0 (long notes) to 1 (sixteenths).
    triplets
        Divide beats by three instead of two or four.

    Returns
    -------
    list of tuple
        Onsets and lengths in beats, covering the bar.
    """
    step = 1 / 3 if triplets else (0.25 if density > 0.6 else 0.5)
    onsets = [0.0]
    for k in range(1, round(beats / step)):
        on_beat = abs(k * step - round(k * step)) < 1e-6
        if rng.random() < density * (1.3 if on_beat else 0.75):
            onsets.append(k * step)
    if rng.random() < 0.15 and len(onsets) > 1:
        onsets.pop(0)  # the bar starts on an offbeat
    ends = [*onsets[1:], float(beats)]
    return [(a, b - a) for a, b in zip(onsets, ends, strict=True)]


def _nearest(pitch_class: int, target: float) -> int:
    """Return the MIDI pitch of `pitch_class` closest to `target`."""
    return round((target - pitch_class) / 12) * 12 + pitch_class


def _in_scale(pitch: int, sheet: Sheet) -> int:
    """Return the pitch of the key that is closest to `pitch`."""
    return min((_nearest(c, pitch) for c in sheet.scale), key=lambda found: abs(found - pitch))


def _voicing(chord: Sequence[int], centre: float, count: int) -> list[int]:
    """Stack `count` chord tones around `centre`, closest inversion first."""
    pitches = sorted(_nearest(c, centre) for c in chord)
    while len(pitches) < count:
        pitches.append(pitches[len(pitches) - len(chord)] + 12)
    return pitches[:count]


def _bars(sheet: Sheet, active: Sequence[bool]) -> list[tuple[int, float]]:
    return [(bar, float(bar * sheet.beats_per_bar)) for bar in range(sheet.bars) if active[bar]]


def _cells(
    rng: np.random.Generator, sheet: Sheet, density: float
) -> list[list[tuple[float, float]]]:
    """One rhythm for each section, with some sections sharing theirs."""
    triplets = sheet.style in ("swing", "ballad") and rng.random() < 0.3
    pool = [rhythm_cell(rng, sheet.beats_per_bar, density, triplets=triplets) for _ in range(2)]
    per_section = [pool[int(rng.integers(2))] for _ in sheet.sections]
    cells = []
    section = 0
    for bar in range(sheet.bars):
        while section + 1 < len(sheet.sections) and bar >= sheet.sections[section + 1]:
            section += 1
        cells.append(per_section[section])
    return cells


def _bass(
    rng: np.random.Generator, sheet: Sheet, active: Sequence[bool], low: int, high: int
) -> Raw:
    default = {"roots": 0.3, "riff": 0.4, "octaves": 0.12, "walk": 0.08, "long": 0.1}
    style = weighted(rng, {"walk": 1.0} if sheet.style == "swing" else default)
    centre = float(rng.uniform(low + 5, min(high - 5, low + 16)))
    cells = _cells(rng, sheet, float(rng.uniform(0.35, 0.95)))
    gate = float(rng.uniform(0.55, 1.0))
    raw: Raw = []
    previous = round(centre)
    moves = [int(m) for m in rng.choice([0, 0, 0, 1, 2, 2, 12], size=16)]
    for bar, start in _bars(sheet, active):
        beats = sheet.beats_per_bar
        cell = {
            "walk": [(float(k), 1.0) for k in range(beats)],
            "octaves": [(k / 2, 0.5) for k in range(2 * beats)],
            "long": [(0.0, float(beats))],
            "roots": [(k / 2, 0.5) for k in range(2 * beats)] if gate > 0.75 else cells[bar],
        }.get(style, cells[bar])
        for k, (onset, length) in enumerate(cell):
            chord = sheet.chord_at(start + onset)
            root = _nearest(chord[0], centre)
            if style == "walk" and onset > 0:
                pool = [p for p in range(low, high) if p % 12 in sheet.scale]
                near = [p for p in pool if 0 < abs(p - previous) <= 4]
                pitch = int(rng.choice(near or pool))
            elif style == "octaves":
                pitch = root + 12 * (k % 2)
            elif style == "riff" and k > 0:
                move = moves[k % len(moves)]
                pitch = (
                    root + 12 if move == 12 else _nearest(chord[min(move, len(chord) - 1)], root)
                )
            else:
                pitch = root
            previous = pitch
            accent = 1.05 if onset == 0 else float(rng.uniform(0.8, 1.0))
            raw.append((start + onset, length * gate, pitch, accent))
    return raw


def _chords(
    rng: np.random.Generator,
    sheet: Sheet,
    active: Sequence[bool],
    low: int,
    high: int,
    *,
    style: str,
) -> Raw:
    """Chords: `pad` (sustained), `comp` (rhythmic), `stabs` (short), `strum`, `chug`."""
    centre = float(rng.uniform(low + 8, max(low + 9, high - 20)))
    count = int(rng.integers(2, 4) if style in ("chug", "stabs") else rng.integers(3, 6))
    density = {"pad": 0.0, "comp": 0.5, "stabs": 0.3, "strum": 0.6, "chug": 0.9}[style]
    cells = _cells(rng, sheet, density * float(rng.uniform(0.6, 1.15)))
    gate = {"stabs": float(rng.uniform(0.2, 0.5)), "chug": float(rng.uniform(0.3, 0.9))}.get(
        style, float(rng.uniform(0.6, 1.0))
    )
    spread = float(rng.uniform(0.008, 0.035)) / sheet.beat_s if style == "strum" else 0.0
    left_hand = style == "comp" and rng.random() < 0.4
    raw: Raw = []
    for bar, start in _bars(sheet, active):
        half = sheet.beats_per_bar / 2
        if style == "pad":
            same = sheet.chord_at(start) == sheet.chord_at(start + half)
            cell = [(0.0, 2 * half)] if same else [(0.0, half), (half, half)]
        else:
            cell = cells[bar]
        for k, (onset, length) in enumerate(cell):
            chord = sheet.chord_at(start + onset)
            if style == "chug":  # root and fifth, as power chords are
                root = _nearest(chord[0], low + 6)
                pitches = [root, root + 7, root + 12][:count]
            elif style == "strum":
                bottom = _nearest(chord[0], low + 8)
                pitches = _voicing(chord, bottom + 6, min(count + 2, 6))
            else:
                pitches = _voicing(chord, centre, count)
            if k % 2 and spread:
                pitches = pitches[::-1]  # upstroke
            accent = 1.1 if onset == 0 else float(rng.uniform(0.75, 1.05))
            for string, pitch in enumerate(pitches):
                raw.append((start + onset + string * spread, length * gate, pitch, accent))
            if left_hand and onset == 0:
                raw.append((start, length, _nearest(chord[0], low + 6), 1.0))
    return raw


def _arpeggio(
    rng: np.random.Generator, sheet: Sheet, active: Sequence[bool], low: int, high: int
) -> Raw:
    step = float(rng.choice([0.25, 0.5, 0.5, 1 / 3]))
    if sheet.bpm < 90:
        step = min(step, 0.5)
    elif sheet.bpm > 130:
        step = max(step, 0.5)
    centre = float(rng.uniform(low + 8, max(low + 9, high - 18)))
    count = int(rng.integers(3, 7))
    order = list(range(count))
    shape = rng.integers(4)
    if shape == 1:
        order = order[::-1]
    elif shape == 2:
        order = order + order[-2:0:-1]
    elif shape == 3:
        order = [int(k) for k in rng.permutation(count)]
    ring = float(rng.choice([0.5, 1.0, 2.0, 4.0]))
    raw: Raw = []
    for _, start in _bars(sheet, active):
        for k in range(round(sheet.beats_per_bar / step)):
            beat = start + k * step
            pitch = _voicing(sheet.chord_at(beat), centre, count)[order[k % len(order)]]
            raw.append((beat, step * ring, pitch, 1.1 if k % 4 == 0 else 0.9))
    return raw


def _melody(
    rng: np.random.Generator, sheet: Sheet, active: Sequence[bool], low: int, high: int
) -> Raw:
    centre = float(rng.uniform(low + 7, max(low + 8, high - 9)))
    ladder = [p for p in range(low, high + 1) if p % 12 in sheet.scale]
    cells = _cells(rng, sheet, float(rng.uniform(0.25, 0.9)))
    legato = float(rng.choice([0.5, 0.85, 0.95, 1.02]))
    rest = float(rng.uniform(0.0, 0.2))
    steps = [int(s) for s in rng.choice([-2, -1, -1, 0, 1, 1, 2, 3], size=24)]
    at = int(np.argmin(np.abs(np.array(ladder) - centre)))
    raw: Raw = []
    for bar, start in _bars(sheet, active):
        for k, (onset, length) in enumerate(cells[bar]):
            at += steps[(k + 5 * (bar % 2)) % len(steps)]
            if rng.random() < abs(ladder[min(max(at, 0), len(ladder) - 1)] - centre) / 18:
                at += -1 if ladder[min(max(at, 0), len(ladder) - 1)] > centre else 1
            at = min(max(at, 0), len(ladder) - 1)
            pitch = ladder[at]
            if onset == 0 or length >= 1:  # long and strong notes belong to the chord
                chord = sheet.chord_at(start + onset)
                pitch = min((_nearest(c, pitch) for c in chord), key=lambda p: abs(p - ladder[at]))
            if rng.random() >= rest:
                raw.append((start + onset, length * legato, pitch, float(rng.uniform(0.8, 1.1))))
    return raw


def write_part(
    rng: np.random.Generator,
    sheet: Sheet,
    active: Sequence[bool],
    family: str,
    limits: tuple[int, int],
) -> tuple[str, Raw]:
    """Write the raw notes of one part.

    Parameters
    ----------
    active
        Whether the part plays, for each bar.
    family
        A key of `STYLES`.
    limits
        Lowest and highest MIDI pitch.

    Returns
    -------
    style : str
        How it is played; a sustained style asks for swells.
    raw : list
        Notes `(beat, length in beats, pitch, accent)`.
    """
    low, high = limits
    style = weighted(rng, STYLES[family])
    if style == "bass":
        raw = _bass(rng, sheet, active, low, high)
    elif style == "arpeggio":
        raw = _arpeggio(rng, sheet, active, low, high)
    elif style == "melody":
        raw = _melody(rng, sheet, active, low, high)
    elif style == "duet":
        raw = _melody(rng, sheet, active, low, high)
        raw += [(b, n, _in_scale(p - 4, sheet), a) for b, n, p, a in raw]
    elif style == "comp and melody":
        middle = (low + high) // 2
        raw = _chords(rng, sheet, active, low, middle + 6, style="comp")
        raw += _melody(rng, sheet, active, middle, high)
    else:
        raw = _chords(rng, sheet, active, low, high, style=style)
    return style, [(b, n, min(max(p, low - 5), high + 5), a) for b, n, p, a in raw]
