"""Spatial covariances: which share of each channel belongs to a source, learnt from its masks.

A ratio mask gives every channel of a mixture the same gain. Where sources sit at different places
of the stereo field, that leaves the neighbour's sound in the stem; a multichannel Wiener filter
with one covariance per source also uses the place (Duong, Vincent & Gribonval 2010,
"Under-Determined Reverberant Audio Source Separation Using a Full-Rank Spatial Covariance Model",
section II; one round of its re-estimation, with the masks as the spectral model). With one
channel, or where all sources share one place, the filter is the ratio mask.
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
#: Power of a mask as weight in learning: only what is nearly one source's alone says where it is.
_SHARPNESS = 6
#: Width (standard deviation) of the stretch of time from which a covariance is learnt. Short, since
#: few of a song's sources sound at a moment, and one neighbour is cancelled more deeply than three;
#: in less, too little is heard to tell a place.
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
        """Take in a block: masks (frames, bins) of each source, spectra of each channel."""
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
    if len(spectra) == 2:  # stereo is nearly all there is: closed form
        left, right = spectra
        determinant = mixed[0, 0] * mixed[1, 1] - mixed[0, 1] * mixed[1, 0]
        return [
            (mixed[1, 1] * left - mixed[0, 1] * right) / determinant,
            (mixed[0, 0] * right - mixed[1, 0] * left) / determinant,
        ]
    matrices = np.moveaxis(mixed, (0, 1), (-2, -1))
    solved = np.linalg.solve(matrices, np.stack(spectra, axis=-1)[..., None])[..., 0]
    return [np.ascontiguousarray(solved[..., c], np.complex64) for c in range(len(spectra))]
