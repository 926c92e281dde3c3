"""Change of sample rate with exact lengths and no delay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr


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
    if from_hz == to_hz:
        out = audio.copy()
    else:
        # A sample of silence more than needed, since the resampler rounds its length down.
        needed = -(-wanted * from_hz // to_hz) + 1
        if needed > len(audio):
            audio = np.pad(audio, (0, needed - len(audio)))
        out = soxr.resample(audio, from_hz, to_hz, quality="HQ")
    if len(out) < wanted:
        out = np.pad(out, (0, wanted - len(out)))
    return np.ascontiguousarray(out[:wanted], dtype=np.float32)
