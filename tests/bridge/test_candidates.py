"""Several noises for a stem: what they start from, which is kept, and what the report says."""

from pathlib import Path

import numpy as np
import pytest

from bridge import Engine, InputError, Prompt, Span
from bridge.bundles.manifest import CLAP_RATE
from bridge.flow.noise import frame_noise, message_bits, number_bits
from bridge.flow.windows import plan_windows
from bridge.inference.pipeline import agreement
from bridge.signal.resampling import resample
from bridge.signal.spans import expected_frames, overlap, sounding_frames
from tests.support import tiny_bundle

RATE, HOP = tiny_bundle.SAMPLE_RATE, tiny_bundle.HOP
FRAMES = 500  # three windows


def bundle(directory: Path, **options: object) -> Path:
    return tiny_bundle.build(directory / "tiny", tiny_bundle.Tiny(input_rms_db=None, **options))


def mixture() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((1, FRAMES * HOP))
    return (0.1 * noise).astype(np.float32)


def candidate(number: int, seed: int = 3) -> np.ndarray:
    """The waveform that a still flow makes of a noise."""
    return frame_noise(seed, 0, FRAMES, 2 * HOP, number)[:, :HOP].reshape(1, -1)


def separate(path: Path, prompt: Prompt | str = "half", **settings: object):
    with Engine(path, threads=1) as engine:
        result = engine.separate(mixture(), RATE, [prompt], reconstruct="raw", seed=3, **settings)
        return result, engine.loaded


def test_one_candidate_is_the_first_noise_and_nobody_chooses(tmp_path: Path) -> None:
    result, _ = separate(bundle(tmp_path, still=True))
    np.testing.assert_allclose(result.stems["half"], candidate(0), atol=1e-6)
    assert result.report.selections == ()
    assert result.report.candidates == 1


def test_candidates_are_noises_of_their_own_and_agreement_chooses_without_spans(
    tmp_path: Path,
) -> None:
    result, _ = separate(bundle(tmp_path, still=True), candidates=4)
    (chosen,) = result.report.selections
    np.testing.assert_allclose(result.stems["half"], candidate(chosen.candidate), atol=1e-6)
    assert chosen.ranker == "agreement"
    assert chosen.scores is None
    assert chosen.candidate == int(np.argmax(agreement([candidate(k)[0] for k in range(4)])))
    rest = frame_noise(3, 0, FRAMES, 2 * HOP, chosen.candidate)[:, HOP:].reshape(1, -1)
    np.testing.assert_allclose(result.residual, rest, atol=1e-6)


def test_spans_choose_where_they_are_given(tmp_path: Path) -> None:
    prompt = Prompt("half", spans=(Span(0.1, 0.9),))
    result, _ = separate(bundle(tmp_path, still=True), prompt, candidates=2)
    assert [chosen.ranker for chosen in result.report.selections] == ["spans"]


def test_the_judge_chooses_where_there_is_one(tmp_path: Path) -> None:
    path = bundle(tmp_path, still=True, judge=True)
    result, loaded = separate(path, candidates=4)
    (chosen,) = result.report.selections
    waves = [candidate(k).reshape(FRAMES, HOP) for k in range(4)]
    starts = plan_windows(FRAMES, 250, 62).starts
    parts = [[wave[start : start + 250] for start in starts] for wave in waves]
    means = [np.mean([part.mean() for part in windows]) for windows in parts]
    assert chosen.ranker == "judge"
    assert chosen.candidate == int(np.argmax(means))
    assert chosen.scores is not None
    assert chosen.scores.overall == pytest.approx(max(means), abs=1e-6)
    assert chosen.scores.faithfulness == pytest.approx(4 * max(means), abs=1e-5)
    assert "judge" in loaded


def test_the_judge_scores_a_single_stem_on_demand_and_is_not_loaded_otherwise(
    tmp_path: Path,
) -> None:
    path = bundle(tmp_path, still=True, judge=True)
    plain, loaded = separate(path)
    assert "judge" not in loaded
    assert plain.report.selections == ()
    judged, loaded = separate(path, judge=True)
    assert "judge" in loaded
    (chosen,) = judged.report.selections
    assert chosen.ranker is None
    assert chosen.scores is not None
    np.testing.assert_array_equal(judged.stems["half"], plain.stems["half"])


def alike(wave: np.ndarray) -> float:
    """What the CLAP of the tests makes of a waveform of two seconds, which it hears one by one."""
    pieces = [resample(part, RATE, CLAP_RATE) for part in np.split(wave[0], 2)]
    return float(np.mean([1 - np.abs(piece).mean() for piece in pieces]))


