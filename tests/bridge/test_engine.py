"""The engine end to end on a bundle whose right answers are known."""

import threading

import numpy as np
import pytest

from bridge import Cancelled, Engine, InputError, Prompt, Span
from bridge.signal.resampling import without_rumble

RATE = 16_000


def mixture_of(seconds=2.5, channels=2, rate=RATE, seed=0):
    noise = np.random.default_rng(seed).normal(size=(channels, round(seconds * rate)))
    return (0.1 * noise).astype(np.float32)


def heard(mixture):
    """What a stem can be of: the model hears no rumble, and noise has some."""
    return without_rumble(mixture, RATE)


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_answer_does_not_depend_on_how_it_is_reached(engine, solver, steps):
    mixture = mixture_of()
    result = engine.separate(
        mixture, RATE, ["everything"], solver=solver, steps=steps, reconstruct="raw"
    )
    expected = np.tile(heard(mixture).mean(axis=0), (2, 1))
    np.testing.assert_allclose(result.stems["everything"], expected, atol=1e-5)
    np.testing.assert_allclose(result.residual, 0, atol=1e-5)
    assert result.report.nfe == steps * (2 if solver == "midpoint" else 1)


def test_prompts_share_the_mixture_and_leave_the_rest(engine):
    mixture = mixture_of()
    result = engine.separate(mixture, RATE, ["half", Prompt("other sounds", name="rest")])
    assert list(result.stems) == ["half", "rest"] == list(result.report.stems)
    inside = np.s_[:, 100:-100]
    whole = heard(mixture)
    rumble = mixture - whole
    np.testing.assert_allclose(result.stems["half"][inside], 0.5 * whole[inside], atol=1e-4)
    np.testing.assert_allclose(result.stems["rest"][inside], 0.25 * whole[inside], atol=1e-4)
    left = 0.25 * whole + rumble
    np.testing.assert_allclose(result.residual[inside], left[inside], atol=1e-4)


@pytest.mark.parametrize("mode", ["raw", "null", "mask", "wiener"])
def test_adding_a_prompt_changes_no_other_stem(engine, mode):
    """With masks the stems compete for the mixture, elsewhere not a bit may change."""
    mixture = mixture_of()
    alone = engine.separate(mixture, RATE, ["half"], reconstruct=mode)
    together = engine.separate(mixture, RATE, ["nothing", "half"], reconstruct=mode)
    if mode in ("mask", "wiener"):
        inside = np.s_[:, 100:-100]
        difference = together.stems["half"][inside] - alone.stems["half"][inside]
        assert np.abs(difference).max() < 1e-4
    else:
        np.testing.assert_array_equal(together.stems["half"], alone.stems["half"])


def test_spans_reach_the_network_at_their_time(engine):
    mixture = mixture_of(4.0)
    prompt = Prompt("half", spans=[Span(1.0, 2.0), Span(3.0, 3.5, "-")])
    result = engine.separate(mixture, RATE, [prompt], reconstruct="null")
    share = np.full(4 * RATE, 0.5)
    share[RATE : 2 * RATE] = 1.0
    share[3 * RATE : round(3.5 * RATE)] = 0.0
    expected = share * heard(mixture).mean(axis=0)
    np.testing.assert_allclose(result.stems["half"][0], expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["null", "mask", "wiener"])
@pytest.mark.parametrize("rate", [44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 777, 50_001])
def test_stems_and_residual_sum_to_the_mixture(engine, mode, rate, channels, samples):
    noise = np.random.default_rng(samples).uniform(-1, 1, (channels, samples))
    mixture = noise.astype(np.float32)
    result = engine.separate(mixture, rate, ["half", "something else"], reconstruct=mode)
    total = sum(result.stems.values()) + result.residual
    assert 20 * np.log10(np.abs(total - mixture).max() + 1e-30) < -100
    depth_db = result.report.null_depth_db
    assert depth_db is None or depth_db < -100


def test_raw_residual_is_the_models_own(engine):
    mixture = mixture_of(channels=1)
    result = engine.separate(mixture, RATE, ["half"], reconstruct="raw")
    np.testing.assert_allclose(result.residual, 0.5 * heard(mixture), atol=1e-5)


@pytest.mark.parametrize("mode", ["raw", "null", "mask", "wiener"])
def test_silence_in_gives_silence_out(engine, mode):
    mixture = np.zeros((2, 3000), np.float32)
    result = engine.separate(mixture, 44_100, ["everything", "half"], reconstruct=mode)
    for stem in (*result.stems.values(), result.residual):
        np.testing.assert_array_equal(stem, 0)
    assert result.report.nfe == 0
    assert result.report.null_depth_db is None


