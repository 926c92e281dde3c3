"""Spans in seconds become ids per latent frame the way SAM Audio's code does it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.request import Prompt, Span
from bridge.signal.spans import frame_ids


def test_both_ends_round_up():
    # 25 frames a second: 0.1 s is frame 2.5, 0.3 s is frame 7.5.
    ids = frame_ids([Span(0.1, 0.3)], 10, 48_000, 1920)
    np.testing.assert_array_equal(ids, [0, 0, 0, 1, 1, 1, 1, 1, 0, 0])


def test_later_spans_overwrite_earlier_ones():
    ids = frame_ids([Span(0.0, 0.4), Span(0.2, 0.32, "-")], 10, 48_000, 1920)
    np.testing.assert_array_equal(ids, [1, 1, 1, 1, 1, 2, 2, 2, 1, 1])


def test_no_span_is_null_everywhere():
    np.testing.assert_array_equal(frame_ids([], 4, 48_000, 1920), [0, 0, 0, 0])


@pytest.mark.parametrize("start_s", [0.0, 0.041, 0.159, 0.3999])
def test_a_span_shorter_than_a_frame_is_not_lost(start_s):
    assert np.count_nonzero(frame_ids([Span(start_s, start_s + 1e-4)], 10, 48_000, 1920)) == 1


@given(st.floats(0, 9.9), st.floats(0.1, 10))
def test_a_span_to_the_end_of_the_clip_reaches_its_last_frame(start_s, length_s):
    ids = frame_ids([Span(start_s, start_s + length_s)], 100, 16_000, 1600)
    expected = np.arange(100) / 10
    inside = (expected >= start_s) & (expected < start_s + length_s - 1e-9)
    assert np.all(ids[inside] == 1)
    assert np.count_nonzero(ids) - np.count_nonzero(inside) in (0, 1)


@st.composite
def prompts_with_spans(draw):
    spans = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, 39))
        spans.append(Span(start, draw(st.integers(start + 1, 40)), draw(st.sampled_from("+-"))))
    return Prompt("drums", spans=spans)


@given(prompts_with_spans(), st.integers(0, 50), st.integers(1, 50))
def test_a_stretch_of_a_prompt_says_what_the_whole_says_of_it(prompt, start, length):
    # One frame a second. Past its last span a prompt goes on saying what it says between them.
    whole = frame_ids(prompt.spans, 120, 1, 1, complete=True)[start : start + length]
    part = frame_ids(prompt.within(start, start + length).spans, length, 1, 1, complete=True)
    np.testing.assert_array_equal(part, whole)


@given(prompts_with_spans(), st.integers(0, 50), st.integers(1, 50))
def test_a_sound_that_is_elsewhere_is_nowhere_in_a_stretch(prompt, start, length):
    here = prompt.within(start, start + length)
    present = [span for span in prompt.spans if span.polarity == "+"]
    if present and not any(s.start_s < start + length and start < s.end_s for s in present):
        assert here.spans == (Span(0.0, length, "-"),)
    elif not present:
        assert all(span.polarity == "-" for span in here.spans)
    assert all(0 <= span.start_s < span.end_s <= length for span in here.spans)
