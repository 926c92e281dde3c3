"""Networks with a closed list of stems, through the same engine as any other model."""

import threading

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import Cancelled, Engine, InputError, ModelError, Prompt, Span
from bridge.bundles.bundle import find_bundle, load_manifest, verify_files
from bridge.signal.resampling import without_rumble
from tests.support import named_bundle, tiny_bundle
from tests.support.named_bundle import RATE
from tests.support.sidecars import sidecar


def noise(seconds, channels=2, rate=RATE, seed=0):
    samples = max(1, round(seconds * rate))
    made = 0.1 * np.random.default_rng(seed).normal(size=(channels, samples))
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return named_bundle.build(tmp_path_factory.mktemp("named") / "named")


@pytest.fixture(scope="module")
def named(directory):
    with Engine(directory, threads=1) as engine:
        yield engine


@given(seconds=st.floats(0.0, 4.3), channels=st.integers(1, 5), overlap_s=st.floats(0.0, 0.95))
@settings(max_examples=25)
def test_any_length_and_number_of_channels_comes_back_as_the_network_says(
    named, seconds, channels, overlap_s
):
    mixture = noise(seconds, channels)
    result = named.separate(mixture, RATE, ["most", "little"], overlap_s=overlap_s)
    heard = without_rumble(mixture, RATE)
    np.testing.assert_allclose(result.stems["most"], 0.75 * heard, atol=2e-4)
    np.testing.assert_allclose(result.stems["little"], 0.25 * heard, atol=2e-4)
    total = result.stems["most"] + result.stems["little"] + result.residual
    np.testing.assert_allclose(total, mixture, atol=1e-6)


def test_channels_are_heard_in_pairs_and_a_single_one_twice(named):
    mixture = noise(1.5, channels=3)
    left, right, alone = without_rumble(mixture, RATE)
    sides = named.separate(mixture, RATE, ["sides"]).stems["sides"]
    np.testing.assert_allclose(sides[0], (left - right) / 2, atol=1e-5)
    np.testing.assert_allclose(sides[1], (right - left) / 2, atol=1e-5)
    np.testing.assert_allclose(sides[2], 0 * alone, atol=1e-5)


@pytest.mark.parametrize("mode", ["raw", "null", "mask", "wiener"])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_every_reconstruction_works_at_any_rate(named, mode, rate):
    mixture = noise(2.2, rate=rate)
    result = named.separate(mixture, rate, ["most"], reconstruct=mode)
    stem = result.stems["most"]
    assert stem.shape == result.residual.shape == mixture.shape
    assert result.report.reconstruct == mode
    assert result.report.windows == 3
    if mode in ("mask", "wiener"):  # the network's band and all above it
        error = (stem - 0.75 * mixture)[:, 2000:-2000]
        assert np.abs(error).max() < 0.05 * np.abs(mixture).max()


def test_words_are_taken_as_people_write_them(named):
    mixture = noise(0.5)
    expected = named.separate(mixture, RATE, ["most"]).stems["most"]
    for text in ("Most", " The  most of it", "a MOST"):
        stem = named.separate(mixture, RATE, [Prompt(text, "most")]).stems["most"]
        np.testing.assert_array_equal(stem, expected)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["drums"], {}, r"no stem 'drums'; it knows: most, the most of it; little; sides"),
        (["most", "the most of it"], {}, "mean the same stem"),
        (["most"], {"judge": True}, "no judge"),
        (["most"], {"watermark": 3}, "no watermark"),
        (["most"], {"window_s": 0.5}, r"are 1 s long, not 0\.5 s"),
    ],
)
def test_what_the_model_does_not_have_is_refused(named, prompts, options, message):
    with pytest.raises(InputError, match=message):
        named.separate(noise(0.5), RATE, prompts, **options)


def test_spans_silence_what_lies_outside_of_them(named):
    mixture = noise(3.0)
    heard = without_rumble(mixture, RATE)
    for spans, sounds in (
        ([Span(1.0, 2.0)], (1.0, 2.0)),
        ([Span(0.0, 1.0, "-"), Span(2.0, 3.0, "-")], (1.0, 2.0)),
    ):
        result = named.separate(mixture, RATE, [Prompt("most", spans=spans)])
        stem = result.stems["most"]
        inside = slice(round((sounds[0] + 0.02) * RATE), round((sounds[1] - 0.02) * RATE))
        np.testing.assert_allclose(stem[:, inside], 0.75 * heard[:, inside], atol=2e-4)
        assert not stem[:, : round((sounds[0] - 0.02) * RATE)].any()
        assert not stem[:, round((sounds[1] + 0.02) * RATE) :].any()


def test_silence_needs_no_network(directory):
    with Engine(directory) as engine:
        result = engine.separate(np.zeros((2, 900), np.float32), RATE, ["most"])
        assert engine.loaded == ()
    assert not result.stems["most"].any()


def test_it_can_be_cancelled_between_windows(named):
    cancel = threading.Event()
    seen = []

    def progress(event):
        seen.append(event)
        if event.stage == "solve" and event.done == 2:
            cancel.set()

    with pytest.raises(Cancelled):
        named.separate(noise(6.0), RATE, ["most"], progress=progress, cancel=cancel)
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("solve", 2, 8)


