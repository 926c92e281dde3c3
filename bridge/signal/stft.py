"""Short-time Fourier transform in blocks, with exact reconstruction by weighted overlap-add.

Hann windows for analysis and synthesis (Griffin & Lim 1984, "Signal Estimation from Modified
Short-Time Fourier Transform"): unmodified frames reconstruct every sample, the first and the
last included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridge.bundles.manifest import Reconstruction
from bridge.scratch import LongArray

_REFERENCE_RATE_HZ = 44_100


@dataclass(frozen=True)
class Stft:
    """Sizes of a transform over `samples` samples.

    Attributes
    ----------
    samples : int
        Length of the signals.
    n_fft, hop : int
        Window and step in samples; `hop` divides `n_fft`.
    """

    samples: int
    n_fft: int
    hop: int

    @property
    def bins(self) -> int:
        """Frequencies from 0 to half the rate."""
        return self.n_fft // 2 + 1

    @property
    def frames(self) -> int:
        """Number of frames; even the first and the last sample are covered by all their windows."""
        return -(-self.samples // self.hop) + self.n_fft // self.hop - 1

    @property
    def window(self) -> npt.NDArray[np.float32]:
        """Periodic Hann window, shape (n_fft,)."""
        phase = np.arange(self.n_fft) * (2 * np.pi / self.n_fft)
        return np.asarray(0.5 - 0.5 * np.cos(phase), dtype=np.float32)

    def blocks(self, frames: int) -> Iterator[tuple[int, int]]:
        """Yield (first, end) of runs of at most `frames` frames."""
        for first in range(0, self.frames, frames):
            yield first, min(first + frames, self.frames)

    def analyse(self, signal: LongArray, first: int, end: int) -> npt.NDArray[np.complex64]:
        """Transform the frames from `first` up to `end` of a signal (samples,).

        Returns
        -------
        ndarray of complex64, shape (end - first, bins)
        """
        start = (first + 1) * self.hop - self.n_fft
        stop = start + (end - first - 1) * self.hop + self.n_fft
        inside = signal[max(start, 0) : min(stop, self.samples)]
        padded = np.pad(inside, (max(-start, 0), max(stop - max(self.samples, start), 0)))
        padded = padded[: stop - start]
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop]
        return np.fft.rfft(windows * self.window, axis=-1).astype(np.complex64, copy=False)

    def synthesise(self, spectra: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
        """Turn frames in a row into their share of a signal, for `add`.

        Parameters
        ----------
        spectra : ndarray of complex64, shape (frames, bins)

        Returns
        -------
        ndarray of float32, shape ((frames - 1) * hop + n_fft,)
        """
        # Each sample is under n_fft / hop windows; the sum of their squares has the hop's period.
        weight = self.window / np.tile(
            np.square(self.window, dtype=np.float64).reshape(-1, self.hop).sum(axis=0),
            self.n_fft // self.hop,
        ).astype(np.float32)
        frames = np.asarray(np.fft.irfft(spectra, n=self.n_fft, axis=-1) * weight, np.float32)
        added = np.zeros((len(spectra) - 1) * self.hop + self.n_fft, dtype=np.float32)
        steps = added.reshape(-1, self.hop)
        parts = frames.reshape(len(spectra), -1, self.hop)
        for offset in range(parts.shape[1]):
            steps[offset : offset + len(spectra)] += parts[:, offset]
        return added

    def add(self, share: npt.NDArray[np.float32], first: int, out: LongArray) -> None:
        """Add what `synthesise` made of the frames that begin with `first` to a signal.

        Parameters
        ----------
        share : ndarray of float32, shape (length,)
        first : int
            Index of the first frame.
        out : array of float32, shape (samples,)
            Added to in place. Once every frame has been added to zeros, it is the signal.
        """
        start = (first + 1) * self.hop - self.n_fft
        low, high = max(start, 0), min(start + len(share), self.samples)
        if high > low:
            out[low:high] = out[low:high] + share[low - start : high - start]


def plan_stft(samples: int, sample_rate: int, sizes: Reconstruction) -> Stft:
    """Scale a manifest's STFT to a sample rate, in octaves from 44.1 and 48 kHz."""
    octaves = round(np.log2(sample_rate / _REFERENCE_RATE_HZ))
    ratio = sizes.n_fft // sizes.hop
    n_fft = max(int(sizes.n_fft * 2.0**octaves), 2 * ratio)
    return Stft(samples, n_fft, n_fft // ratio)
