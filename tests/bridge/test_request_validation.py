"""Requests are checked in one place, and each refusal says what to do."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import InputError, Prompt, Settings, Span
from bridge.bundles.manifest import resolve
from bridge.request import check_mixture, check_prompts, is_safe_name, make_settings, slug


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (np.zeros((2, 10), np.int16), r"dtype int16; expected float32; divide.*32768"),
        (np.zeros((2, 10), np.uint8), r"dtype uint8; expected float32"),
        (np.zeros((2, 10), np.complex64), r"dtype complex64; expected float32"),
        (np.zeros(10, np.float32), r"shape \(10,\).*mixture\[np.newaxis\] for mono"),
        (np.zeros((1, 2, 3), np.float32), r"shape \(1, 2, 3\); expected \(channels, samples\)"),
        (np.zeros((2, 0), np.float32), r"empty"),
        (np.zeros((0, 10), np.float32), r"empty"),
        (np.zeros((44_100, 2), np.float32), r"44100 channels.*transposed"),
        (np.array([[0, np.nan, 0]], np.float32), r"1 samples that are NaN or infinite"),
        (np.array([[np.inf, np.nan, 0]], np.float32), r"2 samples that are NaN or infinite"),
        (np.array([[-np.inf, 0.0]], np.float32), r"1 samples that are NaN or infinite"),
        (np.array([[0, -32768.0]], np.float32), r"peaks at 32768; expected full scale at 1.0"),
        ("song.wav", r"dtype <U8; expected float32"),
        ([[0.1], [0.1, 0.2]], r"mixture is no array .*inhomogeneous.*\(channels, samples\)"),
        (np.zeros((2, 10), np.float16), r"dtype float16; expected float32"),
    ],
)
def test_a_mixture_that_cannot_be_used_is_refused(mixture, message):
    with pytest.raises(InputError, match=message):
        check_mixture(mixture, 44_100)


@pytest.mark.parametrize("rate", [0, -1, 999, 10**7, 44_100.5, "44100", None, True, np.nan])
def test_a_sample_rate_that_cannot_be_is_refused(rate):
    with pytest.raises(InputError, match="sample_rate is"):
        check_mixture(np.zeros((1, 1), np.float32), rate)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (8, 1), (256, 3)])
def test_a_good_mixture_is_not_copied(shape):
    mixture = np.zeros(shape, np.float32)
    checked, rate = check_mixture(mixture, np.int64(192_000))
    assert np.shares_memory(checked, mixture)
    assert type(rate) is int


def test_double_precision_and_strided_audio_are_converted():
    mixture = np.arange(12, dtype=np.float64).reshape(6, 2).T[:, ::2] / 12
    for audio in (mixture, mixture.astype(">f8"), mixture.astype(">f4"), mixture.tolist()):
        checked, _ = check_mixture(audio, 44_100)
        assert checked.dtype == np.float32
        assert checked.dtype.isnative
        assert checked.flags.c_contiguous
        np.testing.assert_allclose(checked, mixture, rtol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts; expected at least one"),
        ("drums", r"expected a list of prompts"),
        (Prompt("drums"), r"expected a list of prompts"),
        ([""], "a prompt is empty"),
        (["  \n"], "a prompt is empty"),
        ([Prompt("", spans=[Span(0, 1)])], "gives no stem name; give it a name"),
        (["???"], "gives no stem name"),
        (["dr\udcffums"], "is not valid Unicode"),
        ([Prompt("a", name="\udcff")], "cannot be a file name"),
        ([7], "expected a Prompt or a string, got 7"),
        (["drums", "Drums"], "two stems would be named 'drums'"),
        (["drums", Prompt("bass", name="DRUMS")], "two stems would be named 'DRUMS'"),
        (["caf\u00e9", "cafe\u0301"], "two stems would be named"),
        ([Prompt("drums", spans=[Span(0, 10**400)])], "span end is too large"),
        (["residual"], "cannot be named 'residual'"),
        ([Prompt("rest", name="Residual")], "cannot be named 'Residual'"),
        ([Prompt("a", name="../b")], "cannot be a file name"),
        ([Prompt("a", name="a\0b")], "cannot be a file name"),
        ([Prompt("a", name=".hidden")], "cannot be a file name"),
        ([Prompt("a", name="con")], "cannot be a file name"),
        ([Prompt("a", name="x" * 300)], "cannot be a file name"),
        ([Prompt("a", spans=[Span(2, 1)])], r"span 2:1 s ends before it starts"),
        ([Prompt("a", spans=[Span(1, 1)])], r"span 1:1 s ends before it starts"),
        ([Prompt("a", spans=[Span(-1, 1)])], r"span -1:1 s lies outside the clip of 3.00 s"),
        ([Prompt("a", spans=[Span(3, 4)])], r"span 3:4 s lies outside the clip"),
        ([Prompt("a", spans=[Span(1, 3.1)])], r"span 1:3.1 s lies outside the clip"),
        ([Prompt("a", spans=[Span(0, float("nan"))])], r"span end is nan"),
        ([Prompt("a", spans=[Span("0", 1)])], r"span start is '0'"),
        ([Prompt("a", spans=[Span(0, 1, "?")])], r"polarity '\?'; expected '\+' or '-'"),
        ([Prompt("a", spans=[(0, 1)])], r"expected a Span, got \(0, 1\)"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused(prompts, message):
    with pytest.raises(InputError, match=message):
        check_prompts(prompts, 3.0)


def test_prompts_are_normalised():
    prompts = [
        "  Bass\tGuitar ",
        Prompt("Man / woman speaking", spans=[Span(0, 3.005)]),
        Prompt("", name="mark", spans=[Span(1, 2, "-")]),
    ]
    assert check_prompts(prompts, 3.0) == (
        Prompt("bass guitar", "bass-guitar"),
        Prompt("man / woman speaking", "man-woman-speaking", (Span(0, 3.0),)),
        Prompt("", "mark", (Span(1, 2, "-"),)),
    )


@given(st.text(st.characters(exclude_categories=[])))
def test_a_slug_is_a_safe_name_or_empty(text):
    assert slug(text) == "" or is_safe_name(slug(text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "unknown setting 'seeds'; expected one of seed, quality, steps"),
        ({"seed": -1}, "seed is -1; expected 0 to 18446744073709551615"),
        ({"seed": 2**64}, "seed is 18446744073709551616; expected"),
        ({"seed": 1.5}, "seed is 1.5; expected a whole number"),
        ({"steps": 0}, "steps is 0; expected 1 to 1000"),
        ({"steps": "8"}, "steps is '8'; expected a whole number"),
        ({"steps": True}, "steps is True; expected a whole number"),
        (
            {"solver": "heun"},
            "solver is 'heun'; expected euler, midpoint, ab2, unipc, cubic, tuned",
        ),
        ({"window_s": 0}, "window_s is 0; expected a number of seconds above 0"),
        ({"window_s": float("inf")}, "window_s is inf; expected a finite"),
        ({"overlap_s": -0.1}, "overlap_s is -0.1; expected"),
        ({"window_s": 1, "overlap_s": 1}, "give an overlap shorter than the window"),
        ({"reconstruct": "magic"}, "reconstruct is 'magic'; expected raw, null, mask"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_settings(**options)


def test_number_types_are_normalised():
    settings = make_settings(seed=np.uint64(3), steps=4.0, window_s=2)
    assert settings == Settings(seed=3, steps=4, window_s=2.0)
    assert [type(v) for v in (settings.seed, settings.steps, settings.window_s)] == [
        int,
        int,
        float,
    ]


def test_defaults_come_from_the_model(engine):
    manifest = engine.manifest
    resolved = resolve(Settings(), manifest)
    assert (resolved.steps, resolved.solver, resolved.reconstruct) == (2, "euler", "mask")
    assert (resolved.window_s, resolved.overlap_s) == (1.0, 0.25)
    assert resolve(Settings(window_s=2.0), manifest).overlap_s == 0.5
    with pytest.raises(InputError, match="overlap of 1 s does not fit a window of 1 s"):
        resolve(Settings(overlap_s=1.0), manifest)


def test_requests_travel_unchanged():
    prompt = Prompt("bass", spans=[Span(0.5, 1.0), Span(1.0, 1.5, "-")])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(prompt), type=Prompt) == prompt
    assert hash(prompt) == hash(Prompt("bass", None, (Span(0.5, 1.0), Span(1.0, 1.5, "-"))))


def test_prompts_and_spans_may_come_as_anything_that_gives_them_one_by_one():
    span = Span(0.5, 1.0)
    for spans in ([span], (span,), span, (one for one in [span])):
        (checked,) = check_prompts((one for one in [Prompt("drums", spans=spans)]), 2.0)
        assert checked.spans == (span,)
    assert check_prompts([Prompt("drums", spans=None)], 2.0)[0].spans == ()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "prompts is None; expected a list of prompts"),
        (3, "prompts is 3; expected a list of prompts"),
        ([None], "expected a Prompt or a string, got None"),
        ([Prompt("drums", spans=3)], "spans is 3; expected a list of Span"),
        ([Prompt("drums", spans=[(0, 1)])], r"expected a Span, got \(0, 1\)"),
        ([Prompt("drums", name=3)], "name is 3; expected text"),
        ((one for one in ()), "no prompts"),
    ],
)
def test_what_is_no_prompt_is_refused_with_what_came(prompts, message):
    with pytest.raises(InputError, match=message):
        check_prompts(prompts, 2.0)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_the_hint_for_integer_audio_brings_it_to_full_scale(kind):
    info = np.iinfo(kind)
    audio = np.array([[info.min, (int(info.min) + int(info.max) + 1) // 2, info.max]], kind)
    with pytest.raises(InputError, match="expected float32; divide") as caught:
        check_mixture(audio, 44100)
    formula = str(caught.value).rpartition("full scale: ")[2]
    assert eval(formula, {"mixture": audio})[0] == pytest.approx([-1, 0, 1], abs=0.02)
