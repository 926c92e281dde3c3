"""Sounds made from scratch: instruments, drawn anew for every stem, and what is no music at all.

Instruments are wavetables, plucked strings, and FM. They are no imitations for their own sake. They
widen what a family sounds like beyond the samples of any soundfont, with parameters of spectra,
envelopes, vibrato, unison, breath and formants that are drawn family by family. Noise, hum, sirens
and clicks are neither music nor speech.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_export.training.sound.songs import Note, Part

__all__ = ["NOISES", "SYNTHESISED", "Timbre", "draw_timbre", "make_noise", "render_synth"]

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


_TABLE = 1024
_Wave = NDArray[np.float64]


def _table(
    levels: tuple[float, ...], hertz: float, timbre: Timbre, phases: _Wave, sample_rate: int
) -> NDArray[np.float32]:
    """Build one period from harmonic levels, without those above the band."""
    number = np.arange(1, len(levels) + 1)
    frequency = number * hertz
    gain = np.array(levels) * (frequency < 0.45 * sample_rate)
    for centre, boost in timbre.formants:
        gain *= 1 + boost * np.exp(-((np.log(frequency / centre) / 0.25) ** 2))
    spectrum = np.zeros(_TABLE // 2 + 1, complex)
    spectrum[1 : len(levels) + 1] = gain * np.exp(1j * phases[: len(levels)])
    period = np.fft.irfft(spectrum, _TABLE) * _TABLE
    return np.append(period, period[0]).astype(np.float32)


def _pluck_string(
    rng: np.random.Generator, hertz: float, samples: int, timbre: Timbre, sample_rate: int
) -> NDArray[np.float32]:
    """Karplus and Strong's string: a period of noise that circulates through a soft low-pass."""
    delay = max(8, int(sample_rate / hertz))
    damp = timbre.damping
    loop_hz = sample_rate / (delay + damp)
    wanted = int(samples * hertz / loop_hz) + delay + 4
    loss = 10 ** (-3 / (timbre.decay_s * hertz))
    burst = rng.uniform(-1, 1, delay)
    burst -= np.roll(burst, max(1, int(delay * timbre.index)))  # the pick's position
    string = np.zeros(delay + 1 + wanted)
    string[1 : delay + 1] = burst - burst.mean()
    for at in range(delay + 1, delay + 1 + wanted, delay):
        end = min(at + delay, len(string))
        newer = string[at - delay : end - delay]
        older = string[at - delay - 1 : end - delay - 1]
        string[at:end] = loss * ((1 - damp) * newer + damp * older)
    position = np.arange(samples) * (hertz / loop_hz)
    whole = position.astype(int)
    part = position - whole
    string = string[delay + 1 :]
    return np.asarray(string[whole] * (1 - part) + string[whole + 1] * part, np.float32)


def _envelope(timbre: Timbre, held_s: float, time: _Wave) -> _Wave:
    attack = np.minimum(time / timbre.attack_s, 1.0)
    if timbre.kind == "pluck":
        body = np.ones_like(time)
    else:
        after = np.maximum(time - timbre.attack_s, 0)
        body = timbre.sustain + (1 - timbre.sustain) * np.exp(-3 * after / timbre.decay_s)
    release = np.exp(-4 * np.maximum(time - held_s, 0) / timbre.release_s)
    return attack * body * release


