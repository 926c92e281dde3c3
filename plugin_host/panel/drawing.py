"""How audio is seen and heard: spectrograms and peaks in tiles, gains, loudness, the first stretch.

The page computes the same gains (``page/mixing.js``), so that an exported mix is what was heard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from plugin_host.files.audio_files import Audio
from plugin_host.panel.document import SILENT_DB, Strip

PEAK_SAMPLES: Final = 64
"""Samples of a peak at level 0; each level doubles it."""
PEAKS_PER_TILE: Final = 1024

COLUMN_SAMPLES: Final = 256
"""Samples of a spectrogram's column at level 0; each level doubles it."""
COLUMNS_PER_TILE: Final = 256
BANDS: Final = 96
LOWEST_HZ: Final = 40.0
LEVELS: Final = 24

_FLOOR_DB, _TOP_DB = -93.0, -8.0
_FRAMES_PER_COLUMN = 4
_FRAMES_AT_ONCE = 32


class Peaks:
    """The lowest and the highest sample of every 64, over all channels.

    Parameters
    ----------
    samples
        Length of the audio.

    Attributes
    ----------
    loudest
        The largest absolute value of a sample so far.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.loudest = 0.0
        self._base = np.zeros((-(-samples // PEAK_SAMPLES), 2), np.int16)

    @classmethod
    def of(cls, audio: Audio) -> Peaks:
        """Measure audio ``(channels, samples)``."""
        peaks = cls(audio.shape[1])
        peaks.update(0, audio)
        return peaks

    def update(self, start: int, audio: Audio) -> None:
        """Take in a stretch of audio ``(channels, samples)`` that begins at a sample."""
        stop = min(start + audio.shape[1], self.samples)
        if start >= stop:
            return
        first = start // PEAK_SAMPLES
        lead = start - first * PEAK_SAMPLES
        edges = np.arange(0, lead + stop - start, PEAK_SAMPLES)
        edges[1:] -= lead
        low = np.zeros(len(edges), np.float32)
        high = np.zeros(len(edges), np.float32)
        for channel in audio[:, : stop - start]:
            low = np.minimum(low, np.minimum.reduceat(channel, edges))
            high = np.maximum(high, np.maximum.reduceat(channel, edges))
        self.loudest = max(self.loudest, float(high.max()), -float(low.min()))
        both = np.rint(np.clip(np.stack([low, high], axis=1), -1.0, 1.0) * 32767.0)
        self._base[first : first + len(edges)] = both.astype(np.int16)

    def tile(self, level: int, index: int) -> NDArray[np.int16]:
        """Return ``(1024, 2)`` pairs of a tile; zeros where there is no audio."""
        factor = 1 << level
        start = index * PEAKS_PER_TILE * factor
        part = self._base[start : start + PEAKS_PER_TILE * factor]
        tile = np.zeros((PEAKS_PER_TILE, 2), np.int16)
        if len(part):
            edges = np.arange(0, len(part), factor)
            tile[: len(edges), 0] = np.minimum.reduceat(part[:, 0], edges)
            tile[: len(edges), 1] = np.maximum.reduceat(part[:, 1], edges)
        return tile


def spectrogram_tile(
    audio: Audio, sample_rate: int, level: int, index: int, *, offset: int = 0
) -> NDArray[np.uint8]:
    """Compute a tile of a spectrogram on a logarithmic frequency axis.

    A column is the loudest of up to four frames it covers, so that short hits survive at a low
    zoom; power is the mean over the channels.

    Parameters
    ----------
    audio
        Float32 ``(channels, samples)``.
    sample_rate
        Samples per second.
    level
        A column covers ``256 * 2**level`` samples.
    index
        Which tile of 256 columns.
    offset
        Where the audio begins, in samples of the time axis.

    Returns
    -------
    Uint8 ``(256, 96)``: columns from early to late, bands from 40 Hz up; 0 is -93 dB relative to
    a full-scale sine, 255 is -8 dB.
    """
    column = COLUMN_SAMPLES << level
    tile = np.zeros((COLUMNS_PER_TILE, BANDS), np.uint8)
    begin = index * COLUMNS_PER_TILE * column - offset
    first = max(0, -begin // column)
    last = min(COLUMNS_PER_TILE, -(-(audio.shape[1] - begin) // column))
    if first >= last:
        return tile
    size = 1 << max(6, round(np.log2(0.046 * sample_rate)))
    per_column = int(np.clip(column // (size // 4), 1, _FRAMES_PER_COLUMN))
    centres = (np.arange(first * per_column, last * per_column) + 0.5) * (column / per_column)
    starts = begin + centres.astype(np.int64) - size // 2
    window = np.hanning(size).astype(np.float32)
    full_scale = np.float32(audio.shape[0] * float(window.sum() / 2.0) ** 2)
    levels = np.empty((len(starts), BANDS), np.float32)
    # A few frames at a time stay in the processor's cache; all at once, most of the time goes into
    # getting memory.
    frames = np.empty((_FRAMES_AT_ONCE, size), np.float32)
    for first_row in range(0, len(starts), _FRAMES_AT_ONCE):
        rows = starts[first_row : first_row + _FRAMES_AT_ONCE]
        power = np.zeros((len(rows), size // 2 + 1), np.float32)
        for channel in audio:
            frames[:] = 0.0
            for row, start in enumerate(rows):
                inside = channel[max(start, 0) : max(start + size, 0)]
                at = max(-start, 0)
                frames[row, at : at + len(inside)] = inside
            power += np.abs(np.fft.rfft(frames[: len(rows)] * window)) ** 2
        power /= full_scale
        in_db = np.float32(10.0) * np.log10(power + 1e-12)
        levels[first_row : first_row + len(rows)] = _in_bands(in_db, sample_rate, size)
    loudest = levels.reshape(last - first, per_column, BANDS).max(axis=1)
    scaled = (loudest - _FLOOR_DB) * (255.0 / (_TOP_DB - _FLOOR_DB))
    tile[first:last] = np.clip(np.rint(scaled), 0.0, 255.0).astype(np.uint8)
    return tile


def overview(samples: int) -> list[tuple[int, int]]:
    """Return level and index of the spectrogram tiles by which a page of usual width shows it all.

    Up to eight tiles: 1024 to 2048 columns, on lanes that are about as many pixels wide.
    """
    tiles = samples / (COLUMN_SAMPLES * COLUMNS_PER_TILE)
    level = max(0, math.ceil(math.log2(max(tiles, 1.0) / 8.0)))
    return [(level, index) for index in range(math.ceil(tiles / (1 << level)))]


def highest_hz(sample_rate: int) -> float:
    """Return the top of the frequency axis."""
    return max(min(sample_rate / 2.0, 20000.0), 2.0 * LOWEST_HZ)


def _in_bands(levels_db: Audio, sample_rate: int, size: int) -> Audio:
    """Bring ``(frames, bins)`` to bands evenly spaced in pitch.

    Low bands lie between two bins and are interpolated; of the bins of a high one the loudest
    counts.
    """
    edges_hz = np.geomspace(LOWEST_HZ, highest_hz(sample_rate), BANDS + 1)
    centres = np.sqrt(edges_hz[1:] * edges_hz[:-1]) * size / sample_rate
    below = np.clip(np.floor(centres).astype(np.int64), 0, size // 2 - 1)
    part = (centres - below).astype(np.float32)
    bands: Audio = levels_db[:, below] * (1 - part) + levels_db[:, below + 1] * part
    wide = int(np.searchsorted(np.diff(edges_hz), 2.0 * sample_rate / size))
    if wide < BANDS:
        first_bins = np.clip(edges_hz[wide:-1] * size / sample_rate, 0, size // 2)
        bands[:, wide:] = np.maximum.reduceat(levels_db, first_bins.astype(np.int64), axis=1)
    return bands


PREVIEW_S: Final = 15.0
_BLOCK_S: Final = 0.4
_MOST_BLOCKS: Final = 300
_SILENCE_LUFS: Final = -70.0


def strip_gains(strip: Strip) -> tuple[float, float]:
    """Return the factors for the left and the right channel, mute and solo aside.

    Panning is a balance: the side that is turned to stays as it is, the other one fades.
    """
    gain = 0.0 if strip.gain_db <= SILENT_DB else 10.0 ** (strip.gain_db / 20.0)
    away = math.cos(abs(strip.pan) * math.pi / 2.0) if abs(strip.pan) < 1.0 else 0.0
    return (gain * (away if strip.pan > 0 else 1.0), gain * (away if strip.pan < 0 else 1.0))


def heard_gains(strips: Mapping[str, Strip]) -> dict[str, tuple[float, float]]:
    """Return the factors of every stem, left and right, with mute and solo."""
    soloed = any(strip.solo for strip in strips.values())
    return {
        key: (0.0, 0.0) if strip.mute or (soloed and not strip.solo) else strip_gains(strip)
        for key, strip in strips.items()
    }


def mix(stems: Sequence[tuple[Audio, tuple[float, float]]]) -> Audio:
    """Sum stems as they are heard.

    Parameters
    ----------
    stems
        Float32 ``(channels, samples)``, all of one shape, each with its factors for left and
        right. Mono becomes stereo if a stem is panned; with more than two channels, which have no
        left and right, the louder factor counts.

    Returns
    -------
    Float32 ``(channels, samples)``; it may exceed full scale.
    """
    channels = stems[0][0].shape[0]
    if channels == 1 and any(left != right for _, (left, right) in stems):
        channels = 2
    total = np.zeros((channels, stems[0][0].shape[1]), np.float32)
    for audio, (left, right) in stems:
        if left == right == 0.0:
            continue
        factors = [left, right] if channels == 2 else [max(left, right)] * channels
        total += audio * np.array(factors, np.float32)[:, np.newaxis]
    return total


def loudest_stretch(audio: Audio, sample_rate: int, length_s: float = PREVIEW_S) -> range:
    """Return the samples of the stretch with the most energy, to a tenth of a second.

    Parameters
    ----------
    audio
        Float32 ``(channels, samples)``.
    sample_rate
        Samples per second.
    length_s
        Length of the stretch; the whole audio if it is no longer than that.
    """
    samples = audio.shape[1]
    length = round(length_s * sample_rate)
    if samples <= length:
        return range(samples)
    step = max(1, sample_rate // 10)
    # A stretch may end with the audio, whatever the step.
    starts = np.append(np.arange(0, samples - length, step), samples - length)
    energy = np.zeros(samples // step + 2)
    for channel in audio:
        whole = channel[: samples // step * step].reshape(-1, step)
        energy[1:-1] += np.einsum("ij,ij->i", whole, whole)
    summed = np.cumsum(energy)
    ends = np.minimum((starts + length) // step, len(summed) - 1)
    best = int(starts[np.argmax(summed[ends] - summed[starts // step])])
    return range(best, best + length)


def loudness_lufs(audio: Audio, sample_rate: int) -> float:
    """Measure loudness as ITU-R BS.1770 does, gated, on blocks of 400 ms.

    A long stretch is measured on 300 blocks spread evenly over it. The filters are applied to the
    spectrum of each block, which differs from filtering the whole by less than a tenth of a dB.

    Parameters
    ----------
    audio
        Float32 ``(channels, samples)``.
    sample_rate
        Samples per second.

    Returns
    -------
    LUFS; -inf for silence.
    """
    channels, samples = audio.shape
    length = min(samples, max(1, round(_BLOCK_S * sample_rate)))
    count = min(_MOST_BLOCKS, max(1, 4 * (samples - length) // length + 1))
    starts = np.linspace(0, samples - length, count).astype(np.int64)
    weights = _k_weighting(length, sample_rate)
    power = np.zeros(count)
    for index, start in enumerate(starts):
        spectrum = np.fft.rfft(audio[:, start : start + length].astype(np.float64))
        power[index] = (np.abs(spectrum) ** 2 @ weights).sum()
    if not channels or not power.any():
        return -math.inf
    loud = power[power > 10.0 ** ((_SILENCE_LUFS + 0.691) / 10.0)]
    if not loud.size:
        return float(-0.691 + 10.0 * np.log10(power.mean()))
    gated = loud[loud > loud.mean() / 10.0]
    return float(-0.691 + 10.0 * np.log10(gated.mean()))


def _k_weighting(length: int, sample_rate: int) -> NDArray[np.float64]:
    """Return what a bin's squared magnitude adds to the mean square after the K filters."""
    z = np.exp(-1j * 2.0 * np.pi * np.fft.rfftfreq(length))
    response = np.ones(z.shape)
    for b, a in _k_filters(sample_rate):
        numerator = b[0] + b[1] * z + b[2] * z**2
        response *= np.abs(numerator / (1.0 + a[0] * z + a[1] * z**2)) ** 2
    both_sides = np.full(z.shape, 2.0)
    both_sides[0] = 1.0
    if length % 2 == 0:
        both_sides[-1] = 1.0
    return response * both_sides / length**2


def _k_filters(
    sample_rate: int,
) -> list[tuple[tuple[float, float, float], tuple[float, float]]]:
    """Return the shelf and the high pass of BS.1770 for any rate, as (b, a without its 1)."""
    # The standard gives coefficients at 48 kHz; these are the analogue filters behind them.
    k = math.tan(math.pi * min(1681.974450955533 / sample_rate, 0.49))
    q, gain = 0.7071752369554196, 10.0 ** (3.999843853973347 / 20.0)
    middle = gain**0.4996667741545416
    a0 = 1.0 + k / q + k * k
    shelf = (
        (
            (gain + middle * k / q + k * k) / a0,
            2.0 * (k * k - gain) / a0,
            (gain - middle * k / q + k * k) / a0,
        ),
        (2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0),
    )
    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    q = 0.5003270373238773
    a0 = 1.0 + k / q + k * k
    high_pass = ((1.0, -2.0, 1.0), (2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0))
    return [shelf, high_pass]
