"""Random songs: key, chords, sections and the parts that play them.

A song is composed from one random generator and nothing else, so a seed is a song. The form comes
first (tempo, metre, chords, who plays in which bar), then `parts` and `grooves` write the notes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["Note", "Part", "Sheet", "Song", "draw_sheet", "weighted"]

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
