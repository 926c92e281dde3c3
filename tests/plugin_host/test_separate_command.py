import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from host_audio import RATE, music

from plugin_host.cli import main


@pytest.fixture
def separate(bundle, tmp_path, capsys):
    """Run the command with the tiny bundle in this process; return code, stdout and stderr."""

    def run(*arguments, output="out"):
        code = main(
            [
                "separate",
                *map(str, arguments),
                "--model",
                str(bundle),
                "--in-process",
                "-o",
                str(tmp_path / output),
            ]
        )
        return code, *capsys.readouterr()

    return run


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def test_one_file_per_stem_with_the_rate_channels_and_length_of_the_input(separate, song, tmp_path):
    code, out, err = separate(song, "--prompt", "Half", "--prompt", "all=nothing")
    assert code == 0
    assert files_below(tmp_path / "out") == ["song/all.wav", "song/half.wav", "song/residual.wav"]
    mixture = read(song)
    total = np.zeros_like(mixture)
    for name in ("all", "half", "residual"):
        info = soundfile.info(tmp_path / "out" / "song" / f"{name}.wav")
        assert (info.samplerate, info.channels, info.frames) == (RATE, 2, mixture.shape[1])
        assert info.subtype == "FLOAT"
        total += read(tmp_path / "out" / "song" / f"{name}.wav")
    assert 20 * np.log10(np.abs(total - mixture).max() + 1e-30) < -100
    assert str(tmp_path / "out" / "song" / "half.wav") in out
    assert "song.wav: solve" in err


def test_the_json_report_is_all_of_stdout(separate, song, tmp_path):
    code, out, _ = separate(song, "--prompt", "half", "--seed", "5", "--steps", "3", "--json")
    assert code == 0
    (track,) = json.loads(out)["tracks"]
    assert track["input"] == str(song)
    assert track["files"] == {
        name: str(tmp_path / "out" / "song" / f"{name}.wav") for name in ("half", "residual")
    }
    assert (track["seed"], track["steps"], track["nfe"]) == (5, 3, 3)
    assert track["seconds"] > 0
    assert track["rtf"] > 0
    assert len(track["model_sha256"]) == 64
    assert track["null_depth_db"] is None or track["null_depth_db"] < -100


def test_spans_apply_to_all_or_to_the_named_stem(separate, song, tmp_path):
    # In the tiny model a positive span gives everything, a negative one nothing.
    code, _, _ = separate(
        song,
        *("-p", "a=half", "-p", "b=half", "--reconstruct", "raw"),
        *("--span", "a@0:0.5", "--not-span", "1:1.4"),
    )
    assert code == 0
    mixture = read(song).mean(axis=0)
    a, b = (read(tmp_path / "out" / "song" / f"{name}.wav")[0] for name in "ab")

    def share(stem, start_s, end_s):
        part = slice(round(start_s * RATE), round(end_s * RATE))
        return float(stem[part] @ mixture[part] / (mixture[part] @ mixture[part]))

    assert share(a, 0.05, 0.45) == pytest.approx(1, abs=0.05)
    assert share(b, 0.05, 0.45) == pytest.approx(0.5, abs=0.05)
    assert share(a, 1.05, 1.35) == pytest.approx(0, abs=0.05)
    assert share(b, 1.05, 1.35) == pytest.approx(0, abs=0.05)


def test_integer_input_can_be_kept_and_sums_exactly(separate, song, tmp_path):
    code, _, _ = separate(song, "-p", "half", "--subtype", "input")
    assert code == 0
    parts = [tmp_path / "out" / "song" / f"{name}.wav" for name in ("half", "residual")]
    assert {soundfile.info(path).subtype for path in parts} == {"PCM_16"}
    total = sum(soundfile.read(path, dtype="int16")[0].astype(int) for path in parts)
    assert np.array_equal(total, soundfile.read(song, dtype="int16")[0])


def test_the_same_call_gives_the_same_bytes_and_may_run_again(separate, song, tmp_path):
    assert separate(song, "-p", "half")[0] == 0
    first = (tmp_path / "out" / "song" / "half.wav").read_bytes()
    assert separate(song, "-p", "half")[0] == 0
    assert (tmp_path / "out" / "song" / "half.wav").read_bytes() == first


def test_other_settings_do_not_replace_earlier_stems(separate, song, tmp_path):
    separate(song, "-p", "half")
    before = (tmp_path / "out" / "song" / "half.wav").read_bytes()
    code, _, err = separate(song, "-p", "half", "--seed", "1")
    assert code == 2
    assert "--overwrite" in err
    assert (tmp_path / "out" / "song" / "half.wav").read_bytes() == before
    assert separate(song, "-p", "half", "--seed", "1", "--overwrite")[0] == 0


def test_a_picture_on_request(separate, song, tmp_path):
    code, out, _ = separate(song, "-p", "half", "--plot")
    assert code == 0
    picture = tmp_path / "out" / "song" / "spectrograms.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in out


def test_several_inputs_go_into_folders_of_their_own(separate, song, tmp_path):
    soundfile.write(tmp_path / "ö two.flac", music(channels=1).T, 48000)
    code, out, _ = separate(song, tmp_path / "ö two.flac", "-p", "half", "--json")
    assert code == 0
    assert [Path(t["input"]).name for t in json.loads(out)["tracks"]] == ["song.wav", "ö two.flac"]
    assert soundfile.info(tmp_path / "out" / "ö two" / "half.wav").samplerate == 48000