@pytest.mark.parametrize("peak", [1e-30, 1e-9, 1e-7, 1e-5])
def test_near_silence_is_not_blown_up(engine, peak):
    mixture = (peak * mixture_of(1.2, channels=1)).astype(np.float32)
    result = engine.separate(mixture, RATE, ["half"], reconstruct="raw")
    assert np.abs(result.stems["half"]).max() <= np.abs(mixture).max()
    assert np.isfinite(result.residual).all()


def test_level_is_undone(build_bundle):
    """At any level the answer is the same share of the mixture."""
    mixture = mixture_of(1.0, channels=1)
    with Engine(build_bundle(input_rms_db=-23.0), threads=1) as engine:
        for gain in (0.01, 1.0, 50.0):
            result = engine.separate(gain * mixture, RATE, ["half"], reconstruct="raw")
            np.testing.assert_allclose(
                result.stems["half"] / gain, 0.5 * heard(mixture), atol=1e-6, rtol=1e-4
            )


@pytest.mark.parametrize("mode", ["null", "mask", "wiener"])
@pytest.mark.parametrize("offset", [0.1, -0.9])
def test_an_offset_changes_no_stem_and_stays_in_the_residual(engine, mode, offset):
    mixture = mixture_of(3.0)
    plain = engine.separate(mixture, RATE, ["half"], reconstruct=mode)
    moved = engine.separate(mixture + np.float32(offset), RATE, ["half"], reconstruct=mode)
    np.testing.assert_allclose(moved.stems["half"], plain.stems["half"], atol=1e-5)
    np.testing.assert_allclose(moved.residual, plain.residual + np.float32(offset), atol=1e-5)


@pytest.mark.parametrize("mode", ["raw", "null", "mask", "wiener"])
def test_a_followed_level_is_undone(build_bundle, mode):
    mixture = mixture_of(6.0, channels=1)
    mixture[:, 2 * RATE : 4 * RATE] *= np.float32(0.05)
    with Engine(build_bundle(level_s=0.5), threads=1) as engine:
        stem = engine.separate(mixture, RATE, ["half"], reconstruct=mode).stems["half"]
    inside = np.s_[:, 100:-100]
    np.testing.assert_allclose(stem[inside], 0.5 * heard(mixture)[inside], atol=1e-4)


def test_the_same_call_gives_the_same_bits(engine, tiny_directory):
    mixture = mixture_of(3.3)
    with Engine(tiny_directory, threads=2) as other:
        first, again, elsewhere = (
            each.separate(mixture, 22_050, ["half", "nothing"], seed=5, steps=3)
            for each in (engine, engine, other)
        )
    for name, stem in first.stems.items():
        np.testing.assert_array_equal(again.stems[name], stem)
        np.testing.assert_array_equal(elsewhere.stems[name], stem)
    np.testing.assert_array_equal(again.residual, first.residual)


def test_the_report_says_what_was_done(engine):
    result = engine.separate(mixture_of(2.5), RATE, ["half"], seed=9, window_s=0.5)
    report = result.report
    assert (report.model, report.provider) == ("tiny", "CPUExecutionProvider")
    assert report.model_sha256 == engine.manifest.sha256
    assert (report.channels, report.samples, report.sample_rate) == (2, 40_000, RATE)
    assert (report.seed, report.steps, report.solver) == (9, 2, "euler")
    assert (report.window_s, report.overlap_s, report.windows) == (0.5, 0.125, 7)
    assert report.reconstruct == "mask"
    assert report.seconds > 0
    assert report.rtf == pytest.approx(report.seconds / 2.5)


def test_progress_counts_every_run_of_the_network(engine):
    seen = []
    engine.separate(
        mixture_of(2.5), RATE, ["half", "nothing"], steps=3, solver="midpoint", progress=seen.append
    )
    stages = list(dict.fromkeys(event.stage for event in seen))
    assert stages == ["encode", "solve", "decode", "reconstruct"]
    for stage in stages:
        events = [event for event in seen if event.stage == stage]
        assert [event.done for event in events] == list(range(events[-1].total + 1))
        assert events[0].seconds_left is None
        assert events[-1].seconds_left == 0
    solve = [event for event in seen if event.stage == "solve"]
    assert solve[-1].total == 6 * 3 * 2  # evaluations, windows, prompts


