"""From the model's mono, band-limited waveforms to stems in the format of the mixture.

``raw``
    The model's own waveforms: each channel gets what was found in the signal that the model heard
    of it (see `bridge.signal.resampling`). They need not sum to the mixture.
``null``
    Stems as in ``raw``; the residual is the mixture minus the stems, so all sum to the mixture.
``mask``
    Every channel of the mixture is split in the time-frequency plane in the ratio of the model's
    magnitudes: the image in the stereo field and the full bandwidth are the mixture's own, and
    stems and residual sum to it.
``wiener``
    As ``mask``, with a gain for every pair of channels instead of one for each: the masks say
    where in the stereo field each stem sits, and the filter uses it; see `bridge.signal.spatial`.
    In stereo, what sounds at one place first agrees on its masks; see `bridge.signal.spatial`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bridge.bundles.manifest import Reconstruction
from bridge.scratch import DEFAULT, LongArray, in_turn
from bridge.signal.spatial import PlaceVotes, SpatialModel, wiener_filter
from bridge.signal.stft import Stft, plan_stft

Array: TypeAlias = npt.NDArray[np.float32]
Spectra: TypeAlias = npt.NDArray[np.complex64]
#: Makes the spectra of a block: of each stem, of each channel.
Filter: TypeAlias = Callable[[int], list[list[Spectra]]]
#: Works on each block, several at a time; see `bridge.scratch.in_turn`.
EachBlock: TypeAlias = Callable[[Callable[[int], None]], Iterator[None]]

_BLOCK_BYTES = 16 * 2**20
_SPATIAL_BLOCK_S = 1.0  # stretch for which places are estimated
_GUIDE_BAND_HZ = 1_500.0
_FLOOR = 1e-9
_PASSBAND = 0.45  # of the rate; the resampler keeps up to 0.456


def remainder(
    mixture: LongArray, stems: Sequence[LongArray], out: LongArray | None = None
) -> LongArray:
    """Subtract stems from a mixture (rows, samples), one after the other in float32.

    Parameters
    ----------
    mixture : array of float32, shape (rows, samples)
    stems : sequence of array of float32, shape (rows, samples)
    out : array of float32, shape (rows, samples), or None
        Where the result goes; None makes an array like the mixture.
    """
    rest = DEFAULT.like(mixture) if out is None else out
    for part in DEFAULT.stretches(mixture.shape[1]):
        left = np.array(mixture[:, part])
        for stem in stems:
            left -= stem[:, part]
        rest[:, part] = left
    return rest


@dataclass(frozen=True)
class MaskPlan:
    """How a mixture is transformed and masked.

    Attributes
    ----------
    stft : Stft
    sample_rate : int
        In Hz.
    blocks : tuple of (int, int)
        First and end frame of each block: a block is what is in memory at a time.
    exponent : float
        p in the ratio mask.
    guide_bin, top_bin : int
        The bins from the first up to the second guide those from the second up.
    channels : int
        Of the mixture, if the masks become a multichannel Wiener filter, else 1.
    """

    stft: Stft
    sample_rate: int
    blocks: tuple[tuple[int, int], ...]
    exponent: float
    guide_bin: int
    top_bin: int
    channels: int = 1

    @property
    def rounds(self) -> int:
        """Passes over the blocks: filters and votes are learnt before they are used."""
        return min(self.channels, 2) + self.votes

    @property
    def votes(self) -> bool:
        """Whether places vote on the masks."""
        return self.channels == 2

    @property
    def block_s(self) -> float:
        """Length of a block in seconds."""
        first, end = self.blocks[0]
        return (end - first) * self.stft.hop / self.sample_rate


def plan_masks(
    samples: int,
    sample_rate: int,
    masks: int,
    sizes: Reconstruction,
    spatial_channels: int = 1,
) -> MaskPlan:
    """Plan the masking of a mixture of a given length and rate.

    Parameters
    ----------
    samples, sample_rate : int
        Of the mixture.
    masks : int
        How many there are, over all targets and views.
    sizes : Reconstruction
    spatial_channels : int
        With more than one channel the plan is spatial: from one, nothing can be learnt of places.
    """
    stft = plan_stft(samples, sample_rate, sizes)
    # Masks, products and their transforms: about so many arrays of a block's size at once.
    arrays = masks + 6 + (spatial_channels**2 if spatial_channels > 1 else 0)
    frames = _BLOCK_BYTES // (8 * stft.bins * arrays)
    if spatial_channels > 1:
        frames = min(frames, round(_SPATIAL_BLOCK_S * sample_rate / stft.hop))
    frames = max(1, frames)
    hz_per_bin = sample_rate / stft.n_fft
    # A mixture at a low rate went through the resampler's filter on its way in and out.
    band_hz = min(sizes.band_hz, _PASSBAND * sample_rate)
    top = int(band_hz / hz_per_bin) + 1
    guide = max(0, min(top - 1, round((band_hz - _GUIDE_BAND_HZ) / hz_per_bin)))
    blocks = tuple(stft.blocks(frames))
    return MaskPlan(stft, sample_rate, blocks, sizes.exponent, guide, top, spatial_channels)


def split_by_masks(
    mixture: LongArray,
    targets: Sequence[LongArray],
    residual: LongArray,
    of_channel: Sequence[int],
    plan: MaskPlan,
    on_block: Callable[[], None],
    stems: Sequence[LongArray] | None = None,
    threads: int = 1,
) -> list[LongArray]:
    """Apply ratio masks made from the model's waveforms to the channels of the mixture.

    The mask of stem ``k`` is ``|T_k|^p / (sum_j |T_j|^p + |R|^p)``. Above the band of the model it
    is, in each frame, the mean of the mask over the band's top 1.5 kHz. Where all the waveforms
    are silent nothing is claimed, and the sound stays in the residual.

    Parameters
    ----------
    mixture : array of float32, shape (channels, samples)
    targets : sequence of array of float32, shape (V, samples)
        For each stem what the model found in each of the V signals it heard, at the mixture's
        rate.
    residual : array of float32, shape (V, samples)
        What it found to remain.
    of_channel : sequence of int
        For each channel of the mixture, the index of the signal that represents it.
    plan : MaskPlan
        From `plan_masks`.
    on_block : callable
        Called after each of the plan's blocks, in each of its rounds.
    stems : sequence of array of float32, shape (channels, samples), or None
        Zeros that become the result; None makes arrays like the mixture.
    threads : int
        How many blocks are worked on at a time; the result does not depend on it.

    Returns
    -------
    list of array of float32, shape (channels, samples)
        One stem per target.
    """
    stems = [DEFAULT.like(mixture) for _ in targets] if stems is None else list(stems)
    waves = list(zip(*targets, residual, strict=True))
    prepare = _place_filter if plan.channels > 1 else _mask_channels
    each_block = partial(in_turn, count=len(plan.blocks), threads=threads, then=on_block)
    split = prepare(mixture, waves, of_channel, plan, each_block)

    def render(block: int) -> list[list[Array]]:
        return [[plan.stft.synthesise(channel) for channel in part] for part in split(block)]

    for (first, _), parts in zip(plan.blocks, each_block(render), strict=True):
        for part, stem in zip(parts, stems, strict=True):
            for share, out in zip(part, stem, strict=True):
                plan.stft.add(share, first, out)
    return stems


def null_depth_db(
    mixture: LongArray, stems: Sequence[LongArray], residual: LongArray
) -> float | None:
    """Measure how far stems and residual are from summing to the mixture, added in float32.

    Returns
    -------
    float or None
        Peak of the difference in dB relative to full scale, or None where there is none.
    """
    peak = 0.0
    for part in DEFAULT.stretches(mixture.shape[1]):
        signal = mixture[:, part]
        total = np.zeros_like(signal)
        for stem in stems:
            total += stem[:, part]
        total += residual[:, part]
        total -= signal
        peak = max(peak, float(np.abs(total).max()))
    return 20.0 * float(np.log10(peak)) if peak > 0 else None


def _mask_channels(
    mixture: LongArray,
    waves: Sequence[tuple[LongArray, ...]],
    of_channel: Sequence[int],
    plan: MaskPlan,
    _each_block: EachBlock,
) -> Filter:
    """Apply to each channel the mask of its view."""

    def split(block: int) -> list[list[Spectra]]:
        bounds = plan.blocks[block]
        masks = [_ratio_masks(plan, view, *bounds) for view in waves]
        spectra = [plan.stft.analyse(signal, *bounds) for signal in mixture]
        return [
            [mask[view] * channel for view, channel in zip(of_channel, spectra, strict=True)]
            for mask in zip(*masks, strict=True)
        ]

    return split


def _place_filter(
    mixture: LongArray,
    waves: Sequence[tuple[LongArray, ...]],
    of_channel: Sequence[int],
    plan: MaskPlan,
    each_block: EachBlock,
) -> Filter:
    """Learn where targets and rest sit, then filter.

    The masks of a round are kept for the next, but for that of the rest, which is what the others
    leave: to keep them is quicker than to make them again.
    """
    sources, blocks = len(waves[0]), len(plan.blocks)
    kept = DEFAULT.zeros((sources - 1, plan.stft.frames, plan.stft.bins))
    votes = PlaceVotes(sources, blocks, plan.block_s, plan.top_bin) if plan.votes else None
    model = SpatialModel(sources, len(mixture), blocks, plan.block_s)
    floor = (_FLOOR * plan.stft.n_fft / 4) ** 2

    def analyse(block: int) -> list[Spectra]:
        return [plan.stft.analyse(signal, *plan.blocks[block]) for signal in mixture]

    def make(block: int, spectra: list[Spectra]) -> list[Array]:
        masks = [_ratio_masks(plan, view, *plan.blocks[block]) for view in waves]
        return _with_rest(_joint_masks(masks, of_channel, spectra))

    def keep(block: int, masks: Sequence[Array]) -> None:
        for row, mask in enumerate(masks[: sources - 1]):
            kept[row, slice(*plan.blocks[block])] = mask

    def recall(block: int) -> list[Array]:
        part = slice(*plan.blocks[block])
        return _with_rest([kept[row, part] for row in range(sources - 1)])

    def vote(votes: PlaceVotes, block: int) -> None:
        spectra = analyse(block)
        masks = make(block, spectra)
        votes.learn(block, masks, spectra)
        keep(block, masks)

    def locate(block: int) -> None:
        spectra = analyse(block)
        if votes is None:
            masks = make(block, spectra)
        else:
            masks = votes.refine(block, recall(block), spectra)
        model.learn(block, masks, spectra)
        keep(block, masks)

    def split(block: int) -> list[list[Spectra]]:
        return wiener_filter(recall(block), analyse(block), model.covariances(block), floor)

    if votes is not None:
        list(each_block(partial(vote, votes)))
    list(each_block(locate))
    return split


def _with_rest(masks: list[Array]) -> list[Array]:
    """Add the mask of what the targets leave."""
    rest = 1 - np.sum(masks, axis=0, dtype=np.float32)
    return [*masks, np.maximum(rest, np.float32(0))]


def _joint_masks(
    masks: Sequence[list[Array]], of_channel: Sequence[int], spectra: Sequence[Spectra]
) -> list[Array]:
    """Average each target's masks (frames, bins) over the views, weighted by their power."""
    if len(masks) == 1:
        return masks[0]
    powers = [np.zeros_like(masks[0][0]) for _ in masks]
    for view, channel in zip(of_channel, spectra, strict=True):
        powers[view] += np.square(channel.real) + np.square(channel.imag)
    total = np.sum(powers, axis=0)
    total += np.float32(np.finfo(np.float32).tiny)
    return [
        sum((mask * (power / total) for mask, power in zip(views, powers, strict=True)),
            start=np.zeros_like(total))
        for views in zip(*masks, strict=True)
    ]  # fmt: skip


def _ratio_masks(plan: MaskPlan, waves: Sequence[LongArray], first: int, end: int) -> list[Array]:
    """Return the masks (frames, bins) of a block for every waveform but the last, the rest."""
    stft = plan.stft
    *targets, residual = waves
    powers = [_power(stft.analyse(wave, first, end), plan.exponent) for wave in targets]
    total = _power(stft.analyse(residual, first, end), plan.exponent)
    for power in powers:
        total += power
    # Magnitudes this far below those of a full-scale sine are rounding, not sound.
    total += np.float32((_FLOOR * stft.n_fft / 4) ** plan.exponent)
    masks = [power / total for power in powers]
    for mask in masks:
        band = mask[:, plan.guide_bin : plan.top_bin]
        mask[:, plan.top_bin :] = band.mean(axis=1, keepdims=True)
    return masks


def _power(spectra: npt.NDArray[np.complex64], exponent: float) -> Array:
    """Raise magnitudes to a power."""
    if exponent == 1.0:
        return np.abs(spectra)
    squared = np.square(spectra.real) + np.square(spectra.imag)
    return squared if exponent == 2.0 else squared ** np.float32(exponent / 2)
