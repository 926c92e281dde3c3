"""What the model hears: every channel by itself, each distinct signal once, silence never."""

import numpy as np
import pytest

from bridge import Engine, ModelError
from bridge.signal.resampling import count_views, listen_to, without_rumble
from tests.support import tiny_bundle

RATE = 8000


def noise(seed, samples=4000):
    return 0.1 * np.random.default_rng(seed).normal(size=samples).astype(np.float32)


def test_each_channel_is_heard_by_itself_or_all_as_their_mean():
    mixture = np.stack([noise(0), noise(1)])
    channels = listen_to(mixture, "channels")
    np.testing.assert_array_equal(channels.signals, mixture)
    assert channels.of_channel == (0, 1)
    mean = listen_to(mixture, "mean")
    np.testing.assert_allclose(mean.signals, mixture.mean(axis=0, keepdims=True), atol=1e-8)
    assert mean.of_channel == (0, 0)
    assert (count_views(2, "channels"), count_views(2, "mean")) == (2, 1)


def test_equal_channels_are_heard_once_and_silent_ones_never():
    left, right, silence = noise(0), noise(1), np.zeros(4000, np.float32)
    views = listen_to(np.stack([left, silence, right, left]), "channels")
    np.testing.assert_array_equal(views.signals, np.stack([left, right]))
    assert views.of_channel == (0, 0, 1, 0)
    found = np.stack([noise(2), noise(3)])
    np.testing.assert_array_equal(views.to_channels(found), found[[0, 0, 1, 0]])


@pytest.mark.parametrize("listening", ["channels", "mean"])
def test_of_silence_nothing_is_heard(listening):
    assert len(listen_to(np.zeros((3, 100), np.float32), listening).signals) == 0


def test_only_the_mean_misses_what_is_in_opposite_phase():
    wave = noise(0)
    mixture = np.stack([wave, -wave])
    assert len(listen_to(mixture, "mean").signals) == 0
    np.testing.assert_array_equal(listen_to(mixture, "channels").signals, mixture)


@pytest.mark.parametrize("reconstruct", ["raw", "null", "mask"])
def test_a_channel_comes_out_as_it_does_alone(engine, reconstruct):
    """Two channels that have nothing in common, so that neither may change the other."""
    left, right = noise(0), noise(1)
    asked = {"reconstruct": reconstruct, "listen": "channels", "steps": 3}
    both = engine.separate(np.stack([left, right]), RATE, ["half", "everything"], **asked)
    for channel, signal in enumerate((left, right)):
        alone = engine.separate(signal[None], RATE, ["half", "everything"], **asked)
        for name, stem in alone.stems.items():
            np.testing.assert_allclose(both.stems[name][channel], stem[0], atol=1e-6)
    assert both.report.listen == "channels"


def test_raw_stems_of_a_stereo_mixture_are_stereo(engine):
    mixture = np.stack([noise(0), 0.3 * noise(1)])
    raw = engine.separate(mixture, RATE, ["half"], reconstruct="raw", listen="channels")
    mono = engine.separate(mixture, RATE, ["half"], reconstruct="raw", listen="mean")
    assert not np.array_equal(raw.stems["half"][0], raw.stems["half"][1])
    np.testing.assert_array_equal(mono.stems["half"][0], mono.stems["half"][1])


def test_candidates_are_chosen_over_all_channels(engine):
    mixture = np.stack([noise(0), noise(1)])
    result = engine.separate(mixture, RATE, ["half"], candidates=3, listen="channels")
    (selection,) = result.report.selections
    assert selection.ranker == "agreement"
    assert 0 <= selection.candidate < 3


def test_beside_a_channel_is_the_other_of_its_pair():
    left, right, other, silence = noise(0), noise(1), noise(2), np.zeros(4000, np.float32)

    def beside(*channels):
        return listen_to(np.stack(channels), "channels").beside

    assert beside(left, right, other) == (1, 0, 2)
    assert beside(left, left) == (0,)
    assert beside(left, silence, right, other) == (0, 2, 1)
    assert beside(left, right, right, other) == (1, 0, 1)  # the first place of an equal one counts
    assert listen_to(np.stack([left, right]), "mean").beside == (0,)


def test_a_model_is_told_of_the_channel_beside_at_the_level_of_what_it_hears(tmp_path):
    """This network answers with half of what is beside, so levels have to match exactly."""
    bundle = tiny_bundle.build(tmp_path / "tiny", tiny_bundle.Tiny(stereo=True))
    rate = tiny_bundle.SAMPLE_RATE
    mixture = np.stack([noise(0), 0.1 * noise(1)])
    heard = without_rumble(mixture, rate)
    with Engine(bundle, threads=1) as engine:
        asked = {"reconstruct": "raw", "listen": "channels"}
        half = engine.separate(mixture, rate, ["half"], **asked).stems["half"]
        np.testing.assert_allclose(half, 0.5 * heard[::-1], atol=1e-6)
        mono = engine.separate(mixture[:1], rate, ["half"], **asked).stems["half"]
        np.testing.assert_allclose(mono, 0.5 * heard[:1], atol=1e-6)


def test_guidance_lies_between_what_is_heard_alone_and_what_is_told(tmp_path):
    """Alone this network answers with half of what it hears, told with half of what is beside."""
    guided = tiny_bundle.Tiny(stereo=True, beside_guidance=0.25)
    bundle = tiny_bundle.build(tmp_path / "tiny", guided)
    mixture = np.stack([noise(0), 0.1 * noise(1)])
    heard = without_rumble(mixture, tiny_bundle.SAMPLE_RATE)
    with Engine(bundle, threads=1) as engine:
        found = engine.separate(
            mixture, tiny_bundle.SAMPLE_RATE, ["half"], reconstruct="raw", listen="channels"
        )
    expected = 0.5 * (0.75 * heard + 0.25 * heard[::-1])
    np.testing.assert_allclose(found.stems["half"], expected, atol=1e-6)


def test_guidance_without_a_channel_beside_is_a_fault(tmp_path):
    with pytest.raises(ModelError, match="beside_guidance"):
        tiny_bundle.build(tmp_path / "tiny", tiny_bundle.Tiny(beside_guidance=0.5))