def _note(
    rng: np.random.Generator, note: Note, timbre: Timbre, *, cents: float, phases: _Wave, rate: int
) -> _Wave:
    hertz = 440 * 2 ** ((note.pitch - 69 + cents / 100) / 12)
    samples = int((note.length_s + 1.5 * timbre.release_s) * rate) + 1
    time = np.arange(samples) / rate
    loud = note.velocity / 127
    envelope = _envelope(timbre, note.length_s, time) * loud**1.5
    if timbre.tremolo:
        angle = 2 * np.pi * timbre.vibrato_hz * (time + note.start_s)
        envelope = envelope * (1 - timbre.tremolo * (0.5 + 0.5 * np.sin(angle)))
    if timbre.kind == "pluck":
        return np.asarray(_pluck_string(rng, hertz, samples, timbre, rate) * envelope)
    fade = np.exp(-time / timbre.fade_s * (1.3 - 0.6 * loud))
    if timbre.kind == "fm":
        cycle = 2 * np.pi * hertz * time
        depth = timbre.index * (0.2 + 0.8 * fade) * (0.4 + 0.8 * loud)
        depth *= hertz * timbre.ratio < 0.3 * rate
        return np.asarray(np.sin(cycle + depth * np.sin(timbre.ratio * cycle)) * envelope)
    base = hertz / 2**timbre.sub
    bright = _table(timbre.bright, base, timbre, phases, rate)
    dark = _table(timbre.dark, base, timbre, phases, rate)
    wave = np.zeros(samples)
    for _ in range(timbre.unison):
        detune = float(rng.normal(0, timbre.spread_cents / 2)) if timbre.unison > 1 else 0.0
        vibrato = timbre.vibrato_cents * np.minimum(time / 0.4, 1)
        angle = 2 * np.pi * timbre.vibrato_hz * time * float(rng.uniform(0.93, 1.07))
        bend = 1 + np.log(2) / 1200 * (detune + vibrato * np.sin(angle))
        at = (np.cumsum(base * bend) / rate + rng.random()) % 1.0 * _TABLE
        whole = at.astype(np.int64)
        part = at - whole
        one = bright[whole] * (1 - part) + bright[whole + 1] * part
        two = dark[whole] * (1 - part) + dark[whole + 1] * part
        wave += one * fade + two * (1 - fade)
    wave /= float(np.sqrt(np.mean(wave**2))) + 1e-9
    if timbre.breath:
        hiss = rng.standard_normal(samples)
        wave += 3 * timbre.breath * (hiss + np.roll(hiss, 1) + np.roll(hiss, 2)) / 1.7
    return np.asarray(wave * envelope)


