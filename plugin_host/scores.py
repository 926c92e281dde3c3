"""SI-SDR, the score the demonstration prints.

Source: J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey, "SDR - half-baked or well done?",
ICASSP 2019, equation 3.
"""

import numpy as np
from numpy.typing import ArrayLike


def si_sdr_db(estimate: ArrayLike, reference: ArrayLike) -> float:
    """Return the scale-invariant signal-to-distortion ratio of an estimate.

    ``10 log10(|a s|^2 / |a s - e|^2)`` with ``a = <e, s> / |s|^2``, the scale that fits the
    reference best, on signals without their mean.

    Parameters
    ----------
    estimate, reference
        Equal shapes, ``(samples,)`` or ``(channels, samples)``. Channels count as one long signal
        with a single scale, so that an estimate with a wrong stereo image scores lower; the mean
        is taken from each channel.

    Returns
    -------
    Decibels; infinite for a perfect estimate, minus infinity for one that holds nothing of the
    reference.

    Raises
    ------
    ValueError
        The shapes differ, or the reference is silent, for which the ratio is not defined.
    """
    e = np.atleast_2d(np.asarray(estimate, dtype=np.float64))
    s = np.atleast_2d(np.asarray(reference, dtype=np.float64))
    if e.shape != s.shape:
        msg = f"estimate and reference must have one shape, got {e.shape} and {s.shape}"
        raise ValueError(msg)
    e = e - e.mean(axis=-1, keepdims=True)
    s = s - s.mean(axis=-1, keepdims=True)
    energy = float(np.vdot(s, s))
    if energy == 0.0:
        msg = "the reference is silent, so SI-SDR is not defined; compare levels instead"
        raise ValueError(msg)
    target = s * (float(np.vdot(e, s)) / energy)
    distortion = target - e
    with np.errstate(divide="ignore"):
        return float(
            10.0 * np.log10(np.vdot(target, target) / np.float64(np.vdot(distortion, distortion)))
            if np.vdot(target, target) > 0.0
            else -np.inf
        )


def si_sdr_improvement_db(estimate: ArrayLike, reference: ArrayLike, mixture: ArrayLike) -> float:
    """Return how much an estimate improves on the mixture itself, in dB of SI-SDR.

    Parameters and errors as for `si_sdr_db`.
    """
    return si_sdr_db(estimate, reference) - si_sdr_db(mixture, reference)
