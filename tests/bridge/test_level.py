"""The level at which a model hears a mixture."""

import numpy as np
import pytest

from bridge.signal import level


def test_channels_are_averaged():
    mixture = np.array([[1.0, 0.5, 0.0], [0.0, 0.5, -1.0]], np.float32)
    np.testing.assert_array_equal(level.downmix(mixture), np.float32([0.5, 0.5, -0.5]))


@pytest.mark.parametrize("gain", [1e-3, 0.1, 1.0, 10.0])
def test_the_gain_brings_a_signal_to_its_level(gain):
    signal = np.float32(gain) * np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    scaled = level.gain_to(signal, -20.0) * signal
    assert 20 * np.log10(np.sqrt(np.mean(scaled**2))) == pytest.approx(-20, abs=1e-3)


def test_the_gain_is_capped():
    assert level.gain_to(np.full(100, 1e-20, np.float32), 0.0) == pytest.approx(1000)


@pytest.mark.parametrize(("signal", "rms_db"), [(0.0, -20.0), (0.5, None)])
def test_silence_and_models_without_a_level_are_left_alone(signal, rms_db):
    assert level.gain_to(np.full(10, signal, np.float32), rms_db) == 1.0


@pytest.mark.parametrize(("peak", "silent"), [(0.0, True), (9e-9, True), (2e-8, False)])
def test_silence_has_a_threshold(peak, silent):
    assert level.is_silent(np.array([0.0, -peak, 0.0], np.float32)) is silent