def render_synth(
    rng: np.random.Generator, part: Part, seconds: float, sample_rate: int
) -> NDArray[np.float32]:
    """Render a part with an instrument drawn at random.

    Parameters
    ----------
    part
        Of a family in `SYNTHESISED`.
    seconds, sample_rate
        Length and rate of the result.

    Returns
    -------
    ndarray
        `(1, samples)` float32.

    Raises
    ------
    ValueError
        If the family cannot be rendered here.
    """
    timbre = draw_timbre(rng, part.family)
    total = round(seconds * sample_rate)
    audio = np.zeros(total)
    cents = float(rng.normal(0, 6))
    phases = rng.uniform(0, 2 * np.pi, _TABLE // 2)
    for note in part.notes:
        wave = _note(rng, note, timbre, cents=cents, phases=phases, rate=sample_rate)
        start = round(note.start_s * sample_rate)
        piece = wave[: max(0, total - start)]
        audio[start : start + len(piece)] += piece
    return audio.astype(np.float32)[None]


#: Families made here.
NOISES: tuple[str, ...] = ("noise", "hum", "siren", "clicks")


def _coloured(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Shape white noise with a random slope, band limits and one or two resonances."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / sample_rate), 20.0)
    shape = (frequency / 1000) ** -float(rng.uniform(-0.3, 1.2))
    for _ in range(int(rng.integers(0, 3))):
        centre = np.exp(rng.uniform(np.log(200), np.log(5000)))
        width = rng.uniform(0.1, 0.8)
        shape *= 1 + rng.uniform(1, 8) * np.exp(-((np.log(frequency / centre) / width) ** 2))
    low = float(np.exp(rng.uniform(np.log(20), np.log(600))))
    high = float(np.exp(rng.uniform(np.log(1500), np.log(sample_rate / 2))))
    shape /= (1 + (low / frequency) ** 4) * (1 + (frequency / high) ** 6)
    return np.fft.irfft(spectrum * shape, samples)


def _slow(
    rng: np.random.Generator, samples: int, sample_rate: int, hz: float
) -> NDArray[np.float64]:
    """Draw a smooth random curve between 0 and 1 that changes about `hz` times a second."""
    points = max(4, int(samples / sample_rate * hz) + 3)
    knots = rng.uniform(0, 1, points)
    at = np.linspace(0, points - 1.001, samples)
    whole = at.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (at - whole))
    return np.asarray(knots[whole] * (1 - blend) + knots[whole + 1] * blend)


def _noise(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float64]:
    audio = _coloured(rng, samples, sample_rate)
    kind = rng.random()
    if kind < 0.4:  # gusts of wind
        audio *= 0.1 + _slow(rng, samples, sample_rate, float(rng.uniform(0.2, 1.2))) ** 2
    elif kind < 0.6:  # rain: drops over the hiss
        drops = np.zeros(samples)
        count = int(samples / sample_rate * rng.uniform(20, 300))
        drops[rng.integers(0, samples, count)] = rng.exponential(1.0, count)
        ring = np.exp(-np.arange(400) / rng.uniform(10, 80)) * rng.standard_normal(400)
        audio = audio / (audio.std() + 1e-9) * 0.3 + np.convolve(drops, ring)[:samples]
    return audio


def _hum(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float64]:
    time = np.arange(samples) / sample_rate
    base = float(rng.choice([50.0, 60.0])) * (1 if rng.random() < 0.8 else rng.uniform(0.8, 2.5))
    slope = float(rng.uniform(0.5, 2.0))
    audio = np.zeros(samples)
    for k in range(1, int(rng.integers(4, 40))):
        if k * base > 0.45 * sample_rate:
            break
        level = k**-slope * rng.uniform(0.1, 1) * (1 if k % 2 else rng.uniform(0.2, 1))
        audio += level * np.sin(2 * np.pi * k * base * time + rng.uniform(0, 2 * np.pi))
    return audio * (0.7 + 0.3 * _slow(rng, samples, sample_rate, 0.3))


def _siren(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float64]:
    time = np.arange(samples) / sample_rate
    low = float(rng.uniform(350, 900))
    high = low * float(rng.uniform(1.2, 2.4))
    phase = (time * float(rng.uniform(0.15, 4))) % 1.0
    kind = int(rng.integers(4))
    if kind == 0:  # wail
        sweep = 0.5 - 0.5 * np.cos(2 * np.pi * phase)
    elif kind == 1:  # two tones
        sweep = (phase > 0.5).astype(float)
    elif kind == 2:  # rising
        sweep = phase
    else:  # one tone, on and off
        sweep = np.zeros(samples)
    drift = np.exp(0.06 * (_slow(rng, samples, sample_rate, 0.1) - 0.5))  # passing by
    angle = 2 * np.pi * np.cumsum(low * (high / low) ** sweep * drift) / sample_rate
    drive = float(rng.uniform(0.3, 6))
    audio = np.tanh(drive * np.sin(angle + 0.3 * np.sin(2 * angle)))
    if kind == 3:
        audio *= phase < rng.uniform(0.3, 0.7)
    return audio * (0.3 + 0.7 * _slow(rng, samples, sample_rate, 0.2))


def _clicks(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float64]:
    rate_hz = float(np.exp(rng.uniform(np.log(1), np.log(40))))
    count = max(3, int(samples / sample_rate * rate_hz))
    train = np.zeros(samples)
    if rate_hz < 6 and rng.random() < 0.5:  # a clock
        at = (np.arange(count) / rate_hz * sample_rate).astype(int)
        train[at[at < samples]] = 1.0
    else:
        train[rng.integers(0, samples, count)] = rng.exponential(0.5, count) + 0.1
    length = int(0.03 * sample_rate)
    time = np.arange(length) / sample_rate
    ring = np.exp(-time / rng.uniform(0.0003, 0.004))
    tone = np.cos(2 * np.pi * rng.uniform(500, 6000) * time)
    return np.convolve(
        train, ring * (rng.uniform(0, 1) * tone + 0.3 * rng.standard_normal(length))
    )[:samples]


def _gate(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Switch a sound on and off with soft edges."""
    gate = np.zeros(samples)
    at = int(rng.uniform(-3, 3) * sample_rate)
    while at < samples:
        on = int(rng.uniform(2.0, 12.0) * sample_rate)
        gate[max(0, at) : max(0, at + on)] = 1.0
        at += on + int(rng.uniform(0.5, 4.0) * sample_rate)
    edge = int(rng.uniform(0.005, 0.3) * sample_rate)
    padded = np.concatenate([np.zeros(1), np.cumsum(np.pad(gate, (edge // 2, edge - edge // 2)))])
    return np.asarray((padded[edge : edge + samples] - padded[:samples]) / edge)


def make_noise(
    rng: np.random.Generator, family: str, seconds: float, sample_rate: int
) -> NDArray[np.float32]:
    """Make a sound of one of the `NOISES` families.

    Parameters
    ----------
    family
        `noise`, `hum`, `siren` or `clicks`.
    seconds, sample_rate
        Length and rate of the result.

    Returns
    -------
    ndarray
        `(samples,)` float32 with a peak of 0.5.

    Raises
    ------
    ValueError
        For any other family.
    """
    makers = {"noise": _noise, "hum": _hum, "siren": _siren, "clicks": _clicks}
    if family not in makers:
        raise ValueError(f"expected one of {', '.join(NOISES)}, got {family!r}")
    samples = round(seconds * sample_rate)
    audio = makers[family](rng, samples, sample_rate) * _gate(rng, samples, sample_rate)
    return (0.5 * audio / max(float(np.abs(audio).max()), 1e-9)).astype(np.float32)
