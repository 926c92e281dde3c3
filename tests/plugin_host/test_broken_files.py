"""Files as crashes, pipes, full disks and joining leave them: no sound is lost without a word."""

import functools
import io
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import InputError
from plugin_host.files import riff
from plugin_host.files.audio_files import (
    AudioReader,
    probe,
    read_audio,
    refusal,
    write_audio,
)
from plugin_host.files.stem_files import comment_of

RATE = 44100
SAMPLES = 30011

KINDS = {
    "WAV/PCM_U8": (1,), "WAV/PCM_16": (1, 2), "WAV/PCM_24": (2, 6), "WAV/FLOAT": (2,),
    "WAVEX/PCM_16": (6,), "RF64/PCM_16": (2,), "RF64/FLOAT": (2,), "W64/PCM_24": (1, 2),
    "W64/FLOAT": (2,), "AIFF/PCM_S8": (1,), "AIFF/PCM_16": (2,), "AIFF/FLOAT": (2,),
    "FLAC/PCM_16": (2,), "FLAC/PCM_24": (1, 6), "OGG/VORBIS": (1, 2), "OGG/OPUS": (2,),
    "MP3/MPEG_LAYER_III": (1, 2),
}  # fmt: skip
"""Format and subtype of every kind that is written, and channels to try it with."""

CASES = [f"{kind}/{channels}" for kind, counts in KINDS.items() for channels in counts]
CHUNKED = [case for case in CASES if case.split("/")[0] in ("WAV", "WAVEX", "RF64", "W64", "AIFF")]
LOSSLESS = [case for case in CASES if case.split("/")[0] not in ("OGG", "MP3")]


def rate_of(case):
    return 48000 if "OPUS" in case else RATE


@functools.cache
def whole(case):
    """Return the bytes of a sound file, and what they decode to."""
    file_format, subtype, channels = case.split("/")
    rng = np.random.default_rng(7)
    steps = rng.uniform(-0.1, 0.1, (int(channels), SAMPLES))
    sound = (0.5 * np.sin(np.arange(SAMPLES) / 20) + steps).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole"
        write_audio(path, sound, rate_of(case), file_format=file_format, subtype=subtype)
        return path.read_bytes(), read_audio(path)[0]


