"""Random instruments for `synths`: what they sound like, family by family.

They are no imitations for their own sake. They widen what a family sounds like beyond the samples
of any soundfont, with parameters drawn anew for every stem: spectra, envelopes, vibrato, unison,
breath and formants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["SYNTHESISED", "Timbre", "draw_timbre"]

#: Families for which instruments can be drawn.
SYNTHESISED = ("bass", "piano", "guitar", "strings", "brass", "organ", "flute", "mallets", "synth")


@dataclass(frozen=True)
class Timbre:
    """Parameters of an instrument.

    Parameters
    ----------
    kind
        `table` (harmonics that fade from `bright` to `dark`), `pluck` or `fm`.
    bright, dark
        Levels of the harmonics at the attack and after `fade_s`.
    sub
        Octaves below the note at which the first harmonic lies (drawbar organs: 1).
    attack_s, decay_s, sustain, release_s
        Envelope; a sustain of 0 lets the note die away.
    unison, spread_cents
        Detuned copies.
    vibrato_hz, vibrato_cents, tremolo
        Modulation; tremolo is a depth from 0 to 1.
    breath
        Level of the noise that goes with the note.
    formants
        Resonances `(hertz, gain)` of the body, applied to the harmonics.
    ratio, index
        Modulator of `fm`. For `pluck`, `index` is the pick position.
    damping
        For `pluck`: 0 bright to 0.5 dull.
    """

    kind: str
    bright: tuple[float, ...] = (1.0,)
    dark: tuple[float, ...] = (1.0,)
    fade_s: float = 0.3
    sub: int = 0
    attack_s: float = 0.005
    decay_s: float = 1.0
    sustain: float = 1.0
    release_s: float = 0.08
    unison: int = 1
    spread_cents: float = 8.0
    vibrato_hz: float = 5.5
    vibrato_cents: float = 0.0
    tremolo: float = 0.0
    breath: float = 0.0
    formants: tuple[tuple[float, float], ...] = ()
    ratio: float = 1.0
    index: float = 1.0
    damping: float = 0.3


def _slope(
    rng: np.random.Generator, power: float, count: int, even: float = 1.0
) -> tuple[float, ...]:
    """Draw harmonic levels that fall with a power of their number, uneven as real ones."""
    number = np.arange(1, count + 1)
    levels = number**-power * np.exp(rng.normal(0, 0.4, count))
    levels[1::2] *= even
    return tuple(float(v) for v in levels / levels.max())


def _body(rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    return tuple(
        (float(np.exp(rng.uniform(np.log(250), np.log(4000)))), float(rng.uniform(0.5, 4)))
        for _ in range(int(rng.integers(1, 5)))
    )


def _blown(
    rng: np.random.Generator, power: tuple[float, float], even: float, breath: float
) -> Timbre:
    first = float(rng.uniform(*power))
    return Timbre(
        "table",
        _slope(rng, first + float(rng.uniform(0, 0.8)), 24, even),
        _slope(rng, first, 24, even),
        fade_s=float(rng.uniform(0.03, 0.3)),
        attack_s=float(rng.uniform(0.015, 0.09)),
        release_s=float(rng.uniform(0.04, 0.15)),
        vibrato_hz=float(rng.uniform(4.2, 6.5)),
        vibrato_cents=float(rng.choice([0, rng.uniform(4, 35)])),
        tremolo=float(rng.uniform(0, 0.25)),
        breath=float(rng.uniform(0, breath)),
        formants=_body(rng),
    )


def _organ(rng: np.random.Generator) -> Timbre:
    bars = np.zeros(16)
    if rng.random() < 0.6:  # drawbars; the first one sounds an octave below
        for harmonic in (1, 2, 3, 4, 6, 8, 10, 12, 16):
            bars[harmonic - 1] = max(0.0, float(rng.uniform(-0.4, 1.0)))
        bars[1] = 1.0
        sub = 1
    else:  # pipes
        bars[:] = _slope(rng, float(rng.uniform(0.8, 2)), 16)
        bars[[1, 3, 7]] += rng.uniform(0, 0.8, 3)
        sub = int(rng.random() < 0.4)
    levels = tuple(float(v) for v in bars)
    return Timbre(
        "table",
        levels,
        levels,
        sub=sub,
        attack_s=float(rng.choice([0.003, 0.01, 0.05])),
        release_s=float(rng.uniform(0.02, 0.25)),
        vibrato_hz=float(rng.uniform(0.7, 7)),
        vibrato_cents=float(rng.choice([0, rng.uniform(3, 15)])),
        tremolo=float(rng.choice([0, rng.uniform(0.05, 0.4)])),
        unison=int(rng.integers(1, 3)),
        spread_cents=float(rng.uniform(1, 8)),
    )


def _strings(rng: np.random.Generator) -> Timbre:
    return Timbre(
        "table",
        _slope(rng, float(rng.uniform(0.9, 1.6)), 40),
        _slope(rng, float(rng.uniform(0.7, 1.3)), 40),
        fade_s=float(rng.uniform(0.05, 0.6)),
        attack_s=float(np.exp(rng.uniform(np.log(0.02), np.log(0.35)))),
        release_s=float(rng.uniform(0.1, 0.5)),
        unison=int(rng.integers(1, 6)),
        spread_cents=float(rng.uniform(5, 22)),
        vibrato_hz=float(rng.uniform(4.5, 6.8)),
        vibrato_cents=float(rng.uniform(3, 30)),
        breath=float(rng.uniform(0, 0.05)),
        formants=_body(rng),
    )


def _bass(rng: np.random.Generator) -> Timbre:
    if rng.random() < 0.35:
        return _pluck(rng, (0.25, 0.5), (0.8, 4.0))
    if rng.random() < 0.25:
        ratio, index = float(rng.choice([1, 2, 3])), float(rng.uniform(0.5, 4))
        return Timbre("fm", ratio=ratio, index=index, fade_s=float(rng.uniform(0.05, 0.5)))
    power = float(rng.uniform(0.7, 2.5))
    return Timbre(
        "table",
        _slope(rng, power, 30, float(rng.choice([1.0, 0.1]))),
        _slope(rng, power + float(rng.uniform(0, 2)), 30, float(rng.choice([1.0, 0.1]))),
        fade_s=float(rng.uniform(0.05, 0.6)),
        decay_s=float(rng.uniform(0.3, 2)),
        sustain=float(rng.choice([0.0, 0.5, 0.8, 1.0])),
        unison=int(rng.choice([1, 1, 2, 3])),
        spread_cents=float(rng.uniform(3, 15)),
    )


def _pluck(
    rng: np.random.Generator, damping: tuple[float, float], decay_s: tuple[float, float]
) -> Timbre:
    return Timbre(
        "pluck",
        decay_s=float(rng.uniform(*decay_s)),
        index=float(rng.uniform(0.08, 0.45)),
        damping=float(rng.uniform(*damping)),
        release_s=float(rng.uniform(0.03, 0.2)),
    )


def _struck(rng: np.random.Generator) -> Timbre:
    if rng.random() < 0.4:
        return Timbre(
            "fm",
            ratio=float(rng.choice([1, 1, 2, 7, 14])),
            index=float(rng.uniform(0.3, 2.5)),
            fade_s=float(rng.uniform(0.1, 0.8)),
            decay_s=float(rng.uniform(0.8, 3)),
            sustain=0.0,
            tremolo=float(rng.choice([0, 0.3])),
        )
    power = float(rng.uniform(0.8, 1.6))
    return Timbre(
        "table",
        _slope(rng, power, 30),
        _slope(rng, power + float(rng.uniform(0.6, 1.6)), 30),
        fade_s=float(rng.uniform(0.15, 0.8)),
        attack_s=0.003,
        decay_s=float(rng.uniform(0.8, 3)),
        sustain=0.0,
        release_s=float(rng.uniform(0.08, 0.3)),
        unison=int(rng.integers(2, 4)),
        spread_cents=float(rng.uniform(0.5, 3)),
        breath=float(rng.uniform(0, 0.03)),
    )


def _mallet(rng: np.random.Generator) -> Timbre:
    return Timbre(
        "fm",
        ratio=float(rng.choice([3.0, 3.5, 3.99, 2.76, 1.41])),
        index=float(rng.uniform(0.2, 2.0)),
        fade_s=float(rng.uniform(0.01, 0.3)),
        decay_s=float(rng.uniform(0.15, 2)),
        sustain=0.0,
        attack_s=0.002,
        release_s=float(rng.uniform(0.1, 1)),
        tremolo=float(rng.choice([0, rng.uniform(0, 0.5)])),
    )


def _lead(rng: np.random.Generator) -> Timbre:
    power = float(rng.uniform(0.6, 1.4))
    even = float(rng.choice([1.0, 1.0, 0.05]))
    return Timbre(
        "table",
        _slope(rng, power, 48, even),
        _slope(rng, power + float(rng.uniform(-0.4, 1.5)), 48, even),
        fade_s=float(rng.uniform(0.05, 1.2)),
        attack_s=float(rng.choice([0.003, 0.02, 0.2])),
        decay_s=float(rng.uniform(0.3, 2)),
        sustain=float(rng.uniform(0.3, 1)),
        release_s=float(rng.uniform(0.05, 0.4)),
        unison=int(rng.choice([1, 2, 3, 5])),
        spread_cents=float(rng.uniform(4, 25)),
        vibrato_cents=float(rng.choice([0, rng.uniform(3, 30)])),
    )


_DRAW: dict[str, Callable[[np.random.Generator], Timbre]] = {
    "bass": _bass,
    "piano": _struck,
    "guitar": lambda rng: _pluck(rng, (0.05, 0.5), (0.6, 4.0)),
    "strings": _strings,
    "brass": lambda rng: _blown(rng, (0.5, 1.4), 1.0, 0.02),
    "organ": _organ,
    "flute": lambda rng: _blown(rng, (1.2, 2.8), float(rng.choice([1.0, 0.15])), 0.12),
    "mallets": _mallet,
    "synth": _lead,
}


def draw_timbre(rng: np.random.Generator, family: str) -> Timbre:
    """Draw an instrument of a family.

    Raises
    ------
    ValueError
        If the family is not one of `SYNTHESISED`.
    """
    if family not in _DRAW:
        raise ValueError(f"expected one of {', '.join(SYNTHESISED)}, got {family!r}")
    return _DRAW[family](rng)
