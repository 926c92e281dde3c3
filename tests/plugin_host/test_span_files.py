import itertools

import mido
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import InputError, Prompt, Span
from plugin_host.span_files import (
    Label,
    merge_stretches,
    prompts_from_labels,
    read_labels,
    read_midi_spans,
)


def seconds(spans):
    return [(round(span.start_s, 6), round(span.end_s, 6)) for span in spans]


times = st.floats(0, 100).map(lambda t: round(t, 3))


@given(st.lists(st.tuples(times, times), max_size=20), st.floats(0, 5))
def test_merged_stretches_are_apart_and_cover_what_they_cover(stretches, gap):
    spans = merge_stretches(stretches, gap)
    for one, two in itertools.pairwise(spans):
        assert two.start_s - one.end_s > gap
    for start, end in stretches:
        if end > start:
            assert any(s.start_s <= start and end <= s.end_s for s in spans)
    edges = {time for pair in stretches for time in pair}
    assert {s.start_s for s in spans} | {s.end_s for s in spans} <= edges


def test_a_negative_gap_is_refused():
    with pytest.raises(InputError, match="from 0 up"):
        merge_stretches([], -1)


@pytest.fixture
def midi(tmp_path):
    """120 bpm for a second, then 60 bpm; two named tracks and 480 ticks a beat."""
    file = mido.MidiFile(type=1, ticks_per_beat=480)
    tempo = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000, time=0)])
    tempo.append(mido.MetaMessage("set_tempo", tempo=1_000_000, time=960))
    bass = mido.MidiTrack([mido.MetaMessage("track_name", name="bass", time=0)])
    bass.append(mido.Message("note_on", note=40, velocity=80, time=480))
    bass.append(mido.Message("note_off", note=40, time=480))
    bass.append(mido.Message("note_on", note=43, velocity=80, time=480))
    bass.append(mido.Message("note_on", note=43, velocity=0, time=480))
    lead = mido.MidiTrack([mido.MetaMessage("track_name", name="lead", time=0)])
    lead.append(mido.Message("note_on", note=70, velocity=80, time=2400))
    lead.append(mido.MetaMessage("end_of_track", time=480))
    file.tracks += [tempo, bass, lead]
    path = tmp_path / "song.mid"
    file.save(path)
    return path


def test_notes_become_spans_on_the_tempo_map(midi):
    assert seconds(read_midi_spans(midi, "bass")) == [(0.5, 1.0), (2.0, 3.0)]
    assert seconds(read_midi_spans(midi, 2)) == [(0.5, 1.0), (2.0, 3.0)]
    assert seconds(read_midi_spans(midi, "bass", gap_s=1.0)) == [(0.5, 3.0)]


def test_a_note_that_never_ends_lasts_to_the_end_of_its_track(midi):
    assert seconds(read_midi_spans(midi, "lead")) == [(4.0, 5.0)]
    assert seconds(read_midi_spans(midi)) == [(0.5, 1.0), (2.0, 3.0), (4.0, 5.0)]


def test_what_is_wrong_with_a_midi_file_is_told(midi, tmp_path):
    (tmp_path / "bad.mid").write_bytes(b"not midi")
    mido.MidiFile(tracks=[mido.MidiTrack()]).save(tmp_path / "empty.mid")
    mido.MidiFile(type=2, tracks=[mido.MidiTrack()]).save(tmp_path / "two.mid")
    (tmp_path / "short.mid").write_bytes(midi.read_bytes()[:60])
    for path, track, expected in [
        (tmp_path / "none.mid", None, "no such file"),
        (tmp_path / "bad.mid", None, "not a standard MIDI file"),
        (tmp_path / "short.mid", None, "not a standard MIDI file"),
        (tmp_path / "empty.mid", None, "no notes"),
        (tmp_path / "two.mid", None, "type 2"),
        (midi, "horn", "no track 'horn'; there are 1: '', 2: 'bass', 3: 'lead'"),
        (midi, 1, "no notes in track 1"),
        (midi, 4, "no track 4"),
    ]:
        with pytest.raises(InputError, match=expected):
            read_midi_spans(path, track)


def test_labels_as_audacity_writes_them(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text(
        "1.000000\t2.500000\tvox: lead vocals\r\n\\\t100.0\t2000.0\n3,5\t3,5\tRefrain ö\n\n0\t1\n",
        encoding="utf-8",
    )
    assert read_labels(path) == (
        Label("vox: lead vocals", 1.0, 2.5),
        Label("Refrain ö", 3.5, 3.5),
        Label("", 0.0, 1.0),
    )


@pytest.mark.parametrize("line", ["1.0 2.0 no tabs", "2\t1\tbackwards", "nan\t2\tx", "-1\t2\tx"])
def test_a_line_that_is_no_label_is_told_with_its_number(tmp_path, line):
    path = tmp_path / "labels.txt"
    path.write_text(f"0\t1\tgood\n{line}\n")
    with pytest.raises(InputError, match="line 2"):
        read_labels(path)


def test_labels_become_prompts_by_name():
    labels = [
        Label("vox", 5, 6),
        Label("drums", 0, 2),
        Label("vox: lead vocals", 1, 2),
        Label("- vox", 3, 4),
        Label("VOX", 7, 8),
        Label("bass: bass guitar", 4, 4),
        Label("", 0, 9),
    ]
    assert prompts_from_labels(labels) == (
        Prompt("lead vocals", "vox", (Span(1, 2), Span(3, 4, "-"), Span(5, 6), Span(7, 8))),
        Prompt("drums", None, (Span(0, 2),)),
        Prompt("bass guitar", "bass"),
    )