def read(data):
    """Return what a file of these bytes gives: audio and notes; InputError if nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound"
        path.write_bytes(data)
        audio, info = read_audio(path)
        assert info.samples == audio.shape[1]
        return audio, " ".join(info.notes)


@pytest.mark.parametrize("case", CASES)
def test_a_whole_file_gives_all_of_it_and_no_note(case):
    data, _ = whole(case)
    audio, notes = read(data)
    slack = 2 * 1152 if case.startswith("MP3") else 0
    assert abs(audio.shape[1] - SAMPLES) <= slack
    assert notes == ""


@settings(max_examples=150)
@given(case=st.sampled_from(CASES), cut=st.floats(0, 1, exclude_max=True))
def test_what_is_cut_off_is_told_and_the_rest_is_there(case, cut):
    data, sound = whole(case)
    try:
        audio, notes = read(data[: int(len(data) * cut)])
    except InputError:
        return
    if audio.shape[1] < sound.shape[1]:
        assert "breaks off after" in notes
    if case in LOSSLESS:
        assert np.array_equal(audio, sound[:, : audio.shape[1]])


@pytest.mark.parametrize("case", CHUNKED)
def test_a_cut_file_keeps_every_sample_that_is_there(case):
    data, sound = whole(case)
    (where,) = riff.find_sounds(io.BytesIO(data), len(data))
    kept = SAMPLES // 3
    end = where.offset + kept * where.frame_bytes
    audio, notes = read(data[:end])
    assert np.array_equal(audio, sound[:, :kept])
    assert f"after {kept / RATE:.1f} of {SAMPLES / RATE:.1f} s" in notes


@settings(max_examples=150)
@given(
    case=st.sampled_from(CASES),
    patches=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1)), max_size=4
    ),
    in_header=st.booleans(),
)
def test_damage_ends_in_audio_or_an_error_of_ours(case, patches, in_header):
    data = bytearray(whole(case)[0])
    reach = min(len(data), 120) if in_header else len(data)
    for at, patch in patches:
        start = int(at * reach)
        data[start : start + len(patch)] = patch[: len(data) - start]
    try:
        audio, _ = read(bytes(data))
    except InputError:
        return
    assert audio.size > 0
    assert np.isfinite(audio).all()


def size_field(case, data):
    """Return where the size of the samples stands, and how it is written."""
    if case.startswith("RF64"):
        return 28, "<Q", 0
    (where,) = riff.find_sounds(io.BytesIO(data), len(data))
    if case.startswith("AIFF"):
        return where.offset - 12, ">I", 8
    if case.startswith("W64"):
        return where.offset - 8, "<Q", 24
    return where.offset - 4, "<I", 0


@settings(max_examples=100)
@given(
    case=st.sampled_from(CHUNKED),
    size=st.one_of(st.just(0), st.just(0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)),
)
def test_a_wrong_size_in_the_header_loses_nothing_without_a_word(case, size):
    data, sound = whole(case)
    data = bytearray(data)
    at, layout, more = size_field(case, bytes(data))
    (where,) = riff.find_sounds(io.BytesIO(data), len(data))
    struct.pack_into(layout, data, at, (size + more) % (1 << 32))
    audio, notes = read(bytes(data[: where.offset + where.size_bytes]))
    assert np.array_equal(audio[:, :SAMPLES], sound[:, : audio.shape[1]])
    if size != where.size_bytes:
        assert notes


@pytest.mark.parametrize("case", CHUNKED)
def test_sizes_that_a_crashed_recorder_left_at_0_are_measured(case):
    data, sound = whole(case)
    data = bytearray(data)
    at, layout, more = size_field(case, bytes(data))
    (where,) = riff.find_sounds(io.BytesIO(data), len(data))
    struct.pack_into(layout, data, at, more)
    if layout != "<Q":
        data[4:8] = bytes(4)
    audio, notes = read(bytes(data[: where.offset + where.size_bytes]))
    assert np.array_equal(audio, sound)
    assert "does not tell how long it is" in notes


@pytest.mark.parametrize("case", ["WAV/PCM_16/2", "AIFF/PCM_16/2", "W64/FLOAT/2"])
def test_an_empty_file_is_empty_whatever_follows(case, tmp_path):
    file_format, subtype, _ = case.split("/")
    write_audio(
        tmp_path / "a", np.zeros((2, 0), np.float32), RATE, file_format=file_format,
        subtype=subtype, comment="a comment that is no sound",
    )  # fmt: skip
    with pytest.raises(InputError, match="no samples"):
        read_audio(tmp_path / "a")


@pytest.mark.parametrize("case", [case for case in CASES if "MP3" not in case])
def test_joined_files_are_read_to_the_end_of_the_last(case):
    data, sound = whole(case)
    audio, notes = read(data * 3)
    assert np.array_equal(audio, np.concatenate([sound] * 3, axis=1))
    assert notes == ""


@pytest.mark.parametrize("channels", [1, 2])
def test_joined_mp3_files_are_read_to_the_end_of_the_last(channels):
    data, sound = whole(f"MP3/MPEG_LAYER_III/{channels}")
    audio, _ = read(data + b"TAG" + bytes(125) + data)
    assert np.array_equal(audio, np.concatenate([sound] * 2, axis=1))


def test_sections_of_different_kinds_are_refused():
    with pytest.raises(InputError, match="split it"):
        read(whole("FLAC/PCM_24/1")[0] + whole("FLAC/PCM_24/6")[0])


@pytest.mark.parametrize("case", ["WAV/PCM_16/2", "W64/FLOAT/2", "AIFF/PCM_16/2"])
def test_a_second_chunk_of_samples_is_told(case):
    data, sound = whole(case)
    kind = {"WAV": b"data", "W64": b"data", "AIFF": b"SSND"}[case.split("/")[0]]
    at = data.index(kind)
    more = data[at:] + data[at:] if len(data[at:]) % 2 == 0 else data[at:]
    audio, notes = read(data[:at] + more)
    assert np.array_equal(audio[:, : sound.shape[1]], sound)
    assert "were not read" in notes


APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 40, 1, 0) + bytes(8)


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize(
    "tags",
    [b"TAG" + bytes(125), bytes(40) + APE, bytes(40) + APE + b"TAG" + b"x" * 125],
    ids=["ID3v1", "APE", "both"],
)
def test_tags_behind_a_flac_cost_nothing_of_it(channels, tags):
    data, sound = whole(f"FLAC/PCM_24/{channels}")
    for file, times in ((data + tags, 1), (2 * (data + tags), 2)):
        audio, notes = read(file)
        assert np.array_equal(audio, np.concatenate([sound] * times, axis=1))
        assert notes == ""


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "ULAW"])
def test_joined_caf_files_are_read_to_the_end_of_the_last(subtype):
    memory = io.BytesIO()
    steps = np.random.default_rng(0).uniform(-0.5, 0.5, (SAMPLES, 2))
    soundfile.write(memory, steps, RATE, subtype, format="CAF")
    sound, notes = read(memory.getvalue())
    assert notes == ""
    audio, notes = read(3 * memory.getvalue())
    assert np.array_equal(audio, np.concatenate([sound] * 3, axis=1))
    assert notes == ""


@pytest.mark.parametrize("file_format", sorted(soundfile.available_formats()))
def test_no_format_loses_its_end_without_a_word(file_format):
    memory = io.BytesIO()
    subtypes = [None, *soundfile.available_subtypes(file_format)]
    # Of RAW nothing can be known, and of SD2 half is in another file.
    for subtype in subtypes if file_format not in ("RAW", "SD2") else []:
        try:
            soundfile.write(memory, np.zeros((SAMPLES, 1)), 8000, subtype, format=file_format)
            break
        except (soundfile.SoundFileError, ValueError, TypeError):
            memory = io.BytesIO()
    data = memory.getvalue()
    try:
        audio, notes = read(data[: len(data) // 2])
    except InputError:
        return
    assert audio.shape[1] >= SAMPLES - 1 or notes


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fork", ["._sound", ".AppleDouble/sound", "._"])
@pytest.mark.parametrize("content", [b"\0\x05\x16\x07", bytes(range(256)) * 16])
def test_what_a_mac_leaves_beside_a_file_is_no_part_of_it(
    case, fork, content, tmp_path, monkeypatch
):
    data, sound = whole(case)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sound"
    (tmp_path / fork).parent.mkdir(exist_ok=True)
    (tmp_path / fork).write_bytes(content)
    # As it is, and spliced; with a comment, which a name of our own is known by.
    for written, times in ((data, 1), (data * 2, 2)):
        path.write_bytes(written)
        audio, info = read_audio(path)
        assert np.array_equal(audio, np.concatenate([sound] * times, axis=1))
        assert info.notes == () or (case.startswith("MP3") and times == 2)
    if fork != "._sound":
        return
    file_format, subtype, _ = case.split("/")
    write_audio(
        path, sound, rate_of(case), file_format=file_format, subtype=subtype, comment="ours"
    )
    if file_format not in ("W64",):
        assert "ours" in comment_of(path)


def test_what_a_mac_left_in_the_current_folder_hinders_no_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "._").write_bytes(bytes(range(256)))
    for file_format, subtype, channels in (case.split("/") for case in CASES):
        refusal.cache_clear()
        rate = 48000 if subtype == "OPUS" else RATE
        assert refusal(file_format, subtype, rate, int(channels)) is None


def test_what_follows_the_samples_and_is_no_chunk_is_told():
    _, notes = read(whole("WAV/PCM_16/2")[0] + b"\x01\x02" * 5000)
    assert "10000 bytes follow" in notes


def quiet_start():
    """A song whose bit rate varies, so that its first frames say nothing about its length."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 2))
    sound = np.concatenate([noise, np.zeros((4 * RATE, 2)), noise])
    memory = io.BytesIO()
    soundfile.write(
        memory, sound, RATE, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE",
        compression_level=0.0,
    )  # fmt: skip
    return memory.getvalue(), len(sound)


