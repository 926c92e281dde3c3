"""Scores against the true stems, the error of the stereo image, the ideal mask's answer.

Source of SI-SDR and SI-SAR: J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey, "SDR - half-baked
or well done?", ICASSP 2019, equation 3 and section 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bridge.bundles.manifest import Reconstruction
from bridge.errors import InputError
from bridge.signal.reconstruct import plan_masks, split_by_masks
from onnx_export.evaluation.cases import Audio

#: Transform, step and window in samples, at any rate.
_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
#: What `stft_distance` needs at least.
SHORTEST_SAMPLES = 1024
_BLEED_FFT, _BLEED_HOP, _BLEED_BANDS, _BLEED_RANGE_DB = 4096, 1024, 512, 80.0
_BLOCK_FRAMES = 4096


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
    e, s = _centred(estimate, reference)
    target = s * (float(np.vdot(e, s)) / float(np.vdot(s, s)))
    distortion = target - e
    with np.errstate(divide="ignore"):
        return float(
            10.0 * np.log10(np.vdot(target, target) / np.float64(np.vdot(distortion, distortion)))
            if np.vdot(target, target) > 0.0
            else -np.inf
        )


def si_sar_db(estimate: ArrayLike, reference: ArrayLike, others: Sequence[ArrayLike]) -> float:
    """Return the scale-invariant signal-to-artefacts ratio of an estimate.

    ``10 log10(|a s|^2 / |e_artif|^2)``: of what `si_sdr_db` calls distortion, only that part
    counts which no sum of the true sources gives. Le Roux et al., section 2.

    Parameters
    ----------
    estimate, reference
        As for `si_sdr_db`.
    others
        The other true sources of the mixture, each of the reference's shape; silent ones are
        left out.

    Returns
    -------
    Decibels; infinite for any sum of the sources, such as the mixture.

    Raises
    ------
    ValueError
        The shapes differ, or the reference is silent.
    """
    e, s = _centred(estimate, reference)
    sources = [s.ravel()]
    for other in others:
        source = _centred(other, reference)[0].ravel()
        if source.any():
            sources.append(source)
    basis = np.stack(sources)
    flat = e.ravel()
    # Normal equations of as many unknowns as there are sources; alike ones share their part.
    weights = np.linalg.lstsq(basis @ basis.T, basis @ flat, rcond=1e-12)[0]
    artefacts = flat - weights @ basis
    target = s * (float(np.vdot(e, s)) / float(np.vdot(s, s)))
    power = float(np.vdot(artefacts, artefacts))
    # What rounding of float32, or of 24 bits, leaves of a sum of sources is no artefact.
    if power <= 1e-12 * float(np.vdot(flat, flat)):
        return np.inf if target.any() else -np.inf
    with np.errstate(divide="ignore"):
        return float(10.0 * np.log10(np.vdot(target, target) / np.float64(power)))


def stft_distance(estimate: ArrayLike, reference: ArrayLike) -> float:
    """Return the multi-resolution STFT distance of an estimate, 0 for a perfect one.

    The mean over three resolutions, and over the channels, of spectral convergence (the norm of
    the difference of the magnitudes over that of the reference's) and of the mean absolute
    difference of the logarithms of the magnitudes. R. Yamamoto, E. Song, J.-M. Kim, "Parallel
    WaveGAN", ICASSP 2020, with its sizes; as the loss ``MultiResolutionSTFTLoss`` of auraloss.

    Parameters
    ----------
    estimate, reference
        Equal shapes, ``(samples,)`` or ``(channels, samples)``, of more than 1024 samples.

    Raises
    ------
    ValueError
        The shapes differ, or a channel of the reference is silent.
    """
    e, s = _alike(estimate, reference)
    distances = []
    for n_fft, hop, length in _RESOLUTIONS:
        window = np.zeros(n_fft, np.float32)
        start = (n_fft - length) // 2
        window[start : start + length] = _hann(length)
        for e_channel, s_channel in zip(e, s, strict=True):
            error = power = logarithms = 0.0
            bins = 0
            blocks = zip(
                _magnitudes(e_channel, window, hop, "reflect"),
                _magnitudes(s_channel, window, hop, "reflect"),
                strict=True,
            )
            for mine, true in (np.maximum(pair, 1e-4) for pair in blocks):
                error += float(np.sum((true - mine) ** 2, dtype=np.float64))
                power += float(np.sum(true**2, dtype=np.float64))
                logarithms += float(np.sum(np.abs(np.log(true / mine)), dtype=np.float64))
                bins += true.size
            distances.append(math.sqrt(error / power) + logarithms / bins)
    return float(np.mean(distances))


def bleedless_and_fullness(
    estimate: ArrayLike, reference: ArrayLike, sample_rate: int
) -> tuple[float, float]:
    """Return how free of other sounds an estimate is, and how much of its own sound it has.

    ``100 / (1 + d)``, where ``d`` is the mean excess, or lack, of level in dB over those points
    of a Mel spectrogram of 512 bands in which there is one; levels end 80 dB below the highest of
    their signal. As "bleedless" and "fullness" of Music-Source-Separation-Training.

    Parameters
    ----------
    estimate, reference
        Equal shapes, ``(samples,)`` or ``(channels, samples)``.
    sample_rate
        In Hz.

    Returns
    -------
    bleedless, fullness
        0 to 100, higher is better.
    """
    e, s = _alike(estimate, reference)
    bands = _mel_bands(sample_rate)
    window = _hann(_BLEED_FFT)

    def levels_db(signal: NDArray[np.float32]) -> NDArray[np.float32]:
        mel = np.stack(
            [
                np.concatenate(
                    [
                        magnitudes @ bands
                        for magnitudes in _magnitudes(channel, window, _BLEED_HOP, "constant")
                    ]
                )
                for channel in signal
            ]
        )
        decibels = np.asarray(20 * np.log10(np.maximum(mel, 1e-10)), np.float32)
        return np.maximum(decibels, np.float32(decibels.max() - _BLEED_RANGE_DB))

    difference = levels_db(e) - levels_db(s)
    over, under = difference[difference > 0], difference[difference < 0]
    bleed_db = float(over.mean(dtype=np.float64)) if over.size else 0.0
    lack_db = -float(under.mean(dtype=np.float64)) if under.size else 0.0
    return 100 / (1 + bleed_db), 100 / (1 + lack_db)


def _alike(
    estimate: ArrayLike, reference: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    e = np.atleast_2d(np.asarray(estimate, dtype=np.float32))
    s = np.atleast_2d(np.asarray(reference, dtype=np.float32))
    if e.shape != s.shape:
        raise ValueError(f"estimate and reference must have one shape, got {e.shape} and {s.shape}")
    return e, s


def _centred(
    signal: ArrayLike, reference: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check two signals, and take the mean from each of their channels."""
    e = np.atleast_2d(np.asarray(signal, dtype=np.float64))
    s = np.atleast_2d(np.asarray(reference, dtype=np.float64))
    if e.shape != s.shape:
        raise ValueError(f"estimate and reference must have one shape, got {e.shape} and {s.shape}")
    e = e - e.mean(axis=-1, keepdims=True)
    s = s - s.mean(axis=-1, keepdims=True)
    if not s.any():
        raise ValueError(
            "the reference is silent, so the ratio is not defined; compare levels instead"
        )
    return e, s


def _hann(length: int) -> NDArray[np.float32]:
    """Return a periodic Hann window."""
    return np.asarray(0.5 - 0.5 * np.cos(np.arange(length) * (2 * np.pi / length)), np.float32)


def _magnitudes(
    signal: NDArray[np.float32],
    window: NDArray[np.float32],
    hop: int,
    padding: Literal["reflect", "constant"],
) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of magnitudes (frames, bins) of a signal (samples,), frames centred."""
    padded = np.pad(signal, len(window) // 2, mode=padding)
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::hop]
    for first in range(0, len(frames), _BLOCK_FRAMES):
        yield np.abs(np.fft.rfft(frames[first : first + _BLOCK_FRAMES] * window)).astype(np.float32)


@functools.cache
def _mel_bands(sample_rate: int) -> NDArray[np.float32]:
    """Weights (bins, bands) of Slaney's Mel bands, each of unit area (M. Slaney, "Auditory
    Toolbox", 1998: linear up to 1 kHz, logarithmic above).
    """  # noqa: D205
    top = _to_mel(np.array(sample_rate / 2))
    edges = _from_mel(np.linspace(0.0, float(top), _BLEED_BANDS + 2))
    bins = np.linspace(0.0, sample_rate / 2, _BLEED_FFT // 2 + 1)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2])), np.float32)


def _to_mel(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    high = 15 + 27 * np.log(np.maximum(frequency_hz, 1.0) / 1000) / np.log(6.4)
    return np.where(frequency_hz < 1000, frequency_hz * 3 / 200, high)


def _from_mel(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


#: A channel this much weaker than the other says nothing about the image.
_IMAGE_RANGE_DB = 20.0
_SILENT = 1e-10


def ideal_ratio_mask(mixture: Audio, stem: Audio, sample_rate: int) -> Audio:
    """Split each channel of a mixture by the true powers of a stem and the rest.

    The upper end of what masks reach (Wang, Narayanan & Wang 2014, "On training targets for
    supervised speech separation").
    """
    sizes = Reconstruction(exponent=2.0, n_fft=2048, hop=512, band_hz=sample_rate / 2)
    plan = plan_masks(mixture.shape[1], sample_rate, 1, sizes)
    channels = [
        split_by_masks(m[None], [s[None]], (m - s)[None], (0,), plan, lambda: None)[0][0]
        for m, s in zip(mixture, stem, strict=True)
    ]
    return np.stack(channels)


def image_error_db(estimate: Audio, truth: Audio) -> float | None:
    """Error of the left-to-right level difference, or None where a side is all but silent."""
    if len(truth) != 2:
        return None
    true_power = np.mean(truth.astype(np.float64) ** 2, axis=1)
    power = np.mean(estimate.astype(np.float64) ** 2, axis=1)
    if min(true_power.min(), power.min()) < _SILENT:
        return None
    true_db = 10 * np.log10(true_power[0] / true_power[1])
    if abs(true_db) > _IMAGE_RANGE_DB:
        return None
    return float(abs(10 * np.log10(power[0] / power[1]) - true_db))


SdrMeasure = Literal["bss", "museval"]

#: ``(estimate, truth, sample_rate)``, both (channels, samples), to decibels.
Sdr = Callable[[Audio, Audio, int], float | None]

#: ``(mixture, estimate, truth, sample_rate)``, all (channels, samples), to its own scale.
LogWmse = Callable[[Audio, Audio, Audio, int], float | None]

_FILTER_TAPS = 512


def load_log_wmse() -> LogWmse:
    """Return the function that computes logWMSE, by log-wmse-audio-quality.

    The logarithm of a mean square error that is weighted as the ear weighs frequencies, and
    relative to the mixture; defined for silent stems too.

    Raises
    ------
    InputError
        If the library is not installed.
    """
    try:
        from log_wmse_audio_quality import calculate_log_wmse
    except ImportError as error:
        raise InputError(
            f"logWMSE needs {error.name}; install it with: pip install 'stembridge[eval]'"
        ) from error

    def log_wmse(mixture: Audio, estimate: Audio, truth: Audio, sample_rate: int) -> float:
        return float(calculate_log_wmse(mixture, estimate, truth, sample_rate))

    return log_wmse


def load_sdr(measure: SdrMeasure) -> Sdr:
    """Return the function that computes an SDR.

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
