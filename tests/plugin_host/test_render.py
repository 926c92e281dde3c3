import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bridge import Engine, InputError
from plugin_host import chain_from_preset
from plugin_host.cli import main
from plugin_host.files import riff
from plugin_host.render import list_audio, render_file
from presets import Effect, Preset, PresetError, PresetStem, ResidualStem
from tests.support.host_audio import RATE, music


@pytest.fixture(scope="module")
def engine(bundle):
    with Engine(bundle, threads=1) as engine:
        yield engine


HALF = Preset(stems=(PresetStem("half"),))
QUIET = Preset(
    stems=(PresetStem("half", chain=(Effect("Gain", parameters={"gain_db": -6.0}),)),),
    residual=ResidualStem(mute=True),
)


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("flac", "PCM_24"),
        ("aiff", "PCM_24"),
        ("ogg", "VORBIS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_rate_channels_subtype_and_length_are_kept(engine, tmp_path, suffix, subtype):
    source, target = tmp_path / f"a.{suffix}", tmp_path / "out" / f"a.{suffix}"
    soundfile.write(source, music().T, RATE, subtype=subtype)
    done = render_file(source, target, HALF, separator=engine)
    assert done.files == {"remix": target}
    before, after = soundfile.info(source), soundfile.info(target)
    for field in ("samplerate", "channels", "format", "subtype"):
        assert getattr(after, field) == getattr(before, field)
    if suffix == "mp3":
        # The format itself counts in blocks of 1152 and adds its own delay.
        assert abs(after.frames - before.frames) <= 2 * 1152
        return
    assert after.frames == before.frames
    if suffix != "ogg":
        # Nothing but the sum of all stems: the source itself, to the step.
        step = {"PCM_16": 2**-15, "PCM_24": 2**-22, "FLOAT": 1e-6}[subtype]
        assert np.abs(read(target) - read(source)).max() <= step


def test_rf64_stays_rf64(engine, tmp_path):
    source, target = tmp_path / "a.wav", tmp_path / "out" / "a.wav"
    soundfile.write(source, music().T, RATE, format="RF64", subtype="PCM_24")
    render_file(source, target, HALF, separator=engine)
    assert soundfile.info(target).format == "RF64"


def test_broadcast_data_and_cues_are_kept(engine, tmp_path):
    source, target = tmp_path / "a.wav", tmp_path / "out" / "a.wav"
    soundfile.write(source, music().T, RATE, subtype="PCM_16")
    chunks = [(b"bext", bytes(602)), (b"cue ", b"\1" + bytes(27)), (b"LIST", b"adtllabl")]
    riff.append_chunks(source, chunks)
    render_file(source, target, HALF, separator=engine)
    assert riff.read_metadata(target) == chunks


def test_chains_per_stem_are_rendered(engine, tmp_path):
    source, target = tmp_path / "a.wav", tmp_path / "out" / "a.wav"
    soundfile.write(source, music().T, RATE, subtype="FLOAT")
    render_file(source, target, QUIET, separator=engine)
    stem = engine.separate(read(source), RATE, ["half"]).stems["half"]
    assert np.abs(read(target) - 10 ** (-6 / 20) * stem).max() < 1e-5


def test_stems_instead_of_their_sum(engine, tmp_path):
    source, target = tmp_path / "a.wav", tmp_path / "out" / "a.wav"
    soundfile.write(source, music().T, RATE, subtype="FLOAT")
    done = render_file(source, target, HALF, output="stems", separator=engine)
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == [
        "half.wav",
        "residual.wav",
    ]
    total = sum(read(path) for path in done.files.values())
    assert np.abs(total - read(source)).max() < 1e-5


def test_what_is_done_is_not_done_again(engine, tmp_path):
    source, target = tmp_path / "a.flac", tmp_path / "out" / "a.flac"
    soundfile.write(source, music().T, RATE)
    assert not render_file(source, target, HALF, separator=engine).skipped
    before = target.stat().st_mtime_ns
    assert render_file(source, target, HALF, separator=engine).skipped
    assert target.stat().st_mtime_ns == before
    # Another preset renders anew over our own file, but never over somebody else's.
    assert not render_file(source, target, QUIET, separator=engine).skipped
    soundfile.write(target, music(seed=1).T, RATE)
    with pytest.raises(InputError, match="--overwrite"):
        render_file(source, target, HALF, separator=engine)
    assert not render_file(source, target, HALF, separator=engine, overwrite=True).skipped


def test_a_file_is_not_rendered_over_itself(engine, tmp_path):
    source = tmp_path / "a.wav"
    soundfile.write(source, music().T, RATE)
    with pytest.raises(InputError, match="over itself"):
        render_file(source, source, HALF, separator=engine, overwrite=True)


def test_too_loud_for_integers_becomes_float_or_is_told(engine, tmp_path):
    loud = Preset(after=(Effect("Gain", parameters={"gain_db": 20.0}),))
    soundfile.write(tmp_path / "a.wav", music().T, RATE, subtype="PCM_16")
    done = render_file(tmp_path / "a.wav", tmp_path / "o" / "a.wav", loud, separator=engine)
    assert "float32" in done.note
    assert soundfile.info(tmp_path / "o" / "a.wav").subtype == "FLOAT"
    soundfile.write(tmp_path / "a.flac", music().T, RATE, subtype="PCM_16")
    with pytest.raises(InputError, match="lower a gain"):
        render_file(tmp_path / "a.flac", tmp_path / "o" / "a.flac", loud, separator=engine)
    assert not (tmp_path / "o" / "a.flac").exists()


@pytest.fixture
def render(bundle, tmp_path, capsys):
    preset = tmp_path / "chain.toml"
    preset.write_text('format = 1\n[[prompts]]\ntext = "half"\n[[after]]\nplugin = "Reverb"\n')

    def run(*arguments):
        options = ["--chain", str(preset), "--model", str(bundle), "--in-process"]
        code = main(["render", *map(str, arguments), *options, "-o", str(tmp_path / "out")])
        return code, *capsys.readouterr()

    return run


def test_a_folder_of_files_is_rendered_as_it_is_laid_out(render, tmp_path):
    (tmp_path / "in" / "day ö").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "a.wav", music(0.5).T, RATE)
    soundfile.write(tmp_path / "in" / "day ö" / "b.flac", music(0.5, channels=1).T, 48000)
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    code, out, err = render(tmp_path / "in", "--json")
    assert code == 0, err
    files = json.loads(out)["files"]
    assert [f["skipped"] for f in files] == [False, False]
    assert soundfile.info(tmp_path / "out" / "a.wav").frames == RATE // 2
    assert soundfile.info(tmp_path / "out" / "day ö" / "b.flac").samplerate == 48000
    assert "1/2 a.wav: solve" in err
    again = json.loads(render(tmp_path / "in", "--json")[1])["files"]
    assert [f["skipped"] for f in again] == [True, True]


