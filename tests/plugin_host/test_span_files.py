import io
import itertools
import os
import struct
import tracemalloc

import mido
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import InputError, Prompt, Span
from plugin_host.files.span_files import (
    MOST_LABELS,
    Label,
    merge_stretches,
    parse_midi,
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


@pytest.mark.parametrize("line", ["1.0 2.0 no tabs", "2\t1\tbackwards", "nan\t2\tx", "1\tinf\tx"])
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


def test_a_time_in_a_label_names_no_stem():
    labels = [Label("Take 12:30", 1, 2), Label("vox:", 1, 2), Label("-12:30", 3, 4)]
    assert [(p.text, p.name) for p in prompts_from_labels(labels)] == [
        ("Take 12:30", None), ("vox", None), ("12:30", None),
    ]  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"])),
            st.integers(-50, 50),
            st.integers(0, 50),
        )
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_label_is_read_as_it_was_written(tmp_path_factory, rows, encoding, end):
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    lines = [f"{start}\t{start + length}\t{text}{end}" for text, start, length in rows]
    path.write_bytes("".join(lines).encode(encoding))
    for label, (text, start, length) in zip(read_labels(path), rows, strict=True):
        assert (label.text, label.end_s) == (text.strip(), start + length)
        assert label.start_s == (max(start, 0) if start + length > 0 else start)


def test_labels_in_another_encoding_are_told_so(tmp_path):
    (tmp_path / "labels.txt").write_bytes("0\t1\tStöße\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"labels\.txt: .* save the file as UTF-8"):
        read_labels(tmp_path / "labels.txt")


@given(st.sampled_from([(24, 4), (25, 40), (29, 100), (30, 80)]), st.integers(1, 10_000))
def test_notes_on_time_code_have_its_times(tmp_path_factory, division, frames):
    rate, ticks = division
    path = tmp_path_factory.mktemp("midi") / "frames.mid"
    midi = mido.MidiFile(ticks_per_beat=(-rate << 8) | ticks)
    note = {"note": 60, "velocity": 90, "time": frames * ticks}
    midi.tracks.append(
        mido.MidiTrack(
            [mido.MetaMessage("set_tempo", tempo=250_000), mido.Message("note_on", **note),
             mido.Message("note_off", **note)]
        )
    )  # fmt: skip
    midi.save(path)
    second = 30 / 1.001 if rate == 29 else rate
    (span,) = read_midi_spans(path)
    assert (span.start_s, span.end_s) == pytest.approx((frames / second, 2 * frames / second))


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["note_on", "note_off", "control_change", "program_change", "pitchwheel",
                         "sysex", "text", "set_tempo"]),
        st.integers(0, 1 << 20), st.integers(0, 1), st.integers(60, 62), st.integers(0, 2),
    ),
    max_size=40,
)  # fmt: skip


def written(events):
    """Return tracks of events as a MIDI file, and its tracks as the library holds them."""
    file = mido.MidiFile(ticks_per_beat=96)
    for track in events:
        file.tracks.append(mido.MidiTrack())
        for kind, time, channel, note, velocity in track:
            values = {
                "note_on": {"channel": channel, "note": note, "velocity": velocity},
                "note_off": {"channel": channel, "note": note},
                "control_change": {"channel": channel, "control": note, "value": velocity},
                "program_change": {"channel": channel, "program": note},
                "pitchwheel": {"channel": channel, "pitch": note},
                "sysex": {"data": [note] * velocity},
                "text": {"text": "x" * note},
                "set_tempo": {"tempo": 1000 * note},
            }[kind]
            of = mido.MetaMessage if kind in ("text", "set_tempo") else mido.Message
            file.tracks[-1].append(of(kind, time=time, **values))
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue(), file.tracks


def paired(messages):
    """Return the notes of a track by the simplest means."""
    tick, open_notes, notes = 0, [], []
    for message in messages:
        tick += message.time
        if message.type == "note_on" and message.velocity:
            open_notes.append((message.channel, message.note, tick))
        elif message.type in ("note_on", "note_off"):
            key = (message.channel, message.note)
            for begun in [n for n in open_notes if n[:2] == key][:1]:
                open_notes.remove(begun)
                notes.append((begun[2], tick))
    return sorted(notes + [(start, tick) for *_, start in open_notes])


