"""Studio treatment of rendered stems: tone, dynamics, drive, modulation, rooms and panning.

A soundfont plays the same samples in every song. What makes two recordings of the same instrument
differ is mostly what follows: microphone, amplifier, equaliser, compressor, room.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pedalboard
from numpy.typing import NDArray

__all__ = [
    "pan",
    "to_pcm",
    "treat",
]

# Chance of distortion for each family; others get none.
_DRIVE = {"guitar": 0.3, "bass": 0.2, "organ": 0.15, "synth": 0.2, "drums": 0.06, "piano": 0.03}
# Chance of chorus or phaser.
_MODULATION = {"guitar": 0.25, "organ": 0.3, "synth": 0.3, "strings": 0.12, "piano": 0.12}


def _tone(rng: np.random.Generator) -> list[Any]:
    """Draw equaliser bands."""
    chain: list[Any] = []
    if rng.random() < 0.5:
        gain_db = float(rng.uniform(-9, 7))
        chain.append(pedalboard.LowShelfFilter(float(rng.uniform(80, 400)), gain_db, 0.7))
    if rng.random() < 0.5:
        gain_db = float(rng.uniform(-10, 9))
        chain.append(pedalboard.HighShelfFilter(float(rng.uniform(1500, 6000)), gain_db, 0.7))
    for _ in range(int(rng.integers(0, 3))):
        frequency = float(np.exp(rng.uniform(np.log(150), np.log(6000))))
        gain_db, q = float(rng.uniform(-9, 9)), float(rng.uniform(0.5, 2.5))
        chain.append(pedalboard.PeakFilter(frequency, gain_db, q))
    if rng.random() < 0.12:
        chain.append(pedalboard.LowpassFilter(float(rng.uniform(1800, 7000))))
    if rng.random() < 0.12:
        chain.append(pedalboard.HighpassFilter(float(rng.uniform(50, 250))))
    return chain


def _amplifier(rng: np.random.Generator, family: str) -> list[Any]:
    """Draw compression, drive and modulation."""
    chain: list[Any] = []
    if rng.random() < 0.3:
        chain.append(
            pedalboard.Compressor(
                threshold_db=float(rng.uniform(-35, -12)),
                ratio=float(rng.uniform(2, 8)),
                attack_ms=float(rng.uniform(1, 40)),
                release_ms=float(rng.uniform(40, 300)),
            )
        )
    if rng.random() < _DRIVE.get(family, 0.0):
        chain.append(pedalboard.Distortion(float(rng.uniform(6, 30))))
        chain.append(pedalboard.LowpassFilter(float(rng.uniform(2500, 7000))))
    if rng.random() < _MODULATION.get(family, 0.03):
        rate_hz = float(rng.uniform(0.2, 6 if family == "organ" else 2.5))
        depth, mix = float(rng.uniform(0.1, 0.5)), float(rng.uniform(0.2, 0.5))
        effect = pedalboard.Chorus if rng.random() < 0.7 else pedalboard.Phaser
        chain.append(effect(rate_hz=rate_hz, depth=depth, mix=mix))
    return chain


def _room(rng: np.random.Generator, family: str) -> list[Any]:
    """Draw delay and reverb; the bass stays rather dry."""
    chain: list[Any] = []
    if rng.random() < (0.02 if family in ("bass", "drums") else 0.1):
        chain.append(
            pedalboard.Delay(
                delay_seconds=float(rng.uniform(0.08, 0.5)),
                feedback=float(rng.uniform(0, 0.4)),
                mix=float(rng.uniform(0.08, 0.3)),
            )
        )
    if rng.random() < (0.25 if family == "bass" else 0.6):
        wet = float(rng.uniform(0.02, 0.15 if family in ("bass", "drums") else 0.35))
        chain.append(
            pedalboard.Reverb(
                room_size=float(rng.uniform(0.05, 0.9)),
                damping=float(rng.uniform(0.1, 0.9)),
                wet_level=wet,
                dry_level=1 - wet,
                width=1.0,
            )
        )
    return chain


def treat(
    rng: np.random.Generator,
    audio: NDArray[np.float32],
    sample_rate: int,
    family: str,
    share: float = 0.65,
) -> NDArray[np.float32]:
    """Put a stem through a random chain of effects.

    Parameters
    ----------
    audio
        `(channels, samples)` float32.
    family
        Decides how likely drive, modulation and rooms are.
    share
        Chance that anything is done at all.

    Returns
    -------
    ndarray
        Same shape, peak at most 1; silence stays silence.
    """
    peak = float(np.max(np.abs(audio), initial=0.0))
    if peak < 1e-5:
        return np.zeros_like(audio)
    audio = audio * np.float32(0.5 / peak)
    if rng.random() < share:
        board = pedalboard.Pedalboard(_tone(rng) + _amplifier(rng, family) + _room(rng, family))
        audio = np.asarray(board(audio, sample_rate), dtype=np.float32)
        peak = float(np.max(np.abs(audio), initial=0.0))
        audio = audio * np.float32(0.5 / max(peak, 1e-6))
    return audio


def pan(audio: NDArray[np.float32], position: float) -> NDArray[np.float32]:
    """Place a mono signal with constant power, -1 (left) to 1 (right); returns `(2, samples)`."""
    angle = (position + 1) * np.pi / 4
    return np.stack([np.cos(angle) * audio, np.sin(angle) * audio]).astype(np.float32)


def to_pcm(
    stems: list[NDArray[np.float32]], peak: float = 0.89
) -> tuple[NDArray[np.int16], list[NDArray[np.int16]]]:
    """Round stems to 16 bits so that they sum to the mixture exactly and nothing clips.

    Parameters
    ----------
    stems
        Arrays of equal shape `(channels, samples)`.
    peak
        Largest sample of the mixture and of any stem, as a share of full scale.

    Returns
    -------
    mixture, stems
        int16 arrays of the same shape.
    """
    loudest = max(float(np.abs(x).max()) for x in [*stems, np.sum(stems, axis=0)])
    scale = peak * 32767 / max(loudest, 1e-9)
    rounded = [np.round(stem.astype(np.float64) * scale).astype(np.int16) for stem in stems]
    mixture = np.sum([stem.astype(np.int32) for stem in rounded], axis=0)
    return mixture.astype(np.int16), rounded
