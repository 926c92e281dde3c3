"""Where the sources of a multichannel mixture are: their covariances, and votes by place.

A ratio mask gives every channel of a mixture the same gain. Where sources sit at different places
of the stereo field, that leaves the neighbour's sound in the stem; a multichannel Wiener filter
with one covariance per source also uses the place (Duong, Vincent & Gribonval 2010,
"Under-Determined Reverberant Audio Source Separation Using a Full-Rank Spatial Covariance Model",
section II; one round of its re-estimation, with the masks as the spectral model). With one
channel, or where all sources share one place, the filter is the ratio mask.

A network judges every moment and frequency by itself and is unsure of many. Where sources are
panned, the ratio of the channels tells which of them belong together (Yilmaz &
Rickard 2004, "Blind Separation of Speech Mixtures via Time-Frequency Masking"). So everything
that sounds at a place votes with its masks, and each mask is combined with the vote of its place: a
product of what the network and the place make likely, as if they were independent.

A place whose masks are all close to one value holds one source that the network is unsure of: there
the place counts more, and each mask less. A place whose masks are near zero or near one holds
several sources that the network tells apart: there the masks stay as they are. Where all
sources share one place, as in mono, there is nothing to vote about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float32]
Spectra: TypeAlias = npt.NDArray[np.complex64]

#: Added to covariances of mean diagonal 1: how far a source may be from where it was heard.
_SPREAD = 1e-2
#: Exponent of a mask as a weight in learning: only what belongs nearly to one source locates it.
_SHARPNESS = 6
#: Width (standard deviation) of the stretch of time from which a covariance is learnt. Short, since
#: few of a song's sources sound at a moment, and one neighbour is cancelled more deeply than three;
#: any shorter, and too little is heard to locate a source.
_MEMORY_S = 1.5


class SpatialModel:
    """Covariances of some sources over the channels of a mixture, per block of time.

    They are real and hold for all frequencies, as amplitude panning is; a source that is spread
    or delayed between the channels has a covariance of higher rank, and loses less.

    Parameters
    ----------
    sources, channels, blocks : int
        How many of each.
    block_s : float
        Length of a block in seconds.
    """

    def __init__(self, sources: int, channels: int, blocks: int, block_s: float) -> None:
        self._sums = np.zeros((blocks, sources, channels, channels))
        self._block_s = block_s

    def learn(self, block: int, masks: Sequence[Array], spectra: Sequence[Spectra]) -> None:
        """Learn from a block: masks (frames, bins) of each source, spectra of each channel."""
        flat = np.stack([channel.reshape(-1) for channel in spectra])
        for source, mask in enumerate(masks):
            weighted = flat * (mask.reshape(-1) ** _SHARPNESS)
            self._sums[block, source] = (weighted @ flat.conj().T).real

    def covariances(self, block: int) -> npt.NDArray[np.float32]:
        """Estimate from a block and its neighbours in time: shape (sources, channels, channels).

        The mean of each diagonal is 1, before the spread that keeps every matrix regular.
        """
        distance = (np.arange(len(self._sums)) - block) * self._block_s / _MEMORY_S
        total = np.tensordot(np.exp(-0.5 * distance**2), self._sums, axes=1)
        channels = total.shape[-1]
        mean = np.trace(total, axis1=1, axis2=2)[:, None, None] / channels
        identity = np.eye(channels)
        shaped = np.where(mean > 0, total / np.where(mean > 0, mean, 1), identity)
        return (shaped + _SPREAD * identity).astype(np.float32)


def wiener_filter(
    masks: Sequence[Array],
    spectra: Sequence[Spectra],
    covariances: npt.NDArray[np.float32],
    floor: float,
) -> list[list[Spectra]]:
    """Filter the spectra of a mixture's channels into those of its sources.

    ``y_k = v_k R_k (sum_j v_j R_j)^-1 x`` with ``v_k`` the mask's share of the mixture's power.

    Parameters
    ----------
    masks : sequence of ndarray of float32, shape (frames, bins)
        One per source; together they sum to one.
    spectra : sequence of ndarray of complex64, shape (frames, bins)
        One per channel.
    covariances : ndarray of float32, shape (sources, channels, channels)
        From `SpatialModel.covariances`.
    floor : float
        Power below which a bin counts as silent.

    Returns
    -------
    list of list of ndarray of complex64, shape (frames, bins)
        Per source but the last (which is what the others leave), the spectrum of each channel.
    """
    channels = len(spectra)
    power = np.zeros_like(masks[0])
    for channel in spectra:
        power += np.square(channel.real) + np.square(channel.imag)
    variances = [mask * power for mask in masks]
    mixed = np.zeros((channels, channels, *power.shape), np.float32)
    for variance, covariance in zip(variances, covariances, strict=True):
        mixed += covariance[:, :, None, None] * variance
    mixed[np.arange(channels), np.arange(channels)] += np.float32(floor)
    whitened = _solve(mixed, spectra)
    return [
        [
            variance * sum(gain * part for gain, part in zip(row, whitened, strict=True))
            for row in covariance
        ]
        for variance, covariance in zip(variances[:-1], covariances[:-1], strict=True)
    ]


def _solve(mixed: Array, spectra: Sequence[Spectra]) -> list[Spectra]:
    """Solve ``mixed z = x`` in every bin; `mixed` (channels, channels, frames, bins) is regular."""
    if len(spectra) == 2:  # nearly all mixtures are stereo: closed form
        left, right = spectra
        determinant = mixed[0, 0] * mixed[1, 1] - mixed[0, 1] * mixed[1, 0]
        return [
            (mixed[1, 1] * left - mixed[0, 1] * right) / determinant,
            (mixed[0, 0] * right - mixed[1, 0] * left) / determinant,
        ]
    matrices = np.moveaxis(mixed, (0, 1), (-2, -1))
    solved = np.linalg.solve(matrices, np.stack(spectra, axis=-1)[..., None])[..., 0]
    return [np.ascontiguousarray(solved[..., c], np.complex64) for c in range(len(spectra))]


#: Places between the left and the right end of the field.
PLACES = 25
#: Weight of the place's odds, and least weight of a mask's own; NOTEBOOK.md has the measurements.
_PLACE_WEIGHT = 2.5
_OWN_WEIGHT = 0.4
#: Share of a place's votes that a source has at its best place: up to the first, places weigh 1,
#: from the second on in full.
_LOST, _FOUND = 0.1, 0.3
#: Variance of a place's masks, as a share of the most it can be: from the first on masks weigh more
#: than the least, from the second on in full.
_UNSURE, _APART = 0.4, 0.8
#: Share of the votes that has to lie elsewhere than around the strongest place for votes to count
#: in full, and how many places to each side that is.
_ELSEWHERE, _AROUND = 0.2, 2
#: Votes for the mean that every place begins with, as a share of all: nearly empty places say
#: little.
_DOUBT = 3e-2
#: Width (standard deviation) of the stretch of time in which a place keeps its source.
_VOTE_MEMORY_S = 3.0
#: A frame in which a source claims less than this share of its mean claims nothing: votes do not
#: make a source sound where the network is sure that it rests.
_REST = 1e-2
_TINY = 1e-7


class PlaceVotes:
    """Votes for each source at each place of a stereo field, per block of time.

    Parameters
    ----------
    sources, blocks : int
        How many of each; what the targets leave is a source too.
    block_s : float
        Length of a block in seconds.
    top_bin : int
        Bins from here up, above the band of the model, do not vote.
    """

    def __init__(self, sources: int, blocks: int, block_s: float, top_bin: int) -> None:
        # For each source sums of strength, times its mask, and times the square of that.
        self._votes = np.zeros((blocks, 2, sources, PLACES))
        self._block_s, self._top_bin = block_s, top_bin

    def learn(self, block: int, masks: Sequence[Array], spectra: Sequence[Spectra]) -> None:
        """Learn from a block: masks (frames, bins) of each source, spectra of left and right."""
        band = slice(None, self._top_bin)
        lower, share = _locate([channel[:, band] for channel in spectra])
        strength = _strength([channel[:, band] for channel in spectra])
        lower = lower.ravel()
        for source, mask in enumerate(masks):
            weight = strength * mask[:, band]
            for moment in range(2):
                far = weight * share
                votes = np.bincount(lower, (weight - far).ravel(), PLACES)
                votes += np.bincount(lower + 1, far.ravel(), PLACES)
                self._votes[block, moment, source] = votes
                weight *= mask[:, band]

    def refine(self, block: int, masks: Sequence[Array], spectra: Sequence[Spectra]) -> list[Array]:
        """Move a block's masks, which sum to one and will, towards the votes of their places."""
        mean, gains, weights = self._tally(block)
        lower, share = _locate(spectra)

        def read(table: Array) -> Array:
            near = table[lower]
            return np.asarray(near + share * (table[lower + 1] - near))

        logits = []
        for mask, prior, gain, weight in zip(masks, np.log(mean), gains, weights, strict=True):
            own = np.log(np.maximum(mask, np.float32(_TINY))) - np.float32(prior)
            logits.append(np.float32(prior) + read(weight) * own + read(gain))
        highest = np.maximum.reduce(logits)
        odds = [np.exp(logit - highest) for logit in logits]
        total = np.add.reduce(odds)
        strength = _strength(spectra)[:, : self._top_bin]
        heard = strength.sum(axis=1) + np.float32(np.finfo(np.float32).tiny)
        refined = []
        for mask, odd, prior in zip(masks[:-1], odds, mean, strict=False):
            claimed = (strength * mask[:, : self._top_bin]).sum(axis=1) / heard
            awake = np.minimum(1, claimed / np.float32(_REST * prior))
            refined.append(odd / total * awake[:, np.newaxis].astype(np.float32))
        rest = 1 - np.sum(refined, axis=0, dtype=np.float32)
        return [*refined, np.maximum(rest, np.float32(0))]

    def _tally(self, block: int) -> tuple[npt.NDArray[np.float64], Array, Array]:
        """Count the votes around a block.

        Returns
        -------
        mean : ndarray of float64, shape (sources,)
            Each source's share of all votes.
        gains : ndarray of float32, shape (sources, PLACES)
            What a place adds to the logarithm of each source's mask.
        weights : ndarray of float32, shape (sources, PLACES)
            By which that logarithm's distance from its mean is multiplied before.
        """
        distance = (np.arange(len(self._votes)) - block) * self._block_s / _VOTE_MEMORY_S
        total = np.tensordot(np.exp(-0.5 * distance**2), self._votes, axes=1)
        padded = np.pad(total, ((0, 0), (0, 0), (1, 1)), mode="edge")
        votes, squares = 0.25 * padded[..., :-2] + 0.5 * total + 0.25 * padded[..., 2:]
        cast = votes.sum(axis=0)
        everything = max(float(cast.sum()), _TINY)
        mean = np.clip(votes.sum(axis=1) / everything, _TINY, 1)
        mean_square = squares.sum(axis=1) / everything
        doubt = _DOUBT * everything
        shares = (votes + doubt * mean[:, np.newaxis]) / (cast + doubt)
        spread = (squares + doubt * mean_square[:, np.newaxis]) / (cast + doubt) - shares**2
        most = np.maximum(shares * (1 - shares), _TINY)
        apart = np.clip((spread / most - _UNSURE) / (_APART - _UNSURE), 0, 1)
        counts = _count_in_full(cast / everything)
        # A source that no place votes for may be absent: nothing is raised then.
        found = np.clip((shares.max(axis=1) - _LOST) / (_FOUND - _LOST), 0, 1)
        place_weights = 1 + (_PLACE_WEIGHT - 1) * found
        gains = counts * place_weights[:, np.newaxis] * np.log(shares / mean[:, np.newaxis])
        weights = 1 - counts * (1 - _OWN_WEIGHT) * (1 - apart)
        return mean, gains.astype(np.float32), weights.astype(np.float32)


def _count_in_full(cast: npt.NDArray[np.float64]) -> float:
    """Return how much votes count, 0 to 1, by how they spread over the places."""
    strongest = int(np.argmax(cast))
    around = cast[max(0, strongest - _AROUND) : strongest + _AROUND + 1].sum()
    return float(np.clip((cast.sum() - around) / _ELSEWHERE, 0, 1))


def _locate(spectra: Sequence[Spectra]) -> tuple[npt.NDArray[np.intp], Array]:
    """Find for each bin the place below it, and how far it is on its way to the next one.

    Places are angles of constant-power panning.
    """
    left, right = (np.abs(channel) for channel in spectra)
    at = np.arctan2(right, left + np.float32(np.finfo(np.float32).tiny))
    at *= np.float32((PLACES - 1) * 2 / np.pi)
    lower = np.minimum(at.astype(np.intp), PLACES - 2)
    return lower, at - lower.astype(np.float32)


def _strength(spectra: Sequence[Spectra]) -> Array:
    """Weigh bins by their magnitude: by their power the loudest moments alone would decide."""
    power = np.zeros(spectra[0].shape, np.float32)
    for channel in spectra:
        power += np.square(channel.real) + np.square(channel.imag)
    return np.sqrt(power, out=power)
