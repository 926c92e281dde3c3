"""The transform gives back what it was given, at every sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.bundles.manifest import Reconstruction
from bridge.signal.stft import Stft, plan_stft


def there_and_back(signal, stft, frames):
    out = np.zeros_like(signal)
    for first, end in stft.blocks(frames):
        stft.add(stft.synthesise(stft.analyse(signal, first, end)), first, out)
    return out


@given(st.integers(1, 3000), st.sampled_from([(64, 32), (256, 64), (512, 64)]), st.integers(1, 20))
def test_unmodified_spectra_return_the_signal(samples, sizes, frames):
    signal = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    out = there_and_back(signal, Stft(samples, *sizes), frames)
    assert np.abs(out - signal).max() < 1e-6


def test_blocks_do_not_change_the_spectra():
    signal = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    stft = Stft(1000, 128, 32)
    whole = stft.analyse(signal, 0, stft.frames)
    parts = [stft.analyse(signal, first, end) for first, end in stft.blocks(5)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_sine_is_in_its_bin():
    signal = np.sin(2 * np.pi * 16 / 256 * np.arange(4096)).astype(np.float32)
    spectrum = np.abs(Stft(4096, 256, 64).analyse(signal, 20, 21)[0])
    assert int(np.argmax(spectrum)) == 16
    assert spectrum[16] == pytest.approx(256 / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("rate", "n_fft"),
    [(8_000, 512), (16_000, 1024), (44_100, 2048), (48_000, 2048), (96_000, 4096), (192_000, 8192)],
)
def test_sizes_follow_the_rate_in_octaves(rate, n_fft):
    stft = plan_stft(1000, rate, Reconstruction(1.0, 2048, 512, 4000.0))
    assert (stft.n_fft, stft.hop) == (n_fft, n_fft // 4)