def test_cancel_stops_at_the_next_run_of_the_network(engine):
    cancel = threading.Event()
    seen = []

    def progress(event):
        seen.append(event)
        if event.stage == "solve" and event.done == 3:
            cancel.set()

    with pytest.raises(Cancelled):
        engine.separate(mixture_of(4.0), RATE, ["half"], steps=20, progress=progress, cancel=cancel)
    assert (seen[-1].stage, seen[-1].done) == ("solve", 3)
    assert not [thread for thread in threading.enumerate() if thread.name == "cancellation"]
    assert engine.separate(mixture_of(1.0), RATE, ["half"]).stems


@pytest.mark.parametrize("stage", ["encode", "solve", "decode", "reconstruct"])
def test_cancel_works_in_every_stage(engine, stage):
    cancel = threading.Event()

    def progress(event):
        if event.stage == stage:
            cancel.set()

    with pytest.raises(Cancelled):
        engine.separate(mixture_of(2.5), RATE, ["half"], progress=progress, cancel=cancel)


def test_an_engine_is_shared_by_threads(engine):
    mixtures = [mixture_of(1.5, seed=seed) for seed in range(4)]
    expected = [engine.separate(mixture, RATE, ["half"]).stems["half"] for mixture in mixtures]
    found = {}

    def separate(index):
        found[index] = engine.separate(mixtures[index], RATE, ["half"]).stems["half"]

    threads = [threading.Thread(target=separate, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, stem in enumerate(expected):
        np.testing.assert_array_equal(found[index], stem)


def test_the_watermark_message_is_fed_from_the_seed(build_bundle):
    mixture = mixture_of(1.0, channels=1)
    with Engine(build_bundle(message=True, input_rms_db=None), threads=1) as engine:
        offsets = {
            float(np.median(stem - 0.5 * mixture))
            for seed in (0, 1, 2, 3)
            for stem in [
                engine.separate(mixture, RATE, ["half"], seed=seed, reconstruct="raw").stems["half"]
            ]
        }
    assert len(offsets) > 1
    assert all(0 < offset < 1 for offset in offsets)


def test_video_features_are_fed_as_zeros_where_the_network_takes_them(build_bundle):
    mixture = mixture_of(1.0, channels=1)
    with Engine(build_bundle(video=True), threads=1) as engine:
        result = engine.separate(mixture, RATE, ["half"], reconstruct="raw")
    np.testing.assert_allclose(result.stems["half"], 0.5 * heard(mixture), atol=1e-5)


def test_only_what_silence_needs_is_loaded(build_bundle):
    with Engine(build_bundle()) as engine:
        engine.separate(np.zeros((1, 100), np.float32), RATE, ["half"])
        assert engine.loaded == ()
        engine.separate(mixture_of(0.2), RATE, ["half"])
        assert set(engine.loaded) == {"codec_encoder", "text_encoder", "velocity", "codec_decoder"}
    assert engine.loaded == ()


@pytest.mark.parametrize("threads", [0, -1])
def test_a_number_of_threads_that_cannot_be_is_refused(tiny_directory, threads):
    with pytest.raises(InputError, match=f"threads is {threads}"):
        Engine(tiny_directory, threads=threads)


def test_opposite_channels_stay_in_the_residual(engine):
    left = mixture_of(1.0, channels=1)
    mixture = np.concatenate([left, -left])
    result = engine.separate(mixture, RATE, ["everything"])
    np.testing.assert_array_equal(result.stems["everything"], 0)
    np.testing.assert_array_equal(result.residual, mixture)


def test_a_window_longer_than_the_model_takes_is_refused(build_bundle):
    with (
        Engine(build_bundle(max_frames=300), threads=1) as engine,
        pytest.raises(InputError, match=r"window of 2 s is too long.*at most 1\.2 s"),
    ):
        engine.separate(mixture_of(3.0), RATE, ["half"], window_s=2.0)


def test_a_prompt_longer_than_the_model_takes_is_refused(engine):
    with pytest.raises(InputError, match=r"has 7 tokens.*at most 6 \(prompt.max_tokens\)"):
        engine.separate(mixture_of(0.1), RATE, [Prompt("a b c d e f g", name="long")])


def test_prompts_are_read_in_lower_case(engine):
    mixture = mixture_of(0.5)
    loud = engine.separate(mixture, RATE, ["  Half "])
    np.testing.assert_array_equal(
        loud.stems["half"], engine.separate(mixture, RATE, ["half"]).stems["half"]
    )
