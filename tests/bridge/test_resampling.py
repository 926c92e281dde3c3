"""Resampling keeps time: exact lengths, no delay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.signal.resampling import resample, resampled_length

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 88_200, 96_000, 192_000]


def band_limited(samples, top, seed=0):
    """Noise (samples,) below `top` cycles per sample."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=samples))
    spectrum[int(top * samples) :] = 0
    noise = np.fft.irfft(spectrum, samples)
    return (0.3 * noise / np.abs(noise).max()).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_there_and_back_is_the_same_signal_at_zero_lag(rate):
    model_rate = 16_000
    samples = rate // 2 + 13
    signal = band_limited(samples, 0.4 * min(rate, model_rate) / rate)
    there = resample(signal, rate, model_rate)
    back = resample(there, model_rate, rate, samples)
    assert back.shape == signal.shape
    lags = np.fft.irfft(np.fft.rfft(back) * np.conj(np.fft.rfft(signal)))
    assert int(np.argmax(lags)) == 0
    inside = slice(rate // 50, -rate // 50)  # the filter's length from each end
    assert np.abs(back[inside] - signal[inside]).max() < 1e-3


@pytest.mark.parametrize("rate", RATES)
def test_a_sine_keeps_its_phase(rate):
    seconds = np.arange(rate // 2) / rate
    tone = np.sin(2 * np.pi * 1000 * seconds).astype(np.float32)
    out = resample(tone, rate, 16_000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(out)) / 16_000)
    assert np.abs(out[500:-500] - expected[500:-500]).max() < 1e-3


@given(st.integers(1, 3000), st.sampled_from(RATES), st.sampled_from(RATES))
def test_lengths_are_exact(samples, from_hz, to_hz):
    signal = np.ones(samples, np.float32)
    out = resample(signal, from_hz, to_hz)
    assert len(out) == resampled_length(samples, from_hz, to_hz)
    assert len(out) * from_hz >= samples * to_hz
    back = resample(out, to_hz, from_hz, samples)
    assert back.shape == (samples,)
    assert back.dtype == np.float32
    assert np.isfinite(back).all()


def test_the_same_rate_is_the_same_signal():
    signal = band_limited(100, 0.4)
    np.testing.assert_array_equal(resample(signal, 48_000, 48_000), signal)


def test_the_result_is_never_the_callers_own_array():
    signal = band_limited(100, 0.4)
    assert not np.shares_memory(resample(signal, 48_000, 48_000), signal)