@given(st.lists(EVENTS, min_size=1, max_size=3))
def test_notes_are_those_that_another_reader_finds(events):
    data, tracks = written(events)
    found = parse_midi(data)
    assert [sorted(track.notes) for track in found.tracks] == [paired(track) for track in tracks]
    assert len(found.changes) == 1 + sum(m.type == "set_tempo" for t in tracks for m in t)


@given(
    st.lists(EVENTS, min_size=1, max_size=2),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=5),
    st.floats(0, 1),
)
def test_a_damaged_midi_file_is_read_or_refused(tmp_path_factory, events, patches, cut):
    data = bytearray(written(events)[0])
    for place, value in patches:
        data[int(place * len(data))] = value
    path = tmp_path_factory.mktemp("midi") / "damaged.mid"
    path.write_bytes(data[: round(cut * len(data))])
    refusal = str(path)
    try:
        assert all(0 <= span.start_s < span.end_s for span in read_midi_spans(path))
    except InputError as error:
        refusal = str(error)
    assert refusal.startswith(str(path))


def midi_of(track, before=b""):
    chunk = b"MTrk" + struct.pack(">I", len(track)) + track
    return b"MThd" + struct.pack(">IHHH", 6, 1, 1, 96) + before + chunk


NOTE = b"\x00\x90\x3c\x40\x60\x3c\x00\x00\xff\x2f\x00"


def test_other_chunks_and_a_riff_file_around_it_are_no_obstacle():
    alien = midi_of(NOTE, before=b"XFIH\x00\x00\x00\x03abc")
    riff = b"RMIDdata" + struct.pack("<I", len(alien)) + alien
    for data in (midi_of(NOTE), alien, b"RIFF" + struct.pack("<I", len(riff)) + riff):
        assert parse_midi(data).tracks[0].notes == ((0, 96),)


@pytest.mark.slow
def test_numbers_and_events_without_end_cost_neither_time_nor_memory():
    with pytest.raises(InputError, match="longer than the standard allows"):
        parse_midi(midi_of(b"\xff" * 1_000_000 + b"\x00" + NOTE))
    many = midi_of(b"\x00\x90\x3c\x40" + b"\x00\x3c\x40" * 50_000 + b"\x01\x3c\x00" * 50_000)
    tracemalloc.start()
    parse_midi(many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * len(many)


def test_more_labels_than_people_set_are_refused(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("0\t1\tx\n\n" * MOST_LABELS)
    assert len(read_labels(path)) == MOST_LABELS
    path.write_text("0\t1\tx\n" * (MOST_LABELS + 1))
    with pytest.raises(InputError, match=f"{MOST_LABELS + 1} labels"):
        read_labels(path)


@pytest.mark.parametrize("name", ["Größe", "ピアノ", "bass"])
def test_a_track_is_found_by_its_name_in_utf8_or_latin1(tmp_path, name):
    path = tmp_path / "names.mid"
    midi = mido.MidiFile()
    midi.tracks.append(
        mido.MidiTrack(
            [mido.MetaMessage("track_name", name=name.encode().decode("latin-1")),
             mido.Message("note_on", note=60), mido.Message("note_off", note=60, time=9)]
        )
    )  # fmt: skip
    midi.save(path)
    assert len(read_midi_spans(path, name)) == 1


@given(st.binary(max_size=60) | st.binary(max_size=40).map(b"MThd\0\0\0\x06\0\1\0\1".__add__))
def test_any_bytes_are_read_or_refused_by_name(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "some.file"
    path.write_bytes(data)
    refusals = []
    for read in (read_midi_spans, read_labels):
        try:
            read(path)
        except InputError as error:
            refusals.append(str(error))
    assert all(refusal.startswith(str(path)) for refusal in refusals)


def test_what_is_no_plain_file_or_a_huge_one_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)
    for name in ("pipe", "huge", "missing", "."):
        for read in (read_midi_spans, read_labels):
            with pytest.raises(InputError):
                read(tmp_path / name)
