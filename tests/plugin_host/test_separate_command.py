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

from plugin_host.cli import main
from tests.support.host_audio import RATE, music


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


def test_a_silent_stem_is_told_in_text_and_in_json(separate, song):
    code, out, _ = separate(song, "--prompt", "vox=nothing", "--prompt", "half")
    assert code == 0
    assert "  note: no 'nothing' was heard: silence\n" in out
    assert out.count("note:") == 1
    _, out, _ = separate(song, "--prompt", "vox=nothing", "--json", output="again")
    assert json.loads(out)["tracks"][0]["notes"] == ["no 'nothing' was heard: silence"]


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
        (["-p", "half", "--solver", "rk4"], "expected euler, midpoint, ab2, unipc, cubic, tuned"),
        (["-p", "half", "--window", "1", "--overlap", "2"], "overlap shorter than the window"),
        (["-p", "half", "--subtype", "mp3"], "is not one of 'float', 'input'"),
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


def loud_file(path):
    soundfile.write(path, 7000 * music().T, RATE, subtype="FLOAT")


BAD_FILES = pytest.mark.parametrize(
    ("make", "expected"),
    [
        (str, "no such file"),
        (Path.mkdir, "got a folder"),
        (lambda path: path.write_text("not audio"), "not audio"),
        (lambda path: soundfile.write(path, np.zeros((0, 2)), RATE), "no samples"),
        (nan_file, "NaN or infinite"),
        (loud_file, "expected full scale"),
        (lambda path: soundfile.write(path, np.zeros((4410, 1)), 2_000_000), "2000000"),
    ],
)


@BAD_FILES
def test_bad_files_end_in_one_line_before_anything_is_written(separate, tmp_path, make, expected):
    make(tmp_path / "bad.wav")
    code, out, err = separate(tmp_path / "bad.wav", "-p", "half")
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@BAD_FILES
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_file_of_several_costs_only_itself(separate, tmp_path, make, expected, place):
    names = ["a.wav", "b.wav"]
    for name in names:
        soundfile.write(tmp_path / name, music(0.3).T, RATE)
    make(tmp_path / "bad.wav")
    names.insert(place, "bad.wav")
    inputs = [tmp_path / name for name in names]
    code, out, err = separate(*inputs, "-p", "half", "--json")
    assert code == 1
    report = json.loads(out)
    assert [track["input"] for track in report["tracks"]] == [
        str(path) for path in inputs if path.name != "bad.wav"
    ]
    (failed,) = report["failed"]
    assert failed["input"] == str(tmp_path / "bad.wav")
    assert expected in failed["error"]
    assert "bad.wav" in failed["error"]
    assert err.splitlines()[-1].endswith(f"2 of 3 files done; failed: {tmp_path / 'bad.wav'}")
    assert len(files_below(tmp_path / "out")) == 4


def test_a_span_that_does_not_fit_names_the_file(separate, song, tmp_path):
    soundfile.write(tmp_path / "long.wav", music(4).T, RATE)
    code, out, err = separate(song, tmp_path / "long.wav", "-p", "half", "--span", "0:3")
    assert code == 1
    assert f"{song}: prompt 'half': span 0:3 s lies outside" in err
    assert str(tmp_path / "out" / "long" / "half.wav") in out


@pytest.mark.parametrize("link", [None, os.link, os.symlink])
def test_a_recording_is_never_replaced_by_a_stem(separate, song, tmp_path, link):
    folder = tmp_path / "half"
    folder.mkdir()
    recording = folder / "half.wav"
    song.rename(recording)
    named = recording
    if link is not None:
        named = tmp_path / "elsewhere" / "half.wav"
        named.parent.mkdir()
        link(recording, named)
    before = recording.read_bytes()
    code, _, err = separate(named, "-p", "half", "--overwrite", output=".")
    assert code == 2
    assert "written over itself" in err
    assert recording.read_bytes() == before
    assert files_below(folder) == ["half.wav"]


def test_nor_by_a_stem_of_another_recording(separate, song, tmp_path):
    folder = tmp_path / "song"
    folder.mkdir()
    soundfile.write(folder / "half.wav", music(0.5).T, RATE)
    before = (folder / "half.wav").read_bytes()
    code, _, err = separate(song, folder / "half.wav", "-p", "half", "--overwrite", output=".")
    assert code == 1
    assert f"{folder / 'half.wav'}: would be written over itself" in err
    assert (folder / "half.wav").read_bytes() == before
    assert files_below(tmp_path / "half") == ["half.wav", "residual.wav"]