def test_the_sidecar_gives_the_same_bits(named, directory):
    mixture = noise(2.5)
    expected = named.separate(mixture, RATE, ["most"])
    with sidecar() as server:
        server.bundle = directory
        result = server.client().separate(mixture, RATE, ["most"])
        with pytest.raises(InputError, match="no stem 'drums'; it knows"):
            server.client().separate(mixture, RATE, ["drums"])
    np.testing.assert_array_equal(result.stems["most"], expected.stems["most"])
    assert result.report.model == "named"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_s": 0.5}, r"separator\.inputs has the axes"),
        ({"sounds": ()}, r"separator\.outputs has the axes"),
        ({"graphs": {}}, "lacks the role 'separator'"),
        ({"overlap_s": 2.0}, r"\$\.overlap_s is 2\.0"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        named_bundle.build(tmp_path / "named", **changes)


def test_a_phrase_means_one_stem_alone(tmp_path, directory):
    sounds = list(load_manifest(directory).sounds)
    sounds[1] = msgspec.structs.replace(sounds[1], phrases=("most",))
    with pytest.raises(ModelError, match="a phrase that means two"):
        named_bundle.build(tmp_path / "named", sounds=tuple(sounds))


def test_the_phrases_are_part_of_the_checksum(directory):
    manifest = load_manifest(directory)
    fewer = msgspec.structs.replace(manifest.sounds[0], phrases=("most",))
    other = msgspec.structs.replace(manifest, sounds=(fewer, *manifest.sounds[1:]))
    assert other.sha256 != manifest.sha256
    assert msgspec.structs.replace(manifest, provenance="").sha256 == manifest.sha256


@pytest.fixture(scope="module")
def pair(tmp_path_factory, directory):
    """Where a network with three stems and one that takes any words lie, joined."""
    options = tiny_bundle.Tiny(input_rms_db=None)
    second = tiny_bundle.build(tmp_path_factory.mktemp("words") / "tiny", options)
    return f"{directory}+{second}"


def test_what_the_first_of_a_pair_does_not_know_goes_to_the_second(pair):
    moments = np.arange(12_000) / RATE
    # Tones, since the second computes at twice the rate, which full-band noise does not survive.
    mixture = 0.1 * np.sin(2 * np.pi * np.array([[310.0], [720.0]]) * moments).astype(np.float32)
    heard, inner = without_rumble(mixture, RATE), np.s_[:, 500:-500]
    prompts = [Prompt("half", "words"), "little"]
    options = {"reconstruct": "null", "listen": "channels"}
    with Engine(pair, threads=1) as engine:
        result = engine.separate(mixture, RATE, prompts, **options)
        only_second = engine.separate(mixture, RATE, ["half"], **options)
        only_first = engine.separate(mixture, RATE, ["little"], **options)
        assert engine.manifest.name == "named+tiny"
    assert list(result.stems) == ["words", "little"] == list(result.report.stems)
    np.testing.assert_allclose(result.stems["little"], 0.25 * heard, atol=2e-4)
    # The second hears what the first left, at its own rate of 16 kHz.
    second = 0.5 * (heard - result.stems["little"])
    np.testing.assert_allclose(result.stems["words"][inner], second[inner], atol=2e-3)
    np.testing.assert_allclose(only_second.stems["half"][inner], 0.5 * heard[inner], atol=2e-3)
    np.testing.assert_array_equal(only_first.stems["little"], result.stems["little"])
    for separation in (result, only_first, only_second):
        total = sum(separation.stems.values()) + separation.residual
        np.testing.assert_allclose(total, mixture, atol=1e-6)
        assert separation.report.model == "named+tiny"
        assert separation.report.model_sha256 == load_manifest(find_bundle(pair)).sha256
    assert result.report.null_depth_db is None or result.report.null_depth_db < -120
    with Engine(pair, threads=1) as engine:
        again = engine.separate(mixture, RATE, prompts, result.report.settings)
    for name, stem in result.stems.items():
        np.testing.assert_array_equal(again.stems[name], stem)


def test_a_pair_is_a_model_of_its_own_in_the_right_order(pair, directory):
    second = pair.removeprefix(f"{directory}+")
    manifest = load_manifest(find_bundle(pair))
    singles = {load_manifest(find_bundle(path)).sha256 for path in (str(directory), second)}
    assert manifest.sha256 not in singles
    assert {sound.name for sound in manifest.sounds} == {"most", "little", "sides"}
    verify_files(find_bundle(pair), manifest)
    with pytest.raises(ModelError, match="give them the other way round"):
        Engine(f"{second}+{directory}")
    with pytest.raises(ModelError, match="unknown model"):
        Engine(f"{directory}+no-such-model")
    with Engine(pair, threads=1) as engine:
        mixture = noise(0.5)
        found = engine.separate(mixture, RATE, ["half"])
        with pytest.raises(InputError, match="a pair of models, which has no update"):
            engine.update(found, mixture, mixture, ["half"])
        with pytest.raises(InputError, match="no stem"):
            Engine(directory).separate(mixture, RATE, ["half"])


def test_the_sidecar_gives_the_same_bits_for_a_pair(pair):
    mixture = noise(1.0)
    with Engine(pair, threads=1) as engine:
        here = engine.separate(mixture, RATE, ["half", "most"])
    with sidecar() as server:
        server.bundle = pair
        there = server.client().separate(mixture, RATE, ["half", "most"])
    assert there.report.model == "named+tiny"
    np.testing.assert_array_equal(there.residual, here.residual)
    for name, stem in here.stems.items():
        np.testing.assert_array_equal(there.stems[name], stem)
