"""The Wiener mode: stems still sum to the mixture, and panned sources come apart further."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.bundles.manifest import Reconstruction
from bridge.signal.reconstruct import plan_masks, remainder, split_by_masks

SIZES = Reconstruction(exponent=1.0, n_fft=2048, hop=512, band_hz=8000.0)
RATE = 44_100


def split(mixture, targets, residual, *, spatial, rate=RATE, threads=1):
    channels = len(mixture) if spatial else 1
    plan = plan_masks(mixture.shape[1], rate, len(targets), SIZES, channels)
    blocks = []
    views = np.atleast_2d(residual)
    of_channel = range(len(mixture)) if len(views) > 1 else (0,) * len(mixture)
    stems = split_by_masks(
        mixture,
        [np.atleast_2d(target) for target in targets],
        views,
        of_channel,
        plan,
        lambda: blocks.append(1),
        threads=threads,
    )
    assert len(blocks) == plan.rounds * len(plan.blocks)
    return stems


def notes(seed, samples, per_s=60):
    """Short decaying tones at random times and pitches: as sparse as music is."""
    rng = np.random.default_rng(seed)
    wave = np.zeros(samples + 8000)
    at = np.arange(8000)
    for start in rng.integers(0, samples, max(1, per_s * samples // RATE)):
        hz = 100 * 2 ** rng.uniform(0, 5)
        tone = np.sin(2 * np.pi * hz / RATE * at + rng.uniform(0, 6)) * np.exp(-at / 2500)
        wave[start : start + 8000] += tone * rng.uniform(0.3, 1)
    wave = wave[:samples]
    return (0.1 * wave / wave.std()).astype(np.float32)


def placed(mono, *gains):
    return np.asarray(gains, np.float32)[:, None] * mono


def error_db(stem, truth):
    return 10 * np.log10(np.sum((stem - truth) ** 2) / np.sum(truth**2))


def blurred(a, b, share):
    """A model's answer in which some of the neighbour is left."""
    return (1 - share) * a + share * b


@settings(max_examples=25)
@given(
    st.integers(1, 9000),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([44_100, 48_000]),
)
def test_stems_and_residual_null_against_the_mixture(samples, channels, prompts, rate):
    rng = np.random.default_rng(samples)
    mixture = rng.uniform(-1, 1, (channels, samples)).astype(np.float32)
    waveforms = rng.normal(size=(prompts + 1, samples)).astype(np.float32)
    stems = split(mixture, list(waveforms[:-1]), waveforms[-1], spatial=True, rate=rate)
    assert all(np.isfinite(stem).all() for stem in stems)
    rest = remainder(mixture, stems)
    assert np.abs(np.sum(stems, axis=0) + rest - mixture).max() < 1e-5


def test_panned_sources_come_apart_where_masks_leave_the_neighbour():
    samples = 3 * RATE
    left, right = notes(0, samples), notes(1, samples)
    sources = [placed(left, 0.95, 0.3), placed(right, 0.4, 0.9)]
    mixture = np.sum(sources, axis=0)
    target, rest = blurred(left, right, 0.2), blurred(right, left, 0.2)
    (masked,) = split(mixture, [target], rest, spatial=False)
    (filtered,) = split(mixture, [target], rest, spatial=True)
    assert error_db(filtered, sources[0]) < error_db(masked, sources[0]) - 6


def test_answers_for_each_channel_are_better_than_one_for_the_mean():
    """In each channel the model leaves a share of what the neighbour adds to that channel."""
    samples = 3 * RATE
    left, right = notes(0, samples), notes(1, samples)
    sources = [placed(left, 0.95, 0.2), placed(right, 0.3, 0.9)]
    mixture = np.sum(sources, axis=0)
    target, rest = (blurred(*pair, 0.3) for pair in (sources, sources[::-1]))
    for spatial, gained_db in ((False, 0.5), (True, 1.0)):
        (once,) = split(mixture, [target.mean(axis=0)], rest.mean(axis=0), spatial=spatial)
        (twice,) = split(mixture, [target], rest, spatial=spatial)
        assert error_db(twice, sources[0]) < error_db(once, sources[0]) - gained_db