@pytest.mark.parametrize("name", ["...wav", "..wav", ".wav", "a..wav", "-.wav"])
def test_stems_stay_below_the_output_folder(separate, tmp_path, name):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / name, music(0.3).T, RATE, format="WAV")
    code, out, _ = separate(tmp_path / "in" / name, "-p", "half", output="deep/out")
    assert code == 0, out
    assert files_below(tmp_path / "deep") != []
    (folder,) = (tmp_path / "deep" / "out").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["half.wav", "residual.wav"]


def test_labels_say_where_the_stems_of_prompts_and_presets_sound(separate, song, tmp_path):
    # In the tiny model a negative span gives nothing.
    (tmp_path / "labels.txt").write_text("0\t9\t-Vox\n0\t9\t-All\n0\t1\tbass: half\n")
    (tmp_path / "mine.toml").write_text(
        'format = 1\nreconstruct = "raw"\n[[prompts]]\ntext = "everything"\nname = "vox"\n'
    )
    code, _, err = separate(
        song,
        *("--preset", tmp_path / "mine.toml", "-p", "all=everything"),
        *("--labels", tmp_path / "labels.txt"),
    )
    assert code == 0, err
    stems = {name: read(tmp_path / "out" / "song" / f"{name}.wav") for name in ("vox", "all")}
    assert {name: np.abs(audio).max() < 1e-4 for name, audio in stems.items()} == {
        "vox": True, "all": True,
    }  # fmt: skip
    assert np.abs(read(tmp_path / "out" / "song" / "bass.wav")).max() > 0.01


def test_a_picture_that_cannot_be_drawn_costs_no_stem(separate, song, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # a broken installation
    code, out, _ = separate(song, "-p", "half", "--plot", "--json")
    assert code == 0
    (track,) = json.loads(out)["tracks"]
    assert track["picture"] is None
    assert any("no picture" in note for note in track["notes"])
    assert files_below(tmp_path / "out") == ["song/half.wav", "song/residual.wav"]


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
    from plugin_host.files import riff

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
    _, err = run.communicate()
    assert run.returncode == 130
    assert err.endswith("stembridge: interrupted; nothing half-written is left\n")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def preview_of(separate, *arguments):
    code, out, _ = separate(*arguments, "--json")
    assert code == 0
    (track,) = json.loads(out)["tracks"]
    return track


def test_a_preview_is_of_the_loudest_seconds_and_writes_only_temporary_files(
    separate, tmp_path, monkeypatch
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    audio = 0.1 * music(6, RATE)
    audio[:, 3 * RATE : 5 * RATE] *= 5
    song = tmp_path / "song.wav"
    soundfile.write(song, audio.T, RATE, subtype="FLOAT")
    track = preview_of(separate, song, "-p", "half", "--preview", "2")
    assert track["preview"]["start_s"] == pytest.approx(3, abs=0.2)
    assert track["preview"]["end_s"] == pytest.approx(5, abs=0.2)
    assert not (tmp_path / "out").exists()
    start, end = (round(track["preview"][name] * RATE) for name in ("start_s", "end_s"))
    stems = {name: read(path) for name, path in track["files"].items()}
    assert sorted(stems) == ["half", "residual"]
    assert all(Path(path).is_relative_to(scratch) for path in track["files"].values())
    np.testing.assert_allclose(sum(stems.values()), read(song)[:, start:end], atol=1e-5)


def test_a_preview_without_a_value_is_of_fifteen_seconds_or_all(separate, song):
    whole = soundfile.info(song).duration
    for words in (["--preview", song, "-p", "half"], [song, "-p", "half", "--preview"]):
        track = preview_of(separate, *words)
        assert track["preview"]["end_s"] - track["preview"]["start_s"] == min(15, whole)


def test_a_preview_of_a_stretch_hears_the_spans_in_it(separate, song):
    track = preview_of(separate, song, "-p", "nothing", "--span", "0:0.5", "--preview", "0.25:1")
    assert track["preview"] == {"start_s": 0.25, "end_s": 1.0}
    stem = read(track["files"]["nothing"])
    assert stem.shape[1] == round(0.75 * RATE)
    # The span holds for the first quarter of a second of the stretch, not for the rest.
    heard = np.abs(stem).max(axis=0)
    assert heard[: RATE // 8].max() > 10 * heard[RATE // 2 :].max()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("9:8", "START before END"), ("900:901", "inside the"), ("0", "above 0")],
)
def test_a_preview_of_nothing_is_refused(separate, song, value, expected):
    code, _, err = separate(song, "-p", "half", "--preview", value)
    assert code != 0
    assert expected in " ".join(err.split())
