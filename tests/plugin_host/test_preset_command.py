import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from bridge.request import Settings
from plugin_host.cli import main
from presets import parse_preset
from tests.support.host_audio import RATE, music


@pytest.fixture
def preset(tmp_path, monkeypatch, capsys):
    """Run ``stembridge preset`` in a project folder with user presets of its own."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(*arguments):
        code = main(["preset", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def shown(preset, name, *arguments):
    code, out, err = preset("show", name, *arguments)
    assert code == 0, err
    return parse_preset(out)


def test_save_show_rename_delete(preset):
    code, out, err = preset(
        *("save", "mine", "-p", "vox=lead vocals", "-p", "drums", "--span", "vox@1:2"),
        *("--seed", "7", "--steps", "3", "--description", "Mine", "--no-pin"),
    )
    assert (code, out) == (0, "")
    assert "saved mine (user)" in err
    saved = shown(preset, "mine")
    assert [p.stem for p in saved.prompts] == ["vox", "drums"]
    assert [len(p.spans) for p in saved.prompts] == [1, 0]
    assert saved.settings == Settings(seed=7, steps=3)
    assert preset("rename", "mine", "yours")[0] == 0
    assert preset("show", "mine")[0] == 2
    assert shown(preset, "yours") == saved
    assert preset("delete", "yours")[0] == 0
    assert preset("show", "yours")[0] == 2


def test_the_user_hides_the_factory_and_the_current_folder_nobody(preset):
    preset("save", "band", "-p", "user", "--no-pin")
    preset("save", "mine", "-p", "user", "--no-pin")
    preset("save", "mine", "-p", "project", "--no-pin", "--in-project")
    assert shown(preset, "band").prompts[0].text == "user"
    rows = json.loads(preset("list", "--json")[1])
    found = [(row["name"], row["where"], row["hidden"]) for row in rows]
    assert [row for row in found if row[0] in ("band", "mine")] == [
        ("band", "user", False),
        ("mine", "user", False),
        ("band", "factory", True),
        ("mine", "project", True),
    ]
    assert shown(preset, "mine").prompts[0].text == "user"
    assert "(hidden)" in preset("list")[1]


@pytest.mark.parametrize(
    "how", [("save", "band", "-p", "x", "--no-pin"), ("rename", "mine", "band")]
)
def test_a_project_cannot_name_a_preset_as_the_factory_does(preset, how):
    preset("save", "mine", "-p", "project", "--no-pin", "--in-project")
    code, _, err = preset(*how, "--in-project")
    assert code == 2
    assert "'band' comes with the program" in err


def test_it_is_said_where_a_preset_came_from(preset):
    preset("save", "mine", "-p", "user", "--no-pin", "--in-project")
    assert preset("show", "band")[2] == "preset band: factory\n"
    assert "preset mine: project, " in preset("show", "mine")[2]
    assert "mine.toml" in preset("show", "mine")[2]


def test_one_broken_file_does_not_hide_the_others(preset, tmp_path):
    preset("save", "good", "-p", "drums", "--no-pin")
    (tmp_path / "data" / "stembridge" / "presets" / "bad.toml").write_text("format = 1\nx = 2")
    code, out, _ = preset("list", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert "unknown field" in rows["bad"]["description"]
    assert rows["good"]["stems"] == ["drums"]


def test_a_preset_can_grow_from_another(preset):
    code, _, _ = preset(
        *("save", "more", "--from", "band", "-p", "organ", "--span", "drums@0:4", "--no-pin")
    )
    assert code == 0
    grown = shown(preset, "more")
    assert [p.stem for p in grown.prompts] == ["drums", "bass", "guitar", "piano", "organ"]
    assert len(grown.prompts[0].spans) == 1
    assert preset("save", "more", "-p", "x", "--no-pin")[0] == 2
    assert preset("save", "more", "-p", "x", "--no-pin", "--overwrite")[0] == 0


def test_export_import_diff(preset, tmp_path):
    preset("save", "mine", "-p", "drums", "--seed", "1", "--no-pin")
    target = tmp_path / "shared" / "theirs.toml"
    assert preset("export", "mine", target)[0] == 0
    assert preset("export", "mine", target)[0] == 2
    assert preset("import", target)[0] == 0
    assert preset("diff", "mine", "theirs")[:2] == (0, "")
    target.write_text(target.read_text().replace("seed = 1", "seed = 2"))
    code, out, _ = preset("diff", "mine", target)
    assert code == 1
    assert "-seed = 1" in out
    assert "+seed = 2" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["save", "x"], "needs a prompt"),
        (["save", "../x", "-p", "a", "--no-pin"], "cannot name a preset"),
        (["save", "x", "-p", "a", "--model", "nope"], "nope"),
        (["save", "x", "-p", "a", "--steps", "0", "--no-pin"], "steps is 0"),
        (["show", "bnad"], "did you mean 'band'"),
        (["delete", "band"], "no user preset 'band'"),
        (["export", "band", "x.txt"], "ending in .toml"),
        (["import", "x.txt"], "ending in .toml"),
        (["import", "none.toml"], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(preset, arguments, expected):
    code, out, err = preset(*arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_a_preset_brings_stems_back_to_the_bit_in_a_fresh_process(preset, bundle, tmp_path):
    soundfile.write(tmp_path / "song.wav", music().T, RATE)
    options = ["-p", "lead=half", "--span", "0.2:0.7", "--seed", "99", "--steps", "3"]
    model = ["--model", str(bundle)]
    assert preset("save", "mine", *options, *model)[0] == 0
    song = str(tmp_path / "song.wav")
    first = ["separate", song, *options, *model, "--in-process", "-o", str(tmp_path / "a")]
    assert main(first) == 0
    program = "import sys; from plugin_host.cli import main; sys.exit(main())"
    again = ["separate", song, "--preset", "mine", "--in-process", "-o", str(tmp_path / "b")]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, *again], check=True, env=path)
    for name in ("lead", "residual"):
        one, two = (tmp_path / d / "song" / f"{name}.wav" for d in "ab")
        assert one.read_bytes() == two.read_bytes()


def test_a_changed_model_is_reported(preset, bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "song.wav", music(0.5).T, RATE)
    preset("save", "mine", "-p", "half", "--model", bundle)
    path = tmp_path / "data" / "stembridge" / "presets" / "mine.toml"
    text = path.read_text()
    sha256 = parse_preset(text).model_sha256
    path.write_text(text.replace(sha256, "0" * 64))
    arguments = ["separate", str(tmp_path / "song.wav"), "--preset", "mine", "--in-process"]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--json"]) == 0
    (track,) = json.loads(capsys.readouterr().out)["tracks"]
    assert any("another state of the model" in note for note in track["notes"])


def test_what_ran_can_be_saved_with_the_provider_and_another_provider_is_reported(
    preset, bundle, tmp_path, capsys
):
    soundfile.write(tmp_path / "song.wav", music(0.5).T, RATE)
    call = ["separate", str(tmp_path / "song.wav"), "--in-process"]
    options = ["-p", "lead=half", "--span", "0.1:0.3", "--seed", "5", "--model", str(bundle)]
    assert main([*call, *options, "--save-preset", "ran", "-o", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    saved = shown(preset, "ran")
    assert saved.provider == "CPUExecutionProvider"
    assert (saved.seed, saved.model) == (5, str(bundle))
    # The model's defaults are written out, so that later ones change nothing.
    assert None not in (saved.model_sha256, saved.steps, saved.solver, saved.window_s)
    assert main([*call, "--preset", "ran", "-o", str(tmp_path / "b"), "--json"]) == 0
    (track,) = json.loads(capsys.readouterr().out)["tracks"]
    assert not [note for note in track["notes"] if "saved" in note]
    for name in ("lead", "residual"):
        one, two = (soundfile.read(tmp_path / d / "song" / f"{name}.wav")[0] for d in "ab")
        assert np.array_equal(one, two)

    path = tmp_path / "data" / "stembridge" / "presets" / "ran.toml"
    path.write_text(path.read_text().replace("CPUExecutionProvider", "CUDAExecutionProvider"))
    assert main([*call, "--preset", "ran", "-o", str(tmp_path / "b"), "--json"]) == 0
    (track,) = json.loads(capsys.readouterr().out)["tracks"]
    assert any("saved on CUDAExecutionProvider" in note for note in track["notes"])

    again = [*call, *options, "--save-preset", "ran", "-o", str(tmp_path / "a")]
    assert main(again) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
    capsys.readouterr()
    assert shown(preset, "ran").provider == "CPUExecutionProvider"


def test_all_that_makes_a_stem_come_back_is_saved(preset):
    options = ["--seed", "7", "--steps", "3", "--solver", "euler", "--window", "4"]
    options += ["--overlap", "1", "--reconstruct", "mask", "--no-predict-spans"]
    options += ["--candidates", "2", "--watermark", "4711"]
    code, _, err = preset("save", "full", "-p", "drums", *options)
    assert code == 0, err
    assert shown(preset, "full").settings == Settings(
        seed=7, steps=3, solver="euler", window_s=4.0, overlap_s=1.0,
        reconstruct="mask", predict_spans=False, candidates=2, watermark=4711,
    )  # fmt: skip
    code, _, err = preset("save", "bad", "-p", "drums", "--watermark", "65536")
    assert code == 2
    assert "watermark" in err
