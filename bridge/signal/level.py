"""Signals that a model hears, at the level it expects."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

SILENCE_PEAK: Final = 1e-8
MAX_GAIN_DB: Final = 60.0


def downmix(mixture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Average the channels of a mixture (channels, samples): (samples,)."""
    return np.asarray(mixture.mean(axis=0), dtype=np.float32)


def is_silent(mono: npt.NDArray[np.float32]) -> bool:
    """Say whether no sample reaches -160 dB relative to full scale."""
    return float(np.abs(mono).max()) < SILENCE_PEAK


def gain_to(mono: npt.NDArray[np.float32], rms_db: float | None) -> float:
    """Compute the gain that brings a signal to an RMS level.

    Parameters
    ----------
    mono : ndarray of float32, shape (samples,)
    rms_db : float or None
        Wanted level in dB relative to full scale; None asks for no change.

    Returns
    -------
    float
        A factor of at most 60 dB, so that the noise of a silent file is not blown up.
    """
    rms = float(np.sqrt(np.mean(np.square(mono, dtype=np.float64))))
    if rms_db is None or rms == 0.0:
        return 1.0
    return float(min(10 ** (rms_db / 20) / rms, 10 ** (MAX_GAIN_DB / 20)))