def without_xing(data):
    at = data.index(b"\xff\xfb", 4)
    return data[at:]


def test_an_mp3_that_does_not_tell_its_length_is_read_to_the_end(tmp_path):
    data, samples = quiet_start()
    path = tmp_path / "a.mp3"
    path.write_bytes(without_xing(data))
    frames = -(-samples // 1152) + 1
    audio, info = read_audio(path)
    assert audio.shape == (2, frames * 1152)
    assert info.notes == ()
    assert probe(path).samples == frames * 1152
    # As any decoder gives it that is not told the delay of the encoder: what libsndfile reads
    # before it stops is the same.
    start = soundfile.read(path, dtype="float32")[0].T
    assert np.array_equal(audio[:, : start.shape[1]], start)


def test_an_mp3_that_tells_less_than_it_holds_is_read_to_the_end():
    data, samples = quiet_start()
    at = data.index(b"Xing")
    patched = bytearray(data)
    struct.pack_into(">I", patched, at + 8, 40)
    audio, _ = read(bytes(patched))
    assert samples <= audio.shape[1] <= samples + 2 * 1152


@settings(max_examples=30)
@given(at=st.floats(0.1, 0.9), junk=st.binary(min_size=1, max_size=3000))
def test_what_is_no_frame_of_an_mp3_is_left_out_and_told(at, junk):
    data, sound = whole("MP3/MPEG_LAYER_III/2")
    start = data.index(b"\xff\xfb", int(len(data) * at))
    if junk[:1] == b"\xff" or not junk.strip(b"\0"):
        junk = b"x" + junk
    audio, notes = read(data[:start] + junk + data[start:])
    assert np.array_equal(audio, sound)
    assert f"{len(junk)} bytes that are no sound of its kind" in notes


def test_an_mp3_in_a_wav_file_is_read_to_the_end():
    data, _ = quiet_start()
    frames = without_xing(data)
    fmt = struct.pack("<HHIIHHHHIHHH", 0x55, 2, RATE, 16000, 1, 0, 12, 1, 2, 1152, 1, 1393)
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", len(frames)) + frames
    audio, notes = read(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert np.array_equal(audio, read(frames)[0])
    assert notes == ""


@pytest.mark.parametrize("counted", [0, 1])
def test_an_mp3_may_count_the_frame_that_announces_the_others(counted):
    data, sound = whole("MP3/MPEG_LAYER_III/2")
    patched = bytearray(data)
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    struct.pack_into(">I", patched, at, struct.unpack_from(">I", data, at)[0] + counted)
    audio, notes = read(bytes(patched))
    assert audio.shape[1] >= sound.shape[1]
    assert notes == ""


@pytest.mark.parametrize("file_format", ["AU", "SVX", "MAT4", "WVE"])
def test_what_libsndfile_notes_about_other_formats_is_told(file_format):
    memory = io.BytesIO()
    soundfile.write(memory, np.zeros(SAMPLES), 8000, format=file_format)
    assert read(memory.getvalue())[1] == ""
    _, notes = read(memory.getvalue()[: SAMPLES // 2])
    assert "breaks off after" in notes


@pytest.mark.parametrize("size", [-1, 1 << 40, 120_044])
def test_a_caf_file_is_read_whatever_size_it_tells(size):
    memory = io.BytesIO()
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (SAMPLES, 2))
    soundfile.write(memory, sound, RATE, "PCM_16", format="CAF")
    data = bytearray(memory.getvalue())
    at = data.index(b"data") + 4
    data = data[: at + 8 + struct.unpack_from(">q", data, at)[0]]
    struct.pack_into(">q", data, at, size)
    audio, notes = read(bytes(data))
    assert audio.shape[1] >= SAMPLES - 1
    assert ("breaks off" in notes) == (size > len(data))


def ogg_pages(data):
    starts = []
    at = data.find(b"OggS")
    while at >= 0:
        starts.append(at)
        at = data.find(b"OggS", at + 4)
    return [*starts, len(data)]


@pytest.mark.parametrize("case", ["OGG/VORBIS/2", "OGG/OPUS/2"])
def test_a_page_that_is_missing_from_the_middle_is_told(case):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (8 * 48000, 2))
    memory = io.BytesIO()
    soundfile.write(memory, sound, 48000, case.split("/")[1], format="OGG")
    data = memory.getvalue()
    pages = ogg_pages(data)
    middle = len(pages) // 2
    assert middle > 3
    audio, notes = read(data[: pages[middle]] + data[pages[middle + 1] :])
    assert audio.shape[1] < len(sound)
    assert "missing" in notes


@pytest.mark.parametrize("total", [0, 1, SAMPLES // 2, SAMPLES + 5, (1 << 36) - 1])
def test_a_flac_is_read_to_its_end_whatever_its_header_tells(total):
    data, sound = whole("FLAC/PCM_16/2")
    patched = bytearray(data)
    patched[21] = patched[21] & 0xF0 | total >> 32
    struct.pack_into(">I", patched, 22, total & 0xFFFFFFFF)
    audio, notes = read(bytes(patched))
    assert np.array_equal(audio, sound)
    assert bool(notes) == (total > SAMPLES)


@pytest.mark.parametrize("total", [0, (1 << 36) - 1])
def test_a_flac_whose_header_cannot_be_believed_is_counted(tmp_path, total):
    data, sound = whole("FLAC/PCM_16/2")
    patched = bytearray(data)
    patched[21] = patched[21] & 0xF0 | total >> 32
    struct.pack_into(">I", patched, 22, total & 0xFFFFFFFF)
    (tmp_path / "a.flac").write_bytes(patched)
    assert probe(tmp_path / "a.flac").samples == sound.shape[1]


@pytest.mark.parametrize("padded", [True, False])
def test_an_odd_chunk_is_passed_over_with_its_pad_byte_or_without(padded):
    data, sound = whole("WAV/PCM_16/2")
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx" + b"\0" * padded
    audio, notes = read(data[:12] + odd + data[12:])
    assert np.array_equal(audio, sound)
    assert notes == ""


def test_samples_are_never_taken_for_metadata(tmp_path):
    samples = bytes(8) + b"bext" + struct.pack("<I", 64) + b"A" * 64 + bytes(4000)
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, RATE, RATE * 4, 4, 16)
    for size in (0xFFFFFFFF, 0, 0x7FFFF024):
        sound = head + b"data" + struct.pack("<I", size) + samples
        path = tmp_path / f"{size}.wav"
        path.write_bytes(b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + sound)
        assert riff.read_metadata(path) == []
        assert read_audio(path)[0].shape == (2, len(samples) // 4)


def test_silence_from_a_pipe_is_not_walked_through(tmp_path):
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, RATE, RATE * 4, 4, 16)
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + b"\xff" * 4 + head + b"data" + b"\xff" * 4)
    os.truncate(path, 1 << 32)
    assert len(riff.list_chunks(path)) == 2


def test_blocks_are_the_whole_file_in_order(tmp_path):
    data, sound = whole("OGG/VORBIS/2")
    (tmp_path / "a").write_bytes(data)
    reader = AudioReader(tmp_path / "a")
    blocks = list(reader.blocks())
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks, axis=1), sound)
    assert reader.info.samples == SAMPLES
