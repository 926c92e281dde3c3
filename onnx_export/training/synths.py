"""Renders parts with instruments made from scratch: wavetables, plucked strings, and FM."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_export.training.songs import Note, Part
from onnx_export.training.timbres import Timbre, draw_timbre

__all__ = ["render_synth"]

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
