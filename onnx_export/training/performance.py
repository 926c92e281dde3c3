"""Plays written notes with the swing of the song and the imprecision of a player."""

from __future__ import annotations

import numpy as np

from onnx_export.training.songs import Note, Sheet

__all__ = ["Raw", "perform"]

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
