"""Sounds that are neither music nor speech: noise, hum, sirens and clicks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOISES", "make_noise"]

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