def test_prompts_and_settings_from_a_preset(separate, song, tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text(
        'format = 1\nseed = 9\nsteps = 2\n[[prompts]]\ntext = "half"\nname = "lead"\n'
    )
    code, out, _ = separate(song, "--preset", preset, "--seed", "4", "-p", "nothing", "--json")
    assert code == 0
    (track,) = json.loads(out)["tracks"]
    assert (track["seed"], track["steps"]) == (4, 2)
    assert list(track["files"]) == ["lead", "nothing", "residual"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no prompt"),
        (["-p", ""], "expected what to extract"),
        (["-p", "a=half", "-p", "a=nothing"], "two stems would be named 'a'"),
        (["-p", "residual"], "cannot be named 'residual'"),
        (["-p", "a/b=half"], "cannot be a file name"),
        (["-p", "half", "--span", "1"], "expected START:END"),
        (["-p", "half", "--span", "1:0.5"], "ends before it starts"),
        (["-p", "half", "--span", "1:x"], "expected seconds"),
        (["-p", "half", "--span", "1:9"], "outside the clip of 1.50 s"),
        (["-p", "half", "--not-span", "bass@0:1"], "expected one of half"),
        (["-p", "half", "--steps", "0"], "steps is 0"),
        (["-p", "half", "--seed", "-1"], "seed is -1"),
        (["-p", "half", "--solver", "rk4"], "expected euler, midpoint"),
        (["-p", "half", "--window", "1", "--overlap", "2"], "overlap shorter than the window"),
        (["-p", "half", "--subtype", "mp3"], "expected 'float' or 'input'"),
        (["-p", "half", "--promt", "x"], "--prompt"),
        (["-p", "half", "--preset", "bnad"], "did you mean 'band'"),
    ],
)
def test_bad_requests_end_in_one_line(separate, song, tmp_path, arguments, expected):
    code, out, err = separate(song, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("stembridge: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "out").exists()


def nan_file(path):
    audio = music()
    audio[0, 7] = np.nan
    soundfile.write(path, audio.T, RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (str, "no such file"),
        (Path.mkdir, "got a folder"),
        (lambda path: path.write_text("not audio"), "not audio"),
        (lambda path: soundfile.write(path, np.zeros((0, 2)), RATE), "no samples"),
        (nan_file, "NaN or infinite"),
    ],
)
def test_bad_files_end_in_one_line_before_anything_is_written(separate, tmp_path, make, expected):
    make(tmp_path / "bad.wav")
    code, out, err = separate(tmp_path / "bad.wav", "-p", "half")
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_inputs_of_one_name_are_refused_before_work(separate, song, tmp_path):
    (tmp_path / "b").mkdir()
    soundfile.write(tmp_path / "b" / "song.flac", music().T, RATE)
    code, _, err = separate(song, tmp_path / "b" / "song.flac", "-p", "half")
    assert code == 2
    assert "rename one" in err
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_is_told(song, capsys):
    code = main(["separate", str(song), "-p", "x", "--model", "nope", "--in-process"])
    err = capsys.readouterr().err
    assert code == 2
    assert "nope" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("samples", "rate", "channels"),
    [
        (1, 44100, 2),
        (64, 16000, 1),
        (16000, 16000, 1),
        (16001, 16000, 1),
        (3000, 192000, 8),
        (4000, 8000, 1),
    ],
)
def test_any_length_rate_and_number_of_channels(separate, tmp_path, samples, rate, channels):
    audio = music(samples / rate, rate, channels) if samples > 1 else np.full((2, 1), 0.25)
    soundfile.write(tmp_path / "a.wav", audio.T, rate, subtype="FLOAT")
    code, _, err = separate(tmp_path / "a.wav", "-p", "half")
    assert code == 0, err
    parts = [read(tmp_path / "out" / "a" / f"{name}.wav") for name in ("half", "residual")]
    assert parts[0].shape == (channels, samples)
    assert np.abs(sum(parts) - read(tmp_path / "a.wav")).max() < 1e-5


def test_silence_stays_silent(separate, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((5000, 2)), RATE)
    assert separate(tmp_path / "a.wav", "-p", "half")[0] == 0
    for name in ("half", "residual"):
        assert not read(tmp_path / "out" / "a" / f"{name}.wav").any()


def test_bext_and_cues_follow_the_audio(separate, song, tmp_path):
    from plugin_host import riff

    chunks = [(b"bext", b"x" * 602), (b"cue ", b"\0\0\0\0")]
    riff.append_chunks(song, chunks)
    assert separate(song, "-p", "half")[0] == 0
    assert riff.read_metadata(tmp_path / "out" / "song" / "half.wav") == chunks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_and_exits_130(bundle, tmp_path, number):
    soundfile.write(tmp_path / "long.wav", music(40, 16000, 1).T, 16000)
    program = "import sys; from plugin_host.cli import main; sys.exit(main())"
    options = ["--in-process", "--model", bundle, "--steps", "1000", "-o", tmp_path / "out"]
    run = subprocess.Popen(
        [sys.executable, "-c", program, "separate", tmp_path / "long.wav", "-p", "half", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in run.stderr:
        if "solve" in line:
            break
    time.sleep(0.1)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
