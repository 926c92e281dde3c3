import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import InputError
from bridge.scratch import DEFAULT, FileArray
from plugin_host.files.audio_files import (
    INTEGER_BITS,
    probe,
    quantise,
    read_audio,
    read_long_audio,
    temporary_beside,
    write_audio,
)


def noise(channels=2, samples=1000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


def test_float_audio_comes_back_to_the_bit(tmp_path):
    path = tmp_path / "ä ö.wav"
    write_audio(path, noise(), 48000)
    audio, info = read_audio(path)
    assert np.array_equal(audio, noise())
    assert (info.sample_rate, info.channels, info.samples) == (48000, 2, 1000)
    assert (info.format, info.subtype) == ("WAV", "FLOAT")
    assert info.duration_s == pytest.approx(1000 / 48000)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24"])
def test_integer_audio_read_and_written_again_is_the_same(tmp_path, subtype):
    first, second = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(first, noise().T, 44100, subtype=subtype)
    audio, info = read_audio(first)
    write_audio(second, audio, info.sample_rate, subtype=subtype)
    assert np.array_equal(read_audio(second)[0], audio)
    assert soundfile.info(second).subtype == subtype


def test_equal_audio_gives_equal_files(tmp_path):
    for name in ("a.wav", "b.wav"):
        write_audio(tmp_path / name, noise(), 44100, comment="same")
    (tmp_path / "b.wav").touch()
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("level", [1.0, 1.5, -1.01])
def test_clipping_is_refused_for_integers(tmp_path, level):
    audio = np.full((1, 4), level, np.float32)
    assert quantise(audio, "PCM_16") is None
    with pytest.raises(InputError, match="clip as PCM_16; use FLOAT"):
        write_audio(tmp_path / "a.wav", audio, 44100, subtype="PCM_16")
    write_audio(tmp_path / "a.wav", audio, 44100)
    assert read_audio(tmp_path / "a.wav")[0][0, 0] == np.float32(level)


@given(st.floats(-1, 0.99), st.sampled_from(sorted(INTEGER_BITS)))
def test_rounding_is_to_the_nearest_step(value, subtype):
    steps = quantise(np.array([value], np.float32), subtype)
    assert steps is not None
    error = abs(float(steps[0]) / 2**31 - np.float32(value))
    assert error <= 2.0 ** -INTEGER_BITS[subtype]


def test_what_cannot_be_read_is_told_in_one_line(tmp_path):
    (tmp_path / "text.wav").write_text("not audio at all")
    (tmp_path / "nothing.wav").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 44100)
    for name, expected in {
        "missing.wav": "no such file",
        ".": "got a folder",
        "text.wav": "not audio",
        "nothing.wav": "not audio",
        "empty.wav": "no samples",
    }.items():
        with pytest.raises(InputError, match=expected) as caught:
            probe(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_located(tmp_path, bad):
    audio = noise(2, 44100)
    audio[1, 22050] = bad
    soundfile.write(tmp_path / "a.wav", audio.T, 44100, subtype="FLOAT")
    with pytest.raises(InputError, match=r"channel 2 at 0\.500 s"):
        read_audio(tmp_path / "a.wav")


def test_an_unreadable_file_is_told(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, noise(), 44100)
    path.chmod(0)
    # Root reads files of mode 0, so an unprivileged user looks.
    code = (
        "import os, sys\n"
        "from bridge.errors import InputError\n"
        "from plugin_host.files.audio_files import probe\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: probe(sys.argv[1])\n"
        "except InputError as e: print(e)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert run.stdout.endswith("cannot be read (Permission denied)\n")


@pytest.mark.timeout(10)
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InputError, match="got something else"):
        probe(tmp_path / "pipe.wav")


def test_a_full_disk_is_told_and_nothing_stays(tmp_path):
    # A limit on the size of files fails a write half way, as a full disk does.
    code = (
        "import resource, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from bridge.errors import InputError\n"
        "from plugin_host.files.audio_files import temporary_beside, write_audio\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with temporary_beside(Path(sys.argv[1])) as t:\n"
        "        write_audio(t, np.ones((2, 100000), np.float32) / 2, 44100)\n"
        "except InputError as e: print('told:', e)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, tmp_path / "a.wav"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("told: ")
    assert "cannot write" in run.stdout
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_file_lies_beside_its_target_and_goes_away(tmp_path):
    def fail(target):
        with temporary_beside(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.name.startswith(".song.")
            assert temporary.stat().st_mode & 0o777 == 0o666 & ~umask
            raise KeyboardInterrupt

    umask = os.umask(0)
    os.umask(umask)
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "song.wav")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3"])
def test_a_long_file_is_read_to_the_same_bits_without_memory(tmp_path, name):
    kinds = {"flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
    suffix = name[2:]
    file_format, subtype = suffix.upper(), kinds[suffix]
    song = 0.3 * noise(samples=600_001)
    write_audio(tmp_path / name, song, 44100, file_format=file_format, subtype=subtype)
    audio, info = read_audio(tmp_path / name)
    long, same = read_long_audio(tmp_path / name)
    assert isinstance(long, FileArray)
    assert same == info
    assert np.array_equal(np.asarray(long), audio)


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "FLOAT"), ("wav", "PCM_24"), ("flac", "PCM_16")]
)
def test_audio_in_a_file_is_written_as_in_memory(tmp_path, suffix, subtype):
    song = noise(samples=600_001)
    long = DEFAULT.file(song.shape)
    long[:] = song
    for name, audio in (("a", song), ("b", long)):
        path = tmp_path / f"{name}.{suffix}"
        write_audio(path, audio, 44100, file_format=suffix.upper(), subtype=subtype, comment="c")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
