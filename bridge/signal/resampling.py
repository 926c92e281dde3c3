"""Preparing a mixture for a model: its rate, with exact lengths and no delay, level and views.

What a mono model hears of a multichannel mixture is one of

``channels``
    Each channel by itself. Where sources sit at different places of the stereo field, each of
    them is stronger in one channel than in the mean of all, and easier to tell from the rest; two
    answers instead of one also say where it sits. The network runs once per channel. A model may
    also be given the other channel of a stereo pair beside the one that it hears.
``mean``
    The mean of the channels, once. What two channels carry in opposite phase cancels out: the
    model does not hear it, and it stays in the residual.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt
import soxr

from bridge.request import Listening
from bridge.scratch import DEFAULT, LongArray, Scratch, in_turn, pairwise_sum

Array = npt.NDArray[np.float32]

SILENCE_PEAK: Final = 1e-8
MAX_GAIN_DB: Final = 60.0
#: A soft passage is raised at most this much more than the whole clip, to keep its noise low.
MAX_RISE_DB: Final = 40.0
#: A rate whose resampler keeps 20 Hz and loses what lies above 22 Hz.
_RUMBLE_RATE_HZ: Final = 44
#: Reflected margin before and after a clip, so that its ends do not act like steps.
_MARGIN_S: Final = 1.0
_STEP_S: Final = 0.05
#: Numbers that are added up at a time for a mean, as NumPy does where it converts them.
_SUMMED: Final = 1 << 13
#: Samples of silence that are made at a time.
_SILENCE: Final = 1 << 18


def resampled_length(samples: int, from_hz: int, to_hz: int) -> int:
    """Count the samples after `resample`: enough to span the same time, at least one."""
    return max(1, -(-samples * to_hz // from_hz))


def resample(
    audio: npt.NDArray[np.float32], from_hz: int, to_hz: int, samples: int | None = None
) -> npt.NDArray[np.float32]:
    """Resample one channel.

    The filter is linear-phase and its delay is taken out: sample ``k`` of the result is at time
    ``k / to_hz`` from the first sample of the input.

    Parameters
    ----------
    audio : ndarray of float32, shape (n,)
    from_hz, to_hz : int
    samples : int or None
        Length of the result, by default `resampled_length`. Beyond the input there is silence.

    Returns
    -------
    ndarray of float32, shape (samples,)
    """
    wanted = resampled_length(len(audio), from_hz, to_hz) if samples is None else samples
    return np.concatenate(list(resample_blocks([audio], from_hz, to_hz, wanted)))


def resample_blocks(
    blocks: Iterable[npt.NDArray[np.float32]], from_hz: int, to_hz: int, samples: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Resample one channel that comes in blocks; see `resample`.

    Parameters
    ----------
    blocks : iterable of ndarray of float32, shape (n,)
        Of any lengths: the result does not depend on them.
    from_hz, to_hz : int
    samples : int
        Length of the result.

    Yields
    ------
    ndarray of float32, shape (n,)
        `samples` in all.
    """
    # A sample of silence more than needed, since the resampler rounds its length down.
    needed = -(-samples * from_hz // to_hz) + 1
    stream = (
        None
        if from_hz == to_hz
        else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    )
    left = samples
    for block in _lengthened(blocks, needed):
        out = block if stream is None else stream.resample_chunk(block)
        if len(out):
            yield np.array(out[:left])
            left -= len(out[:left])
        if not left:
            return
    if stream is not None:
        out = stream.resample_chunk(np.empty(0, np.float32), last=True)[:left]
        yield np.array(out)
        left -= len(out)
    yield np.zeros(left, np.float32)


def fill(out: LongArray, blocks: Iterable[Array]) -> None:
    """Write blocks (n,) one after the other into a signal (samples,)."""
    start = 0
    for block in blocks:
        out[start : start + len(block)] = block
        start += len(block)


def _lengthened(
    blocks: Iterable[npt.NDArray[np.float32]], samples: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Pad blocks with silence to a total length."""
    for block in blocks:
        samples -= len(block)
        yield block
    while samples > 0:
        silence = np.zeros(min(samples, _SILENCE), np.float32)
        samples -= len(silence)
        yield silence


def downmix(mixture: Array) -> Array:
    """Average the channels of a mixture (channels, samples): (samples,)."""
    return np.asarray(mixture.mean(axis=0), dtype=np.float32)


def is_silent(mono: LongArray, scratch: Scratch = DEFAULT) -> bool:
    """Say whether no sample reaches -160 dB relative to full scale."""
    parts = scratch.stretches(len(mono))
    return all(float(np.abs(mono[part]).max()) < SILENCE_PEAK for part in parts)


def without_rumble(
    mixture: LongArray,
    sample_rate: int,
    scratch: Scratch = DEFAULT,
    means: Sequence[float] | None = None,
    threads: int = 1,
) -> LongArray:
    """Remove what nobody hears: a constant offset and everything below 20 Hz.

    Parameters
    ----------
    mixture : array of float32, shape (channels, samples)
    sample_rate : int
        In Hz; at very low rates, where little else would be left, only the mean is removed.
    scratch : Scratch
        Where the result lies.
    means : sequence of float or None
        The offset of each channel, if it is known from a longer mixture.
    threads : int
        How many channels are worked on at a time.

    Returns
    -------
    array of float32, shape (channels, samples)
    """
    samples = mixture.shape[1]
    margin = min(round(_MARGIN_S * sample_rate), samples - 1)
    steady = scratch.zeros(mixture.shape)
    means = channel_means(mixture) if means is None else means
    length = samples + 2 * margin
    few = resampled_length(length, sample_rate, _RUMBLE_RATE_HZ)

    def clean(channel: int) -> None:
        signal = steady[channel]
        for part in scratch.stretches(samples):
            signal[part] = mixture[channel][part] - np.float32(means[channel])
        if margin < 1 or sample_rate < 4 * _RUMBLE_RATE_HZ:
            return
        # Beyond its ends a signal is reflected.
        before = signal[1 : margin + 1][::-1]
        after = signal[samples - 1 - margin : samples - 1][::-1]
        blocks = chain([before], (signal[part] for part in scratch.stretches(samples)), [after])
        slow = list(resample_blocks(blocks, sample_rate, _RUMBLE_RATE_HZ, few))
        start = -margin
        for rumble in resample_blocks(slow, _RUMBLE_RATE_HZ, sample_rate, length):
            inside = slice(max(start, 0), min(start + len(rumble), samples))
            if inside.stop > inside.start:
                signal[inside] = signal[inside] - rumble[inside.start - start : inside.stop - start]
            start += len(rumble)

    for _ in in_turn(clean, len(mixture), threads):
        pass
    return steady


def channel_means(mixture: LongArray) -> list[float]:
    """Average each channel of a mixture (channels, samples) over time."""
    return [_sum(signal) / mixture.shape[1] for signal in mixture]


def _sum(signal: LongArray) -> float:
    """Add up a signal (samples,) in double precision."""
    total = 0.0
    for start in range(0, len(signal), 64 * _SUMMED):
        block = signal[start : start + 64 * _SUMMED].astype(np.float64)
        for first in range(0, len(block), _SUMMED):
            total += float(np.add.reduce(block[first : first + _SUMMED]))
    return total


@dataclass(frozen=True)
class Gain:
    """A gain that may vary over time; slicing gives its values as float32.

    Attributes
    ----------
    samples : int
        How many values there are.
    moments : ndarray of float64, shape (n,)
        Samples at which it is known; between them it is interpolated in dB.
    gains_db : ndarray of float64, shape (n,)
    constant : float
        What it is everywhere, if there are no such moments.
    power : float
        Mean square of the signal that it is for.
    """

    samples: int
    moments: npt.NDArray[np.float64]
    gains_db: npt.NDArray[np.float64]
    constant: float = 1.0
    power: float = 0.0

    def __getitem__(self, part: slice) -> Array:
        asked = range(self.samples)[part]
        if not len(self.moments):
            return np.full(len(asked), self.constant, np.float32)
        moments = np.arange(asked.start, asked.stop)
        curve = np.interp(moments, self.moments, self.gains_db)
        return np.asarray(10 ** (curve / 20), dtype=np.float32)


def gain_to(
    mono: LongArray,
    rms_db: float | None,
    sample_rate: int,
    follow_s: float | None = None,
    power: float | None = None,
) -> Gain:
    """Compute the gain that brings a signal to an RMS level.

    Parameters
    ----------
    mono : array of float32, shape (samples,)
    rms_db : float or None
        Wanted level in dB relative to full scale; None for no change.
    sample_rate : int
        In Hz.
    follow_s : float or None
        Length of the stretch around each moment that is brought to the level, weighted by a
        raised cosine; None takes the whole signal.
    power : float or None
        Mean square of the whole signal, if this is a part of a longer one.

    Returns
    -------
    Gain
        Smooth. At most 60 dB, so that the noise of a silent file stays low, and at most 40 dB
        more than the whole signal would get.
    """
    samples = len(mono)

    def squares(start: int, end: int) -> npt.NDArray[np.float64]:
        return np.square(mono[start:end], dtype=np.float64)

    power = pairwise_sum(squares, samples) / samples if power is None else power
    nowhere = np.empty(0)
    if rms_db is None or power == 0.0:
        return Gain(samples, nowhere, nowhere, power=power)
    most = 10 ** (MAX_GAIN_DB / 20)
    whole = min(10 ** (rms_db / 20) / np.sqrt(power), most)
    step = max(1, round(_STEP_S * sample_rate))
    reach = 0 if follow_s is None else round(follow_s * sample_rate / step / 2)
    if reach < 1 or samples <= step:
        return Gain(samples, nowhere, nowhere, whole, power)
    starts = np.arange(0, samples, step)
    sums = np.concatenate(
        [
            np.add.reduceat(block, np.arange(0, len(block), step))
            for first in range(0, samples, 64 * step)
            for block in [squares(first, first + 64 * step)]
        ]
    )
    counts = np.diff(np.append(starts, samples))
    weights = np.hanning(2 * reach + 1)[1:-1]
    # At the ends, the level of the part that exists.
    local = np.convolve(sums, weights)[reach - 1 :][: len(sums)]
    local /= np.convolve(counts, weights)[reach - 1 :][: len(sums)]
    rise = np.sqrt(power / np.maximum(local, power * 10 ** (-MAX_RISE_DB / 10)))
    gain_db = 20 * np.log10(np.minimum(whole * rise, most))
    return Gain(samples, starts + counts / 2, gain_db, power=power)


@dataclass(frozen=True)
class Views:
    """The signals that a model hears.

    Attributes
    ----------
    signals : array of float32, shape (V, samples)
        None of them silent; V = 0 if the mixture is.
    of_channel : tuple of int
        For each channel of the mixture, the index of the view that represents it.
    beside : tuple of int
        For each signal, the index of the other channel of its pair; its own if that is silent or
        missing.
    """

    signals: LongArray
    of_channel: tuple[int, ...]
    beside: tuple[int, ...]

    def to_channels(self, waves: Array) -> Array:
        """Spread what was found in each view (V, samples) over the channels (channels, samples)."""
        return waves[list(self.of_channel)]


def listen_to(mixture: LongArray, listening: Listening, scratch: Scratch = DEFAULT) -> Views:
    """Choose the signals that a model hears of a mixture.

    Channels that are equal are heard once, and silent ones not at all. Pairs are the first and the
    second channel, the third and the fourth, and so on, as files and buses order them.

    Parameters
    ----------
    mixture : array of float32, shape (channels, samples)
    listening : {"channels", "mean"}
    scratch : Scratch
        Where signals lie that are not the mixture's own.
    """
    channels, samples = mixture.shape
    candidates = mixture
    if listening == "mean":
        candidates = scratch.zeros((1, samples))
        for part in scratch.stretches(samples):
            candidates[:, part] = downmix(mixture[:, part])

    def equal(one: LongArray, other: LongArray) -> bool:
        return all(np.array_equal(one[p], other[p]) for p in scratch.stretches(samples))

    signals: list[LongArray] = []
    found: list[int | None] = []
    for signal in candidates:
        if is_silent(signal, scratch):
            found.append(None)
            continue
        known = (i for i, other in enumerate(signals) if equal(other, signal))
        found.append(next(known, len(signals)))
        if found[-1] == len(signals):
            signals.append(signal)
    beside = list(range(len(signals)))
    for channel, view in reversed(list(enumerate(found))):  # the first of equal ones decides
        other = found[channel ^ 1] if channel ^ 1 < len(found) else None
        if view is not None:
            beside[view] = view if other is None else other
    heard: LongArray = np.empty((0, samples), np.float32)
    if signals:
        heard = candidates if len(signals) == len(candidates) else scratch.copy(signals)
    # A stem of a silent channel is silent whatever the view.
    of_channel = found if listening == "channels" else [0] * channels
    return Views(heard, tuple(view or 0 for view in of_channel), tuple(beside))


def count_views(channels: int, listening: Listening) -> int:
    """Return the largest number of views of a mixture with that many channels."""
    return channels if listening == "channels" else 1