def test_three_sources_of_three_places_come_apart_together():
    samples = 2 * RATE
    monos = [notes(seed, samples) for seed in range(3)]
    gains = [(1.0, 0.1), (0.7, 0.7), (0.1, 1.0)]
    sources = [placed(mono, *gain) for mono, gain in zip(monos, gains, strict=True)]
    mixture = np.sum(sources, axis=0)
    answers = [blurred(mono, sum(monos) - mono, 0.15) for mono in monos]
    masked = split(mixture, answers[:2], answers[2], spatial=False)
    filtered = split(mixture, answers[:2], answers[2], spatial=True)
    for truth, plain, better in zip(sources, masked, filtered, strict=False):
        assert error_db(better, truth) < error_db(plain, truth) - 1


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_without_places_it_is_the_ratio_mask(channels):
    """Every source in the middle: nothing to learn, so the gains are those of the masks."""
    samples = 20_000
    a, b = notes(3, samples), notes(4, samples)
    mixture = np.tile(a + b, (channels, 1))
    (masked,) = split(mixture, [a], b, spatial=False)
    (filtered,) = split(mixture, [a], b, spatial=True)
    np.testing.assert_allclose(filtered, masked, atol=2e-3)


def test_a_source_in_one_channel_of_eight_is_taken_from_there():
    samples = RATE
    voice, bed = notes(5, samples), notes(6, samples)
    gains = np.full(8, 0.3)
    gains[2] = 0.0
    mixture = placed(bed, *gains) + placed(voice, *np.eye(8)[2])
    (stem,) = split(mixture, [blurred(voice, bed, 0.1)], bed, spatial=True)
    assert error_db(stem[2], voice) < -15
    assert np.sum(stem[0] ** 2) < 0.01 * np.sum(stem[2] ** 2)


def test_silence_stays_silence_and_the_unclaimed_stays_in_the_residual():
    wave = notes(7, 30_000)
    silent = np.zeros_like(wave)
    (stem,) = split(np.zeros((2, 30_000), np.float32), [wave], silent, spatial=True)
    np.testing.assert_array_equal(stem, 0)
    (stem,) = split(placed(wave, 0.9, 0.4), [silent], silent, spatial=True)
    np.testing.assert_array_equal(stem, 0)


def test_a_source_that_moves_is_followed():
    """Half a minute on the left, half a minute on the right: each half has its own place."""
    samples = 60 * 8000
    voice, bed = notes(8, samples), notes(9, samples)
    right = np.arange(samples) >= samples // 2
    moving = np.where(right, placed(voice, 0.2, 1.0), placed(voice, 1.0, 0.2))
    mixture = (moving + placed(bed, 0.7, 0.7)).astype(np.float32)
    target, rest = blurred(voice, bed, 0.2), blurred(bed, voice, 0.2)
    (masked,) = split(mixture, [target], rest, spatial=False, rate=8000)
    (filtered,) = split(mixture, [target], rest, spatial=True, rate=8000)
    for part in (slice(0, samples // 4), slice(-samples // 4, None)):
        improved = error_db(filtered[:, part], moving[:, part])
        assert improved < error_db(masked[:, part], moving[:, part]) - 4


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("spatial", [False, True])
def test_threads_change_no_bit(channels, spatial):
    a, b = notes(1, 6 * RATE), notes(2, 6 * RATE)
    gains = np.linspace(0.2, 0.9, channels)
    mixture = placed(a, *gains) + placed(b, *gains[::-1])
    answers = [blurred(a, b, 0.2)], blurred(b, a, 0.2)
    alone, together = (
        split(mixture, *answers, spatial=spatial, threads=threads)[0] for threads in (1, 3)
    )
    assert np.array_equal(alone, together)
