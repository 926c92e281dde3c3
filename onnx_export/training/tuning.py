"""Timbres for the tuning set: neither in training nor in the test set.

Choices such as the exponent of a mask are made on mixtures of these, so that the test set stays
a test. The soundfont is csound's, of which only programs are played that share no recording, or
one of many, with the soundfont of the test set. Drums, bass, guitar and organ, where it has none
of its own, come from the project's synthesisers; their parameters are drawn anew each time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_export.training.drumkits import render_made_drums
from onnx_export.training.render import Instrument, render_parts
from onnx_export.training.songs import Song, weighted
from onnx_export.training.speech import Voice
from onnx_export.training.synths import render_synth

__all__ = ["TUNING_FONT", "TUNING_VOICES", "render_tuning_song"]

TUNING_FONT = "csound"
_PROGRAMS = {
    "piano": {0: 1.0, 1: 1.0, 3: 0.4},
    "strings": {44: 0.5, 48: 1.5, 49: 0.8, 50: 0.4, 51: 0.4},
    "brass": {56: 1.0, 61: 1.2, 62: 0.4, 63: 0.4, 64: 0.5, 67: 0.6},
    "flute": {68: 0.8, 73: 1.6, 75: 0.6},
}
_SLOW = (44, 49, 50, 51)
_VARIANTS = "Alex Andy antonio aunty edward2 gustave iven Mike michel norbert pedro"
#: Variants of espeak-ng that neither training nor the test set hears.
TUNING_VOICES: tuple[Voice, ...] = tuple(
    Voice("espeak-ng", f"{language}+{variant}", "en", 1.0)
    for language in ("en-us", "en-gb")
    for variant in _VARIANTS.split()
)


def render_tuning_song(
    rng: np.random.Generator, song: Song, sample_rate: int
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """Render every part of a song with instruments of the tuning set.

    Parameters
    ----------
    song
        Of the main families.

    Returns
    -------
    list of tuple
        `(family, source, audio (1 or 2, samples))` for each part.
    """
    stems = []
    for part in song.parts:
        if part.family == "drums":
            stems.append((part.family, "made", render_made_drums(rng, part, song.seconds,
                                                                 sample_rate)))  # fmt: skip
        elif part.family in _PROGRAMS:
            programs = {
                str(program): weight
                for program, weight in _PROGRAMS[part.family].items()
                if not (part.style in ("arpeggio", "stabs") and program in _SLOW)
            }
            instrument = Instrument(0, int(weighted(rng, programs)), float(rng.normal(0, 6)))
            (audio,) = render_parts(TUNING_FONT, [part], [instrument], song.seconds, sample_rate)
            stems.append((part.family, TUNING_FONT, audio))
        else:
            stems.append((part.family, "made", render_synth(rng, part, song.seconds, sample_rate)))
    return stems
