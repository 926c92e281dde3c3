"""Masks split the mixture: the stems sum to it, and each keeps its place in the stereo field."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.bundles.manifest import Reconstruction
from bridge.signal.reconstruct import null_depth_db, plan_masks, remainder, split_by_masks

SIZES = Reconstruction(exponent=1.0, n_fft=2048, hop=512, band_hz=4000.0)


def split(mixture, targets, residual, rate=44_100, sizes=SIZES):
    plan = plan_masks(mixture.shape[1], rate, len(targets), sizes)
    blocks = []
    one_view = (0,) * len(mixture)
    stems = split_by_masks(
        mixture,
        [target[None] for target in targets],
        residual[None],
        one_view,
        plan,
        lambda: blocks.append(1),
    )
    assert len(blocks) == len(plan.blocks)
    return stems


def tone(hz, samples, rate=44_100):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(samples) / rate)).astype(np.float32)


def level_db(signal):
    return 10 * np.log10(np.mean(np.square(signal, dtype=np.float64)) + 1e-30)


@settings(max_examples=25)
@given(
    st.integers(1, 9000),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([44_100, 48_000]),
    st.sampled_from([1.0, 1.5, 2.0]),
)
def test_stems_and_residual_null_against_the_mixture(samples, channels, prompts, rate, exponent):
    rng = np.random.default_rng(samples)
    mixture = rng.uniform(-1, 1, (channels, samples)).astype(np.float32)
    waveforms = rng.normal(size=(prompts + 1, samples)).astype(np.float32)
    sizes = Reconstruction(exponent, 2048, 512, 4000.0)
    stems = split(mixture, list(waveforms[:-1]), waveforms[-1], rate, sizes)
    rest = remainder(mixture, stems)
    assert np.abs(np.sum(stems, axis=0) + rest - mixture).max() < 1e-5
    depth_db = null_depth_db(mixture, stems, rest)
    assert depth_db is None or depth_db < -100


def test_a_panned_target_keeps_its_image():
    samples = 44_100
    target, rest = tone(440, samples), tone(1200, samples)
    mixture = np.stack([0.9 * target + 0.4 * rest, 0.2 * target + 0.8 * rest])
    (stem,) = split(mixture, [target], rest)
    inside = slice(4096, -4096)
    error = stem[:, inside] - np.stack([0.9 * target, 0.2 * target])[:, inside]
    assert level_db(error) < level_db(0.2 * target) - 40


def test_above_the_band_the_mask_of_its_top_decides():
    samples = 44_100
    low, high = tone(3500, samples), tone(9000, samples)
    mixture = (low + high)[np.newaxis]
    silent = np.zeros(samples, np.float32)
    (claimed,) = split(mixture, [low], silent)
    (unclaimed,) = split(mixture, [silent], low)
    inside = slice(4096, -4096)
    assert np.abs(claimed - mixture)[:, inside].max() < 0.01
    assert np.abs(unclaimed)[:, inside].max() < 0.01


def test_a_guide_above_the_top_1500_hz_is_not_listened_to():
    samples = 44_100
    low, high = tone(1000, samples), tone(9000, samples)
    top = tone(3500, samples)
    mixture = (low + top + high)[np.newaxis]
    (stem,) = split(mixture, [low], top)
    spectrum = np.abs(np.fft.rfft(stem[0] * np.hanning(samples)))
    assert spectrum[9000] < 0.05 * spectrum[1000]


def test_silence_in_the_mixture_stays_silence():
    mixture = np.zeros((2, 30_000), np.float32)
    noise = np.random.default_rng(0).normal(size=(2, 30_000)).astype(np.float32)
    (stem,) = split(mixture, [noise[0]], noise[1])
    np.testing.assert_array_equal(stem, 0)


def test_what_the_model_does_not_hear_stays_in_the_residual():
    mixture = np.random.default_rng(0).normal(size=(1, 30_000)).astype(np.float32)
    silent = np.zeros(30_000, np.float32)
    (stem,) = split(mixture, [silent], silent)
    np.testing.assert_array_equal(stem, 0)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_the_exponent_is_applied(exponent):
    """With target and residual of the same shape, the mask is a number one can write down."""
    wave = tone(1000, 20_000)
    sizes = Reconstruction(exponent, 2048, 512, 4000.0)
    (stem,) = split(wave[np.newaxis], [0.75 * wave], 0.25 * wave, sizes=sizes)
    share = 0.75**exponent / (0.75**exponent + 0.25**exponent)
    inside = slice(4096, -4096)
    np.testing.assert_allclose(stem[0, inside], share * wave[inside], atol=2e-4)


def test_the_null_depth_is_the_peak_of_the_difference():
    mixture = np.zeros((2, 10), np.float32)
    residual = np.zeros((2, 10), np.float32)
    assert null_depth_db(mixture, [mixture], residual) is None
    residual[1, 3] = -1e-3
    assert null_depth_db(mixture, [mixture], residual) == pytest.approx(-60, abs=1e-3)
