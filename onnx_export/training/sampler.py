"""A sampler for Gravis UltraSound patches, the format of Debian's `freepats`.

The patches are another set of recorded instruments beside the soundfonts. A patch holds samples
for ranges of pitches, with loops and a six-stage envelope whose levels are logarithmic.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_export.training.songs import Part

__all__ = ["PATCHES", "Sample", "patch_path", "read_patch", "render_patch"]

PATCHES = Path("/usr/share/midi/freepats")
_MAGIC = b"GF1PATCH110\0"
_UNSIGNED, _LOOP, _PING_PONG, _SUSTAIN, _ENVELOPE = 2, 4, 8, 32, 64
# The same recording as in the soundfont kept for testing.
_LEFT_OUT = ("079_Ocarina.pat",)


@dataclass(frozen=True)
class Sample:
    """One sample of a patch.

    `low_hz` to `high_hz` is the range it serves; `levels` and `rates` are the envelope's bytes.
    """

    data: NDArray[np.float32]
    rate: int
    low_hz: float
    high_hz: float
    root_hz: float
    loop: tuple[float, float]
    modes: int
    levels: tuple[int, ...]
    rates: tuple[int, ...]


def patch_path(program: int, *, drum: bool = False) -> Path | None:
    """Return the file of a GM program, or of a GM percussion key; None if there is none."""
    folder = PATCHES / ("Drum_000" if drum else "Tone_000")
    found = sorted(p for p in folder.glob(f"{program:03d}_*.pat") if p.name not in _LEFT_OUT)
    return found[0] if found else None


@lru_cache(maxsize=40)
def read_patch(path: Path) -> tuple[Sample, ...]:
    """Read the samples of a patch.

    Raises
    ------
    ValueError
        If the file is not a 16-bit GF1 patch of version 110.
    """
    data = path.read_bytes()
    if data[:12] != _MAGIC:
        raise ValueError(f"{path}: expected a GF1 patch of version 110, got {data[:12]!r}")
    count = data[129 + 63 + 6]
    at = 129 + 63 + 47
    samples = []
    for _ in range(count):
        header = data[at : at + 96]
        size, loop_start, loop_end = struct.unpack("<III", header[8:20])
        (rate,) = struct.unpack("<H", header[20:22])
        low, high, root = struct.unpack("<III", header[22:34])
        modes = header[55]
        raw = np.frombuffer(data[at + 96 : at + 96 + size // 2 * 2], dtype="<u2")
        at += 96 + size
        if not modes & 1:
            raise ValueError(f"{path}: expected 16-bit samples, got 8-bit ones")
        wave = raw.astype(np.float32) - 32768 if modes & _UNSIGNED else raw.astype("<i2")
        samples.append(
            Sample(
                np.asarray(wave, np.float32) / np.float32(32768),
                rate,
                low / 1000,
                high / 1000,
                root / 1000,
                (loop_start / 2, min(loop_end // 2, len(raw) - 1)),
                modes,
                tuple(header[43:49]),
                tuple(header[37:43]),
            )
        )
    return tuple(samples)


def _stage_s(change: float, rate: int) -> float:
    """Time in which the envelope moves by `change` levels at a rate byte."""
    step = (rate & 0x3F) << (3 * (3 - (rate >> 6)))
    return abs(change) * 8192 / max(step, 1) / 44100


def _envelope(sample: Sample, held_s: float, sample_rate: int) -> NDArray[np.float32]:
    """Return the amplitude over time, from key down until it has died away."""
    if not sample.modes & _ENVELOPE:
        total = int((held_s + 0.1) * sample_rate)
        fade = np.arange(total) / sample_rate - held_s
        return np.clip(1 - fade / 0.1, 0, 1).astype(np.float32)
    times, levels = [0.0], [0.0]
    for stage in range(3):
        times.append(times[-1] + _stage_s(sample.levels[stage] - levels[-1], sample.rates[stage]))
        levels.append(float(sample.levels[stage]))
    at_release = float(np.interp(held_s, times, levels))
    kept = [k for k, t in enumerate(times) if t < held_s]
    times = [times[k] for k in kept] + [held_s]
    levels = [levels[k] for k in kept] + [at_release]
    for stage in range(3, 6):
        step_s = _stage_s(sample.levels[stage] - levels[-1], sample.rates[stage])
        times.append(times[-1] + min(step_s, 1.5))
        levels.append(float(sample.levels[stage]))
    # Whatever the patch says, a released note ends within two seconds.
    end_s = min(times[-1], held_s + 2.0)
    grid = np.arange(int(end_s * sample_rate) + 1) / sample_rate
    curve = 2.0 ** ((np.interp(grid, times, levels) - 246) / 16)
    curve *= np.clip((end_s - grid) / 0.02, 0, 1)
    return curve.astype(np.float32)


def _play(sample: Sample, hertz: float, held_s: float, sample_rate: int) -> NDArray[np.float32]:
    """Play one note."""
    step = sample.rate / sample_rate * hertz / sample.root_hz
    envelope = _envelope(sample, held_s, sample_rate)
    at = np.arange(len(envelope)) * step
    first, last = sample.loop
    span = last - first
    if sample.modes & _LOOP and span > 8:
        beyond = at > last
        over = at[beyond] - first
        there_and_back = span - np.abs(over % (2 * span) - span)
        at[beyond] = first + (there_and_back if sample.modes & _PING_PONG else over % span)
    else:
        at = at[at < len(sample.data) - 1]
    whole = at.astype(np.int64)
    part = (at - whole).astype(np.float32)
    after = np.minimum(whole + 1, len(sample.data) - 1)
    wave = sample.data[whole] * (1 - part) + sample.data[after] * part
    return wave * envelope[: len(wave)]


def render_patch(
    part: Part, program: int, seconds: float, sample_rate: int, *, detune_cents: float = 0.0
) -> NDArray[np.float32]:
    """Render a pitched part with the patch of a GM program, or drums with the percussion patches.

    Parameters
    ----------
    part
        Drums ignore `program`.
    seconds, sample_rate
        Length and rate of the result.

    Returns
    -------
    ndarray
        `(1, samples)` float32, zero where no patch serves a note.
    """
    total = round(seconds * sample_rate)
    audio = np.zeros(total, np.float32)
    drums = part.family == "drums"
    for note in part.notes:
        path = patch_path(note.pitch if drums else program, drum=drums)
        if path is None:
            continue
        samples = read_patch(path)
        hertz = 440 * 2 ** ((note.pitch - 69 + detune_cents / 100) / 12)
        fits = [s for s in samples if s.low_hz <= hertz * 1.01 and hertz <= s.high_hz * 1.01]
        near = fits or [min(samples, key=lambda s: abs(np.log(s.root_hz / hertz)))]
        sample = near[0]
        wave = _play(sample, sample.root_hz if drums else hertz, note.length_s, sample_rate)
        start = round(note.start_s * sample_rate)
        piece = wave[: max(0, total - start)] * np.float32((note.velocity / 127) ** 1.6)
        audio[start : start + len(piece)] += piece
    return audio[None]
