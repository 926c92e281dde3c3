"""A model that returns the mixture must return it where it was, at any rate and length."""

import numpy as np
import pytest
from test_resampling import band_limited

from bridge.signal.resampling import without_rumble
from tests.support import tiny_bundle

RATE, HOP = tiny_bundle.SAMPLE_RATE, tiny_bundle.HOP
RATES = [44_100, 48_000, 192_000, 16_000, 8_000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.37])
def test_the_target_is_the_mixture_at_zero_lag(engine, rate, seconds):
    samples = round(seconds * rate) | 1  # odd
    mixture = band_limited(samples, 0.4 * min(rate, RATE) / rate)[np.newaxis]
    result = engine.separate(mixture, rate, ["everything"], reconstruct="raw")
    stem = result.stems["everything"]
    assert stem.shape == mixture.shape
    mixture = without_rumble(mixture, rate)
    lags = np.fft.irfft(np.fft.rfft(stem[0]) * np.conj(np.fft.rfft(mixture[0])), samples)
    assert int(np.argmax(lags)) == 0
    inside = np.s_[:, rate // 50 : -(rate // 50)]
    assert np.abs(stem[inside] - mixture[inside]).max() < 1e-3


def lengths(rate):
    window = rate  # one second in this bundle
    hop = -(-HOP * rate // RATE)
    return [1, 2, hop - 1, hop, hop + 1, window - 1, window, window + 1, 2 * window + 17]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["raw", "null", "mask", "wiener"])
@pytest.mark.parametrize("rate", RATES)
def test_every_length_comes_back_whole(engine, rate, mode):
    for samples in lengths(rate):
        mixture = band_limited(max(samples, 64), 0.25 * min(rate, RATE) / rate)[None, :samples]
        mixture = mixture + np.float32(0.01)
        result = engine.separate(mixture, rate, ["everything"], reconstruct=mode)
        stem = result.stems["everything"]
        assert stem.shape == result.residual.shape == mixture.shape
        assert stem.dtype == result.residual.dtype == np.float32
        assert np.isfinite(stem).all()
        if mode in ("mask", "wiener"):
            np.testing.assert_allclose(stem, without_rumble(mixture, rate), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_every_channel_keeps_its_own_signal(engine, channels):
    mixture = np.stack([band_limited(60_000, 0.15, seed) for seed in range(channels)])
    result = engine.separate(mixture, 44_100, ["everything"], reconstruct="mask")
    heard = without_rumble(mixture, 44_100)
    np.testing.assert_allclose(result.stems["everything"], heard, atol=1e-4)


def test_windows_of_one_frame_to_the_whole_clip_agree(engine):
    mixture = band_limited(3 * RATE, 0.4)[np.newaxis]
    stems = [
        engine.separate(
            mixture, RATE, ["half"], window_s=window_s, overlap_s=overlap_s, reconstruct="raw"
        ).stems["half"]
        for window_s, overlap_s in [(5.0, 0.0), (1.0, 0.5), (0.25, 0.2), (0.02, 0.0)]
    ]
    for stem in stems[1:]:
        np.testing.assert_allclose(stem, stems[0], atol=1e-5)
