"""What a model hears of a mixture: no offset, no rumble, a level that follows the music."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.signal.resampling import MAX_RISE_DB, downmix, gain_to, is_silent, without_rumble

RATE = 16_000


def noise(seconds, gain=1.0, seed=0):
    samples = round(seconds * RATE)
    return np.float32(gain) * np.random.default_rng(seed).normal(size=samples).astype(np.float32)


def rms_db(signal):
    return 20 * np.log10(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def test_channels_are_averaged():
    mixture = np.array([[1.0, 0.5, 0.0], [0.0, 0.5, -1.0]], np.float32)
    np.testing.assert_array_equal(downmix(mixture), np.float32([0.5, 0.5, -0.5]))


@pytest.mark.parametrize("gain", [1e-3, 0.1, 1.0, 10.0])
def test_the_gain_brings_a_signal_to_its_level(gain):
    signal = noise(1.0, gain)
    curve = gain_to(signal, -20.0, RATE)[:]
    assert np.ptp(curve) == 0
    assert rms_db(curve * signal) == pytest.approx(-20, abs=1e-3)


def test_the_gain_is_capped():
    quiet = np.full(100, 1e-20, np.float32)
    for follow_s in (None, 0.1):
        assert gain_to(quiet, 0.0, RATE, follow_s)[:] == pytest.approx(np.full(100, 1000))


@pytest.mark.parametrize(("signal", "rms_db"), [(0.0, -20.0), (0.5, None)])
def test_silence_and_models_without_a_level_are_left_alone(signal, rms_db):
    assert np.all(gain_to(np.full(10, signal, np.float32), rms_db, RATE, 2.0)[:] == 1.0)


@pytest.mark.parametrize(("peak", "silent"), [(0.0, True), (9e-9, True), (2e-8, False)])
def test_silence_has_a_threshold(peak, silent):
    assert is_silent(np.array([0.0, -peak, 0.0], np.float32)) is silent


@pytest.mark.parametrize("softer_db", [10, 26, 35])
def test_a_soft_passage_is_heard_like_a_loud_one(softer_db):
    soft = 10 ** (-softer_db / 20)
    signal = np.concatenate([noise(10, seed=1), noise(10, soft, seed=2), noise(10, seed=3)])
    curve = gain_to(signal, -20.0, RATE, 2.0)[:]
    for start in (2, 12, 22):
        part = slice(start * RATE, (start + 6) * RATE)
        assert rms_db(curve[part] * signal[part]) == pytest.approx(-20, abs=1.0)
    # Smooth: within a millisecond it moves by less than anybody hears.
    steps_db = 20 * np.log10(curve[16:] / curve[:-16])
    assert np.abs(steps_db).max() < 0.5


def test_a_pause_is_raised_by_no_more_than_the_limit():
    signal = np.concatenate([noise(5), noise(5, 1e-5), np.zeros(5 * RATE, np.float32)])
    curve = gain_to(signal, -20.0, RATE, 2.0)[:]
    whole = gain_to(signal, -20.0, RATE)[:][0]
    assert 20 * np.log10(curve.max() / whole) == pytest.approx(MAX_RISE_DB, abs=0.01)


@given(seconds=st.floats(0.001, 9), follow_s=st.floats(0.01, 20), gain=st.floats(1e-6, 10))
@settings(max_examples=30)
def test_the_curve_is_finite_and_as_long_as_the_signal(seconds, follow_s, gain):
    signal = noise(max(seconds, 1 / RATE), gain)
    curve = gain_to(signal, -20.0, RATE, follow_s)[:]
    assert curve.shape == signal.shape
    assert curve.dtype == np.float32
    assert np.all(np.isfinite(curve))
    assert np.all(curve > 0)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000, 96_000])
def test_offset_and_rumble_are_taken_off_and_the_rest_stays(rate):
    time_s = np.arange(6 * rate) / rate
    music = (0.3 * np.sin(2 * np.pi * 30 * time_s) + 0.1 * np.sin(2 * np.pi * 1000 * time_s))[None]
    rumble = (0.25 + 0.5 * np.sin(2 * np.pi * 7 * time_s + 1))[None]
    heard = without_rumble((music + rumble).astype(np.float32), rate)
    error = (heard - music)[:, rate:-rate]
    assert 20 * np.log10(np.abs(error).max()) < -60


@pytest.mark.parametrize("samples", [1, 2, 999, RATE, RATE + 1])
def test_a_constant_is_silence_however_long(samples):
    for constant in (0.1, -1.0):
        mixture = np.full((2, samples), constant, np.float32)
        assert is_silent(without_rumble(mixture, RATE).ravel())
