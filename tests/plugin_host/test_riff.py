import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from plugin_host.files import riff


def wav(path: Path, **options: str) -> Path:
    soundfile.write(path, np.linspace(-0.5, 0.5, 101), 44100, **options)
    return path


@pytest.mark.parametrize("container", ["WAV", "RF64"])
@pytest.mark.parametrize("payload", [b"even", b"odd"])
def test_appended_chunks_come_back_and_the_audio_stays(tmp_path, container, payload):
    path = wav(tmp_path / "a.wav", format=container, subtype="PCM_16")
    before, _ = soundfile.read(path)

    riff.append_chunks(path, [(b"bext", payload), (b"cue ", b"\1\0\0\0"), (b"junk", b"x")])

    assert riff.read_metadata(path) == [(b"bext", payload), (b"cue ", b"\1\0\0\0")]
    after, _ = soundfile.read(path)
    assert np.array_equal(before, after)
    assert path.stat().st_size % 2 == 0


def test_the_riff_size_counts_the_appended_chunks(tmp_path):
    path = wav(tmp_path / "a.wav")
    riff.append_chunks(path, [(b"iXML", b"<xml/>")])
    assert struct.unpack("<I", path.read_bytes()[4:8])[0] == path.stat().st_size - 8


def test_labels_of_cues_are_metadata_and_info_lists_are_not(tmp_path):
    path = wav(tmp_path / "a.wav")
    riff.append_chunks(path, [(b"LIST", b"adtlxyz"), (b"LIST", b"INFOICMT")])
    assert riff.read_metadata(path) == [(b"LIST", b"adtlxyz")]


def test_the_clock_leaves_the_peak_chunk(tmp_path):
    path = wav(tmp_path / "a.wav", subtype="FLOAT")
    assert any(chunk.name == b"PEAK" for chunk in riff.list_chunks(path))
    riff.clear_peak_time(path)
    peak = next(chunk for chunk in riff.list_chunks(path) if chunk.name == b"PEAK")
    assert path.read_bytes()[peak.offset + 4 : peak.offset + 8] == b"\0\0\0\0"


def test_a_file_of_another_kind_has_no_chunks(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(10), 8000)
    assert riff.list_chunks(path) == []
    with pytest.raises(ValueError, match="not a WAV"):
        riff.append_chunks(path, [])


def test_a_truncated_file_ends_the_list(tmp_path):
    path = wav(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:60])
    assert all(c.offset + c.size_bytes <= 60 for c in riff.list_chunks(path))
