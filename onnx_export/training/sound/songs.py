"""Random songs: key, chords, sections, who plays in which bars, what, and how a player plays it.

A song is composed from one random generator and nothing else, so a seed is a song. The form comes
first (tempo, metre, chords, who plays in which bar), then writers fill in the notes. They take the
generator, the sheet and the bars in which the part plays, and return raw notes `(beat, length in
beats, pitch, accent 0 to 1.3)`, which `perform` turns into seconds. Pitched parts are bass lines,
chords, arpeggios, strums and melodies; drums are General MIDI percussion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnx_export.training.sound.families import FAMILIES

__all__ = [
    "CRASH",
    "HAT",
    "KICK",
    "SNARE",
    "STYLES",
    "Note",
    "Part",
    "Raw",
    "Sheet",
    "Song",
    "compose",
    "draw_sheet",
    "perform",
    "rhythm_cell",
    "weighted",
    "write_drums",
    "write_part",
]

_SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
}
_PROGRESSIONS = (
    (0, 4, 5, 3),
    (0, 3, 4, 4),
    (0, 5, 3, 4),
    (5, 3, 0, 4),
    (0, 0, 3, 4),
    (1, 4, 0, 0),
    (0, 6, 5, 6),
    (0, 2, 3, 4),
    (3, 0, 4, 5),
    (0, 3, 0, 4),
    (0, 5, 1, 4),
    (0, 6, 3, 0),
)


@dataclass(frozen=True)
class Note:
    """One note: start and length in seconds, MIDI pitch, velocity 1 to 127."""

    start_s: float
    length_s: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """What one instrument plays.

    `controls` holds `(time_s, controller, value)` MIDI control changes, such as swells.
    """

    family: str
    style: str
    notes: tuple[Note, ...]
    controls: tuple[tuple[float, int, int], ...] = ()


@dataclass(frozen=True)
class Song:
    """A composed song of `seconds` length with one part for each family that plays."""

    seconds: float
    bpm: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Sheet:
    """What the parts of a song share.

    Parameters
    ----------
    bpm, beats_per_bar, bars
        Tempo, metre and length.
    swing
        Share of a beat by which the second eighth note is late, 0 to 0.17.
    scale
        Pitch classes of the key.
    chords
        Pitch classes of the chord at every half bar, root first.
    sections
        First bar of every section, and `bars` at the end.
    style
        Groove: `rock`, `funk`, `four`, `swing`, `latin`, `half`, `ballad` or `waltz`.
    """

    bpm: float
    beats_per_bar: int
    bars: int
    swing: float
    scale: tuple[int, ...]
    chords: tuple[tuple[int, ...], ...]
    sections: tuple[int, ...]
    style: str

    @property
    def beat_s(self) -> float:
        """Length of a beat in seconds."""
        return 60.0 / self.bpm

    @property
    def seconds(self) -> float:
        """Length of the song in seconds."""
        return self.bars * self.beats_per_bar * self.beat_s

    def chord_at(self, beat: float) -> tuple[int, ...]:
        """Pitch classes of the chord that sounds at `beat`, root first."""
        index = int(2 * (beat + 1e-6) / self.beats_per_bar)
        return self.chords[min(max(index, 0), len(self.chords) - 1)]


def weighted(rng: np.random.Generator, choices: dict[str, float]) -> str:
    """Draw one key of `choices` with probability proportional to its value."""
    names = list(choices)
    weights = np.array([choices[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def draw_sheet(rng: np.random.Generator, seconds: tuple[float, float] = (24.0, 36.0)) -> Sheet:
    """Draw tempo, metre, key, chords and sections of a song.

    Parameters
    ----------
    rng
        The only source of randomness.
    seconds
        Range the length of the song is drawn from; it is then rounded to whole bars.

    Returns
    -------
    Sheet
    """
    style = weighted(
        rng,
        {
            "rock": 0.22,
            "funk": 0.14,
            "four": 0.16,
            "swing": 0.12,
            "latin": 0.1,
            "half": 0.08,
            "ballad": 0.1,
            "waltz": 0.08,
        },
    )
    low, high = {
        "funk": (84, 120),
        "four": (110, 145),
        "ballad": (60, 88),
        "half": (120, 165),
        "waltz": (80, 170),
    }.get(style, (70, 165))
    bpm = float(rng.uniform(low, high))
    beats_per_bar = 3 if style == "waltz" else 4
    bar_s = beats_per_bar * 60.0 / bpm
    bars = max(4, round(float(rng.uniform(*seconds)) / bar_s))
    if style == "swing":
        swing = float(rng.uniform(0.1, 0.17))
    else:
        swing = float(rng.choice([0.0, 0.0, 0.0, rng.uniform(0.02, 0.1)]))

    mode = weighted(
        rng,
        {"major": 0.4, "minor": 0.3, "dorian": 0.12, "mixolydian": 0.12, "harmonic minor": 0.06},
    )
    key = int(rng.integers(12))
    scale = tuple((key + step) % 12 for step in _SCALES[mode])

    sections = [0]
    while sections[-1] < bars:
        sections.append(min(bars, sections[-1] + int(rng.choice([2, 4, 4, 4, 8]))))
    sevenths = rng.random() < 0.35
    chords: list[tuple[int, ...]] = []
    for first, last in pairwise(sections):
        progression = _PROGRESSIONS[rng.integers(len(_PROGRESSIONS))]
        # Two chords a bar, one a bar, or one for two bars.
        halves = int(rng.choice([1, 2, 2, 2, 4]))
        for half in range(2 * (last - first)):
            degree = progression[(half // halves) % len(progression)]
            tones = [0, 2, 4] + ([6] if sevenths or rng.random() < 0.05 else [])
            chords.append(tuple(scale[(degree + tone) % 7] for tone in tones))
    return Sheet(bpm, beats_per_bar, bars, swing, scale, tuple(chords), tuple(sections), style)


#: Written notes: `(beat, length in beats, MIDI pitch, accent 0 to 1.3)`.
Raw = list[tuple[float, float, int, float]]


def perform(
    rng: np.random.Generator, sheet: Sheet, raw: Raw, *, loudest: int = 120
) -> tuple[Note, ...]:
    """Play raw notes: swing, imprecise timing and dynamics, seconds instead of beats.

    Parameters
    ----------
    raw
        Notes `(beat, length in beats, pitch, accent)`.
    loudest
        Highest velocity, 1 to 127.

    Returns
    -------
    tuple of Note
        Sorted by start; all of them start within the song.
    """
    jitter_s = float(rng.choice([0.0, 0.003, 0.006, 0.01, 0.014]))
    push_s = float(rng.normal(0.0, 0.004))
    level = float(rng.uniform(55, loudest - 10))
    spread = float(rng.uniform(2, 14))
    swell = float(rng.uniform(0, 16))
    period = float(rng.choice([4, 8, 16])) * sheet.beats_per_bar
    notes = []
    for beat, length, pitch, accent in raw:
        late = sheet.swing if abs(beat % 1 - 0.5) < 0.02 else 0.0
        start = (beat + late) * sheet.beat_s + push_s + float(rng.normal(0, jitter_s))
        start = max(0.0, start)
        if start > sheet.seconds - 0.05:
            continue
        velocity = level * accent + float(rng.normal(0, spread))
        velocity += swell * np.sin(2 * np.pi * (beat + late) / period)
        length_s = max(0.04, length * sheet.beat_s)
        notes.append(Note(start, length_s, pitch, int(min(max(velocity, 12), loudest))))
    return tuple(sorted(notes, key=lambda note: (note.start_s, note.pitch)))


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