def test_one_bad_file_of_several_costs_only_itself(render, tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ac":
        soundfile.write(tmp_path / "in" / f"{name}.wav", music(0.3).T, RATE)
    (tmp_path / "in" / "b.wav").write_text("not audio")
    audio = music(0.3)
    audio[0, 7] = np.nan
    soundfile.write(tmp_path / "in" / "d.wav", audio.T, RATE, subtype="FLOAT")
    code, out, err = render(tmp_path / "in", tmp_path / "missing.wav", "--json")
    assert code == 1
    report = json.loads(out)
    assert [Path(row["input"]).name for row in report["files"]] == ["a.wav", "c.wav"]
    failed = {Path(row["input"]).name: row["error"] for row in report["failed"]}
    assert set(failed) == {"b.wav", "missing.wav", "d.wav"}
    assert all(name in error for name, error in failed.items())
    assert "2 of 5 files done; failed: " in err.splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "c.wav"]


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_folder_that_cannot_be_read_is_told_and_one_that_vanished_is_not(
    tmp_path, monkeypatch, error
):
    for name in ("gone", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").touch()
    scan = os.scandir

    def failing(path):
        if os.path.basename(path) == "gone":
            raise error(2, "no", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", failing)
    if error is PermissionError:
        with pytest.raises(InputError, match=r"gone: the folder cannot be read \(no\)"):
            list(list_audio([tmp_path]))
    else:
        assert [found for found, _ in list_audio([tmp_path])] == [tmp_path / "here" / "a.wav"]


def test_results_are_no_inputs_of_the_next_run(render, tmp_path):
    soundfile.write(tmp_path / "a.wav", music(0.3).T, RATE)
    for skipped in (False, True):
        code, out, err = render(tmp_path, "--json")
        assert code == 0, err
        (row,) = json.loads(out)["files"]
        assert (row["input"], row["skipped"]) == (str(tmp_path / "a.wav"), skipped)


def test_a_stem_never_replaces_a_file_that_is_read(render, tmp_path):
    folder = tmp_path / "out" / "half"
    folder.mkdir(parents=True)
    soundfile.write(folder / "half.wav", music(0.3).T, RATE)
    soundfile.write(tmp_path / "half.wav", music(0.3).T, RATE)
    before = (folder / "half.wav").read_bytes()
    code, _, err = render(tmp_path / "half.wav", folder / "half.wav", "--stems", "--overwrite")
    assert code != 0
    assert "over itself" in err
    assert (folder / "half.wav").read_bytes() == before


def test_an_interrupted_run_goes_on_where_it_stopped(render, bundle, tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abcdef":
        soundfile.write(tmp_path / "in" / f"{name}.wav", music(0.5).T, RATE)
    program = "import sys; from plugin_host.cli import main; sys.exit(main())"
    preset = tmp_path / "chain.toml"
    options = ["--chain", preset, "--model", bundle, "--in-process", "-o", tmp_path / "out"]
    run = subprocess.Popen(
        [sys.executable, "-c", program, "render", tmp_path / "in", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    run.stdout.readline()
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert run.returncode == 130
    finished = {path.name for path in (tmp_path / "out").iterdir()}
    assert all(name.endswith(".wav") and not name.startswith(".") for name in finished)
    rows = json.loads(render(tmp_path / "in", "--json")[1])["files"]
    assert len(rows) == 6
    assert sum(row["skipped"] for row in rows) == len(finished)


@pytest.mark.parametrize(
    ("make", "expected"),
    [(Path.mkdir, "no audio file in this folder"), (str, "no such file")],
)
def test_nothing_to_render_is_told(render, tmp_path, make, expected):
    make(tmp_path / "in")
    code, _, err = render(tmp_path / "in")
    assert code == 2
    assert expected in err


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (Effect("Compresor"), "did you mean 'Compressor'"),
        (Effect("Gain", parameters={"gain": 1.0}), "no parameter 'gain'"),
        (Effect("Gain", parameters={"gain_db": "loud"}), "gain_db = 'loud' is refused"),
        (Effect("Gain", state="!"), "state cannot be restored"),
        (Effect("/etc/hostname"), "was not allowed here"),
        (Effect("Convolution"), "cannot be loaded"),
    ],
)
def test_plug_ins_that_cannot_be_set_up_are_told(effect, expected):
    with pytest.raises(PresetError, match=expected):
        chain_from_preset(Preset(before=(effect,)))


def test_a_watermark_is_not_silently_ignored():
    """It travels to the engine, which refuses it for a model that marks nothing."""
    preset = Preset(stems=(PresetStem("drums"),), watermark=5)
    with pytest.raises(InputError, match="watermark"):
        chain_from_preset(preset, in_process=True)(music(1.0), RATE)
