"""Prompts and spans from a session's names, moved from its timeline into the audio of clips."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import InputError, Prompt, Span
from plugin_host.daw.marks import mark_spans, parse_range
from plugin_host.daw.session import Clip, Marks, SessionError, Source, cut_clips, spans_in_source
from plugin_host.files.span_files import Label

RATE = 1000


def clip(name="take", start=0, samples=4000, position_s=10.0, **fields):
    length_s = samples / RATE / fields.get("speed", 1.0)
    source = (Source(Path("take.wav")),)
    values = {"position_s": position_s, "length_s": length_s, "tag": name} | fields
    return Clip(name, source, RATE, start, samples, **values)


LABELS = (
    Label("Refrain", 10.0, 14.0),
    Label("vox: lead vocals", 10.5, 11.0),
    Label("Take 12:30", 11.0, 12.0),
    Label("-vox", 12.0, 12.0),
    Label("VOX", 13.0, 13.0),
    Label("Ende", 13.5, 13.5),
)


def test_names_make_prompts_and_say_where():
    prompts, spans = mark_spans([], [], Marks(labels=LABELS), [clip("gtr: guitar")])
    assert prompts == (Prompt("lead vocals", "vox"), Prompt("guitar", "gtr"))
    assert set(spans) == {
        ("vox", Span(10.5, 11.0)),
        ("gtr", Span(10.0, 14.0)),
        ("vox", Span(12.0, 13.0, "-")),
        ("vox", Span(13.0, 13.5)),
    }


def test_given_prompts_take_their_spans_only_when_asked():
    vox = [Prompt("a singer", "vox")]
    assert mark_spans(vox, [], Marks(labels=LABELS), [clip()]) == ((vox[0],), [])
    _, spans = mark_spans(vox, ["regions"], Marks(labels=LABELS), [clip()])
    assert spans == [("vox", Span(10.5, 11.0))]
    _, spans = mark_spans(vox, ["markers"], Marks(labels=LABELS), [clip()])
    assert [span.polarity for _, span in spans] == ["-", "+"]
    marks = Marks(selection=(1.0, 2.0), loop=(3.0, 4.0))
    _, spans = mark_spans(vox, ["selection", "loop"], marks, [clip()])
    assert spans == [(None, Span(1.0, 2.0)), (None, Span(3.0, 4.0))]


def test_a_marker_lasts_to_the_next_one_or_the_end_of_the_track():
    marks = Marks(labels=(Label("vox: a", 12.0, 12.0),))
    assert mark_spans([], [], marks, [clip()])[1] == [("vox", Span(12.0, 14.0))]


def test_a_name_that_cannot_be_a_file_is_refused():
    marks = Marks(labels=(Label("a/b: voice", 1.0, 2.0),))
    with pytest.raises(SessionError, match="cannot be that of a stem"):
        mark_spans([], [], marks, [])


def test_ranges_are_read_or_refused():
    marks = Marks(selection=(1.0, 2.0))
    assert parse_range(None, marks) is None
    assert parse_range("1.5:3", marks) == (1.5, 3.0)
    assert parse_range("selection", marks) == (1.0, 2.0)
    for text in ("3:1", "1", "a:b", "-1:2", "0:inf", "nan:1", "loop"):
        with pytest.raises(InputError):
            parse_range(text, marks)


@given(
    st.floats(0, 20),
    st.floats(0.01, 8),
    st.sampled_from([0.5, 1.0, 1.5]),
    st.integers(0, 500),
)
def test_a_cut_clip_plays_the_same_samples_at_the_same_time(low_s, length_s, speed, start):
    old = clip(start=start, speed=speed)
    for new in cut_clips([old], (low_s, low_s + length_s)):
        half = 0.5 / RATE / speed + 1e-9
        assert new.position_s >= max(low_s, old.position_s) - half
        assert new.end_s <= min(low_s + length_s, old.end_s) + half
        moved = (new.position_s - old.position_s) * speed * RATE
        assert moved == pytest.approx(new.start - old.start, abs=1e-6)
        assert new.samples / RATE / speed == pytest.approx(new.length_s, abs=1e-6)
        assert (new.cut_front, new.cut_back) == (
            new.start > old.start,
            new.start + new.samples < old.start + old.samples,
        )


def test_a_range_of_all_changes_nothing_and_one_beside_leaves_nothing():
    assert cut_clips([clip()], (10.0, 14.0)) == [clip()]
    assert cut_clips([clip()], (0.0, 99.0)) == [clip()]
    assert cut_clips([clip()], (0.0, 10.0)) == []


@pytest.mark.parametrize(("low_s", "high_s"), [(10.1, 12), (11, 13.9)])
def test_fades_are_not_cut(low_s, high_s):
    faded = clip(fade_in_s=0.2, fade_out_s=0.2)
    with pytest.raises(SessionError, match="cuts the fade"):
        cut_clips([faded], (low_s, high_s))
    (kept,) = cut_clips([faded], (10.2, 14.0))
    assert (kept.fade_in_s, kept.fade_out_s) == (0.0, 0.2)


def test_spans_are_moved_into_the_source():
    spans = [Span(11.0, 12.0), Span(0.0, 1.0), Span(13.5, 99.0, "-")]
    assert spans_in_source(spans, [clip(start=500)], 500, 4.0) == (
        Span(1.0, 2.0),
        Span(3.5, 4.0, "-"),
    )
    fast = clip(start=500, speed=2.0)
    assert spans_in_source([Span(10.5, 11.0)], [fast], 0, 4.5) == (Span(1.5, 2.5),)


def test_spans_of_a_loop_are_moved_into_every_turn():
    # One second of audio, entered at 0.25 s, plays four times.
    loop = clip(samples=1000, first=250, loops=True, length_s=4.0)
    assert spans_in_source([Span(10.0, 10.5)], [loop], 0, 1.0) == (Span(0.25, 0.75),)
    wrapped = spans_in_source([Span(11.5, 12.0)], [loop], 0, 1.0)
    assert [(s.start_s, s.end_s) for s in wrapped] == [(0.75, 1.0), (0.0, 0.25)]
    assert spans_in_source([Span(10.0, 13.0)], [loop], 0, 1.0) == (Span(0.0, 1.0),)
    # Silence around the source is no part of it.
    padded = clip(samples=1000, first=-500, length_s=4.0)
    (span,) = spans_in_source([Span(10.0, 11.0)], [padded], 0, 1.0)
    assert math.isclose(span.end_s, 0.5)
