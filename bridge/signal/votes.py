"""Votes of a stereo mixture's places: what sounds at one place is mostly one source's.

A network judges every moment and frequency by itself and is unsure of many. Where sources are
panned, the ratio of the channels tells which of the sure and the unsure belong together (Yilmaz &
Rickard 2004, "Blind Separation of Speech Mixtures via Time-Frequency Masking"). So all that sounds
at a place votes with the masks that it has, and the vote of its place is put beside each of them:
a product of what the network and what the place makes likely, as if they were independent.

A place whose masks all hover around one value holds one source of which the network is unsure:
there the place is believed more, and each mask less. A place whose masks are near zero or near one
holds several sources that the network tells apart: there the masks stay what they are. Where all
sources share one place, as in mono, there is nothing to vote about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float32]
Spectra: TypeAlias = npt.NDArray[np.complex64]

#: Places between the left and the right end of the field.
PLACES = 25
#: Weight of the place's odds, and least weight of a mask's own; MINI.md has the measurements.
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
_MEMORY_S = 3.0
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
        """Take in a block: masks (frames, bins) of each source, spectra of left and right."""
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
        distance = (np.arange(len(self._votes)) - block) * self._block_s / _MEMORY_S
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
        # A source that no place gives its votes to may be absent: nothing is raised then.
        found = np.clip((shares.max(axis=1) - _LOST) / (_FOUND - _LOST), 0, 1)
        place_weights = 1 + (_PLACE_WEIGHT - 1) * found
        gains = counts * place_weights[:, np.newaxis] * np.log(shares / mean[:, np.newaxis])
        weights = 1 - counts * (1 - _OWN_WEIGHT) * (1 - apart)
        return mean, gains.astype(np.float32), weights.astype(np.float32)


def _count_in_full(cast: npt.NDArray[np.float64]) -> float:
    """Say how far votes count, by how they spread over the places: 0 to 1."""
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