def test_clap_chooses_alone_and_in_an_ensemble_with_the_judge(tmp_path: Path) -> None:
    waves = [candidate(k) for k in range(4)]
    starts = plan_windows(FRAMES, 250, 62).starts
    judged = [
        np.mean([wave.reshape(FRAMES, HOP)[start : start + 250].mean() for start in starts])
        for wave in waves
    ]
    heard = [alike(wave) for wave in waves]
    both = [one + 5 * other for one, other in zip(judged, heard, strict=True)]
    assert len({int(np.argmax(scores)) for scores in (judged, heard)}) == 2
    for options, ranker, scores in (
        ({"clap": True}, "clap", heard),
        ({"clap": True, "judge": True}, "ensemble", both),
    ):
        path = tiny_bundle.build(
            tmp_path / ranker, tiny_bundle.Tiny(input_rms_db=None, still=True, **options)
        )
        result, _ = separate(path, candidates=4)
        (chosen,) = result.report.selections
        assert (chosen.ranker, chosen.candidate) == (ranker, int(np.argmax(scores)))
        assert chosen.similarity == pytest.approx(heard[chosen.candidate], abs=1e-5)
        assert (chosen.scores is None) == (ranker == "clap")


def test_clap_says_nothing_of_where_a_stem_is_silent(tmp_path: Path) -> None:
    path = bundle(tmp_path, clap=True)
    half = mixture()
    half[:, : half.shape[1] // 2] = 0
    with Engine(path, threads=1) as engine:
        result = engine.separate(half, RATE, ["everything"], reconstruct="raw", judge=True)
        assert "clap" in engine.loaded
        plain = engine.separate(half, RATE, ["everything"], reconstruct="raw")
    (chosen,) = result.report.selections
    loud = resample(result.stems["everything"][0, RATE:], RATE, CLAP_RATE)
    assert chosen.similarity == pytest.approx(1 - np.abs(loud).mean(), abs=3e-3)
    assert (chosen.ranker, chosen.scores, plain.report.selections) == (None, None, ())


def test_what_the_model_lacks_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    with pytest.raises(InputError, match="has no judge"):
        separate(path, judge=True)
    with pytest.raises(InputError, match="watermark is 5, but the model 'tiny' writes none"):
        separate(path, watermark=5)
    with pytest.raises(InputError, match="candidates is 0; expected 1 to 64"):
        separate(path, candidates=0)
    with pytest.raises(InputError, match="watermark is 65536; expected 0 to 65535"):
        separate(path, watermark=65536)


def test_prompts_choose_among_their_own_candidates(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    with Engine(path, threads=1) as engine:
        result = engine.separate(mixture(), RATE, ["half", "everything"], candidates=3)
    for name, share in (("half", 0.5), ("everything", 1.0)):
        assert np.abs(result.stems[name]).max() > 0.1 * share
    assert [chosen.stem for chosen in result.report.selections] == ["half", "everything"]


def test_watermark_reaches_the_decoder_and_the_report(tmp_path: Path) -> None:
    path = bundle(tmp_path, still=True, message=True)
    marked, _ = separate(path, watermark=0b1000_0000_0000_0011)
    plain, _ = separate(path)
    assert marked.report.watermark == 0b1000_0000_0000_0011
    bits = message_bits(3, tiny_bundle.MESSAGE_BITS)
    assert plain.report.watermark == int("".join(str(int(bit)) for bit in bits), 2)
    # This decoder adds the mean of its bits.
    np.testing.assert_allclose(
        marked.stems["half"] - plain.stems["half"], 3 / 16 - bits.mean(), atol=1e-5
    )
    repeated, _ = separate(path, watermark=plain.report.watermark)
    np.testing.assert_array_equal(repeated.stems["half"], plain.stems["half"])


def test_numbers_become_bits_highest_first() -> None:
    np.testing.assert_array_equal(number_bits(6, 4), [0, 1, 1, 0])


def test_sounding_frames_are_loud_and_long_enough() -> None:
    wave = np.zeros(100 * 10, np.float32)  # at 100 Hz: frames of 0.1 s
    wave[200:400] = 1.0
    wave[500:520] = 1.0  # two frames, 0.2 s: too short
    wave[600:700] = 0.011  # -39 dB
    wave[800:900] = 0.009  # -41 dB
    expected = np.zeros(100, bool)
    expected[20:40] = expected[60:70] = True
    np.testing.assert_array_equal(sounding_frames(wave, 10, 100), expected)
    assert not sounding_frames(np.zeros(95, np.float32), 10, 100).any()


def test_expected_frames_and_overlap() -> None:
    ids = np.array([0, 1, 1, 0, 2])
    np.testing.assert_array_equal(expected_frames(ids), [False, True, True, False, False])
    np.testing.assert_array_equal(expected_frames(np.array([0, 2])), [True, False])
    assert expected_frames(np.zeros(3, np.int64)) is None
    assert overlap(np.array([True, True, False]), np.array([False, True, True])) == 1 / 3
    assert overlap(np.zeros(2, bool), np.zeros(2, bool)) == 1.0


def test_the_odd_one_out_agrees_least() -> None:
    rng = np.random.default_rng(1)
    common = rng.standard_normal(1000)
    waves = [common + 0.1 * rng.standard_normal(1000) for _ in range(3)]
    waves.insert(1, rng.standard_normal(1000))
    found = agreement([wave.astype(np.float32) for wave in waves])
    assert int(np.argmin(found)) == 1
