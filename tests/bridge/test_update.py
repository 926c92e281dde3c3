"""An edit costs what it touches, and leaves the rest to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from bridge.engine import Engine
from bridge.errors import InputError
from bridge.request import Prompt, Span
from bridge.scratch import FileArray, Scratch
from bridge.separation import Separation
from tests.support import named_bundle, tiny_bundle
from tests.support.sidecars import RATE, sidecar
from tests.support.tiny_bundle import Tiny

SECONDS = 20.0
WINDOW_S, OVERLAP_S = 1.0, 0.25


def song(rate: int, channels: int = 2) -> np.ndarray:
    moments = np.arange(round(SECONDS * rate)) / rate
    tones = [0.2 * np.sin(2 * np.pi * (200 + 50 * c) * moments) for c in range(channels)]
    hiss = np.random.default_rng(0).standard_normal((channels, len(moments)))
    return (np.stack(tones) + 0.1 * hiss + 0.02).astype(np.float32)


def edited(mixture: np.ndarray, rate: int, start_s: float, end_s: float) -> np.ndarray:
    after = mixture.copy()
    after[:, round(start_s * rate) : round(end_s * rate)] *= 0.5
    return after


def sounds(result: Separation) -> list[np.ndarray]:
    return [np.asarray(sound) for sound in (*result.stems.values(), result.residual)]


def reached(before: Separation, after: Separation) -> tuple[float, float]:
    """Return the stretch in seconds outside of which two results are the same bits."""
    differ = np.zeros(before.report.samples, np.bool_)
    for one, other in zip(sounds(before), sounds(after), strict=True):
        differ |= (one != other).any(axis=0)
    places = np.flatnonzero(differ) / before.report.sample_rate
    return float(places[0]), float(places[-1])


@pytest.mark.slow
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("mode", ["raw", "null", "mask", "wiener"])
def test_an_edit_changes_its_windows_and_gives_what_the_whole_gives(tmp_path, rate, mode):
    bundle = tiny_bundle.build(tmp_path / "tiny", Tiny(blurred=True, level_s=0.5))
    before = song(rate)
    after = edited(before, rate, 9.3, 9.9)
    with Engine(bundle) as engine:
        earlier = engine.separate(before, rate, ["half"], reconstruct=mode)
        result = engine.update(earlier, before, after, ["half"])
        whole = engine.separate(after, rate, ["half"], reconstruct=mode)
    low_s, high_s = reached(earlier, result)
    assert 9.3 - WINDOW_S <= low_s <= 9.3
    assert 9.9 <= high_s <= 9.9 + WINDOW_S
    assert result.report.windows <= 3 < whole.report.windows
    for one, other in zip(sounds(result), sounds(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2)
        inside = slice(round(9.4 * rate), round(9.8 * rate))
        assert np.abs(one - other)[:, inside].max() < 5e-3
    if mode != "raw":
        total = np.sum(sounds(result), axis=0)
        np.testing.assert_allclose(total, after, atol=1e-6)


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.1), (19.95, 20.0), (3.0, 4.5)])
def test_the_ends_can_be_edited(tmp_path, start_s, end_s):
    bundle = tiny_bundle.build(tmp_path / "tiny")
    before = song(44_100, 1)
    after = edited(before, 44_100, start_s, end_s)
    with Engine(bundle) as engine:
        earlier = engine.separate(before, 44_100, ["half"], reconstruct="null")
        result = engine.update(earlier, before, after, ["half"])
        whole = engine.separate(after, 44_100, ["half"], reconstruct="null")
    low_s, high_s = reached(earlier, result)
    assert start_s - WINDOW_S <= low_s
    assert high_s <= end_s + WINDOW_S
    for one, other in zip(sounds(result), sounds(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


def test_noise_is_that_of_the_frames_in_the_whole(tmp_path):
    """A model that gives back its noise tells where in the mixture a window thought it was."""
    bundle = tiny_bundle.build(tmp_path / "still", Tiny(still=True, input_rms_db=None))
    before = song(tiny_bundle.SAMPLE_RATE, 1)
    after = edited(before, tiny_bundle.SAMPLE_RATE, 9.3, 9.9)
    with Engine(bundle) as engine:
        earlier = engine.separate(before, tiny_bundle.SAMPLE_RATE, ["half"], reconstruct="raw")
        result = engine.update(earlier, before, after, ["half"])
    np.testing.assert_array_equal(result.stems["half"], earlier.stems["half"])


def test_moved_spans_change_what_they_touch(tmp_path):
    bundle = tiny_bundle.build(tmp_path / "tiny")
    mixture = song(16_000)
    old = [Prompt("nothing", "x", spans=(Span(2.0, 4.0), Span(12.0, 13.0)))]
    new = [Prompt("nothing", "x", spans=(Span(2.0, 4.0), Span(12.0, 13.5)))]
    with Engine(bundle) as engine:
        earlier = engine.separate(mixture, 16_000, old, reconstruct="null")
        result = engine.update(earlier, mixture, mixture, new, old)
        whole = engine.separate(mixture, 16_000, new, reconstruct="null")
    low_s, high_s = reached(earlier, result)
    assert 13.0 - WINDOW_S <= low_s <= high_s <= 13.5 + WINDOW_S
    np.testing.assert_allclose(result.stems["x"], whole.stems["x"], atol=5e-3)


def test_of_no_change_nothing_is_computed(tmp_path):
    bundle = tiny_bundle.build(tmp_path / "tiny")
    mixture = song(16_000)
    with Engine(bundle) as engine:
        earlier = engine.separate(mixture, 16_000, ["half"])
        seen = []
        result = engine.update(earlier, mixture, mixture.copy(), ["half"], progress=seen.append)
    assert not seen
    assert result.report.windows == 0
    for one, other in zip(sounds(earlier), sounds(result), strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_all_changed_or_the_choice_is_of_the_whole_all_is_computed(tmp_path):
    bundle = tiny_bundle.build(tmp_path / "tiny")
    before = song(16_000)
    with Engine(bundle) as engine:
        for asked, after in (({}, -before), ({"candidates": 2}, edited(before, 16_000, 3, 3.1))):
            earlier = engine.separate(before, 16_000, ["half"], **asked)
            result = engine.update(earlier, before, after, ["half"])
            whole = engine.separate(after, 16_000, ["half"], **asked)
            for one, other in zip(sounds(result), sounds(whole), strict=True):
                np.testing.assert_array_equal(one, other)


def test_networks_with_named_stems_and_audio_in_files_are_updated_too(tmp_path):
    bundle = named_bundle.build(tmp_path / "named")
    scratch = Scratch(small_bytes=0, stretch=30_000)
    before = song(named_bundle.RATE)
    after = edited(before, named_bundle.RATE, 9.3, 9.9)
    files = [scratch.file(before.shape) for _ in range(2)]
    files[0][:], files[1][:] = before, after
    with Engine(bundle, scratch=scratch) as engine:
        earlier = engine.separate(files[0], named_bundle.RATE, ["most"])
        result = engine.update(earlier, *files, ["most"])
        whole = engine.separate(after, named_bundle.RATE, ["most"])
    assert isinstance(result.residual, FileArray)
    low_s, high_s = reached(earlier, result)
    assert 8.3 <= low_s <= high_s <= 10.9
    np.testing.assert_allclose(np.asarray(result.stems["most"]), whole.stems["most"], atol=5e-3)


@pytest.mark.parametrize("wrong", ["length", "prompt", "name"])
def test_what_is_no_edit_is_refused(tmp_path, wrong):
    bundle = tiny_bundle.build(tmp_path / "tiny")
    mixture = song(16_000)
    with Engine(bundle) as engine:
        earlier = engine.separate(mixture, 16_000, ["half"])
        after = mixture[:, 1:] if wrong == "length" else mixture
        prompts = {"length": ["half"], "prompt": ["nothing"], "name": [Prompt("half", "other")]}
        with pytest.raises(InputError, match=r"anew|same prompts"):
            engine.update(earlier, mixture, after, prompts[wrong])


@pytest.fixture(scope="module")
def server():
    with sidecar() as running:
        yield running


@pytest.mark.slow
def test_a_server_revises_what_it_was_asked_before(server):
    before = song(RATE)
    after = edited(before, RATE, 9.3, 9.9)
    evaluations = []
    with server.client() as client, Engine(server.bundle) as engine:
        first = client.separate(before, RATE, ["half"], revise=True, steps=8)
        second = client.separate(
            after, RATE, ["half"], revise=True, steps=8,
            progress=lambda p: evaluations.append(p.done) if p.stage == "solve" else None,
        )  # fmt: skip
        # Of no other length, settings or words, and not unless it is asked for.
        whole = client.separate(after, RATE, ["half"], steps=8)
        other = client.separate(after, RATE, ["half"], revise=True, steps=7)
        earlier = engine.separate(before, RATE, ["half"], steps=8)
        expected = engine.update(earlier, before, after, ["half"])
    for one, wanted in ((first, earlier), (second, expected)):
        assert all((a == b).all() for a, b in zip(sounds(one), sounds(wanted), strict=True))
    low_s, high_s = reached(first, second)
    assert 9.3 - WINDOW_S <= low_s <= high_s <= 9.9 + WINDOW_S
    assert second.report.windows == expected.report.windows <= 3
    assert whole.report.windows == other.report.windows == first.report.windows
    assert max(evaluations) <= second.report.windows * second.report.nfe
    assert (sounds(whole)[0] != sounds(second)[0]).any()


def test_what_was_revised_can_be_asked_for_and_revised_again(server):
    versions = [song(RATE, 1)]
    for start_s in (3.0, 12.0):
        versions.append(edited(versions[-1], RATE, start_s, start_s + 0.5))
    with server.client() as client:
        done = [client.separate(version, RATE, ["half"], revise=True) for version in versions]
        handle = client.submit(versions[-1], RATE, ["half"], revise=True)
        again = handle.result()
        back = client.separate(versions[0], RATE, ["half"], revise=True)
    assert handle.cached
    assert (sounds(again)[0] == sounds(done[2])[0]).all()
    assert reached(done[1], done[2])[0] >= 12.0 - WINDOW_S
    assert max(one.report.windows for one in done[1:]) <= 3
    # Its own result is still there.
    assert (sounds(back)[0] == sounds(done[0])[0]).all()


def test_moved_spans_are_revised_and_lost_stems_are_not(server):
    mixture = song(RATE)
    old = [Prompt("nothing", "x", spans=(Span(2.0, 4.0), Span(12.0, 13.0)))]
    new = [Prompt("nothing", "x", spans=(Span(2.0, 4.0), Span(12.0, 13.5)))]
    with server.client() as client:
        earlier = client.separate(mixture, RATE, old, reconstruct="null", revise=True)
        moved = client.separate(mixture, RATE, new, reconstruct="null", revise=True)
        low_s, high_s = reached(earlier, moved)
        assert 13.0 - WINDOW_S <= low_s <= high_s <= 13.5 + WINDOW_S
        for blob in (server.cache / "objects").rglob("*"):
            if blob.is_file():
                blob.unlink()
        whole = client.separate(mixture, RATE, [old[0]], reconstruct="null", revise=True)
    assert whole.report.windows == earlier.report.windows > moved.report.windows
