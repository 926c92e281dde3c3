"""The ideal ratio mask, and the error of a stem's place between the channels."""

from __future__ import annotations

import numpy as np

from bridge.bundles.manifest import Reconstruction
from bridge.signal.reconstruct import plan_masks, split_by_masks
from plugin_host.audio_files import Audio

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
