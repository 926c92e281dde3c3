"""SDR as the field's own libraries compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from bridge.errors import InputError
from plugin_host.audio_files import Audio

SdrMeasure = Literal["bss", "museval"]

#: ``(estimate, truth, sample_rate)``, both (channels, samples), to decibels.
Sdr = Callable[[Audio, Audio, int], float | None]

_FILTER_TAPS = 512


def load_sdr(measure: SdrMeasure) -> Sdr:
    """Give the function that computes an SDR.

    Parameters
    ----------
    measure : {"bss", "museval"}
        ``bss`` is BSS Eval's SDR by fast-bss-eval: a distortion filter of 512 taps is allowed, and
        the channels count as one signal, one after the other. ``museval`` is MUSDB's: the median
        over frames of 1 s of BSS Eval v4's, where no filter is allowed; many times slower.

    Raises
    ------
    InputError
        If the library is not installed.
    """
    try:
        return _load_museval() if measure == "museval" else _load_fast_bss_eval()
    except ImportError as error:
        raise InputError(
            f"SDR as {measure} needs {error.name}; install it with: pip install 'stembridge[eval]'"
        ) from error


def _load_fast_bss_eval() -> Sdr:
    import fast_bss_eval

    def sdr(estimate: Audio, truth: Audio, sample_rate: int) -> float | None:
        del sample_rate
        # Silence in between keeps the filter from reaching from one channel into the next.
        gap = ((0, 0), (0, _FILTER_TAPS))
        e, s = (np.pad(x.astype(np.float64), gap).reshape(1, -1) for x in (estimate, truth))
        if not e.any() or not s.any():
            return None
        return float(fast_bss_eval.sdr(s, e, filter_length=_FILTER_TAPS)[0])

    return sdr


def _load_museval() -> Sdr:
    try:
        from museval.metrics import bss_eval
    except RuntimeError as error:
        # museval imports a decoder of compressed stems, which looks for ffmpeg at once.
        raise InputError(f"museval cannot start ({error}); install ffmpeg") from error

    def sdr(estimate: Audio, truth: Audio, sample_rate: int) -> float | None:
        # Its SDR is of one source alone, whatever the others are.
        frames = bss_eval(
            truth.T[None].astype(np.float64),
            estimate.T[None].astype(np.float64),
            window=sample_rate,
            hop=sample_rate,
            compute_permutation=False,
            framewise_filters=False,
        )[0]
        known = frames[np.isfinite(frames)]
        return float(np.median(known)) if known.size else None

    return sdr
