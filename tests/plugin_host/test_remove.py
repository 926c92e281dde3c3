"""``stembridge remove``, and what ``separate`` asks where it is told nothing."""

import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from plugin_host.cli import main
from tests.support import named_bundle
from tests.support.panels import PROGRAM


def read(path):
    return soundfile.read(path, dtype="float32")[0].T


def test_sounds_are_taken_out_one_after_the_other(bundle, song, tmp_path, capsys):
    options = ["--model", str(bundle), "--in-process"]
    out = tmp_path / "out"
    arguments = ["remove", str(song), "half", "second=half", *options, "-o", str(out)]
    assert main([*arguments, "--removed"]) == 0
    told = capsys.readouterr().out
    assert "half, half taken out" in told
    folder = out / "song"
    assert sorted(p.name for p in folder.iterdir()) == ["cleaned.wav", "half.wav", "second.wav"]
    mixture = read(song)
    # By hand: the second pass hears what the first has left.
    after_one = tmp_path / "one" / "song" / "residual.wav"
    for name, heard, prompt in (("one", song, "half"), ("two", after_one, "second=half")):
        by_hand = ["separate", str(heard), "-p", prompt, *options, "-o", str(tmp_path / name)]
        assert main(by_hand) == 0
        stem = prompt.partition("=")[0]
        found = tmp_path / name / heard.stem / f"{stem}.wav"
        assert np.array_equal(read(folder / f"{stem}.wav"), read(found))
    left = read(tmp_path / "two" / "residual" / "residual.wav")
    assert np.array_equal(read(folder / "cleaned.wav"), left)
    together = sum(read(path).astype(np.float64) for path in folder.iterdir())
    assert np.abs(together - mixture).max() < 1e-6
    # A quarter is left of it: not what one pass leaves.
    assert np.std(left) / np.std(mixture) == pytest.approx(0.25, abs=0.02)


def test_only_the_rest_is_written_unless_asked(bundle, song, tmp_path, capsys):
    options = ["--model", str(bundle), "--in-process", "-o", str(tmp_path / "out"), "--json"]
    assert main(["remove", str(song), "half", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["files"]) == ["cleaned"]
    assert [path.name for path in (tmp_path / "out" / "song").iterdir()] == ["cleaned.wav"]
    # Again is no trouble, other sounds are.
    assert main(["remove", str(song), "half", *options]) == 0
    assert main(["remove", str(song), "nothing", *options]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_in_the_samples_of_the_input_all_files_sum_to_it_exactly(bundle, song, tmp_path):
    options = ["--model", str(bundle), "--in-process", "-o", str(tmp_path / "out"), "--removed"]
    assert main(["remove", str(song), "half", "x=half", *options, "--subtype", "input"]) == 0
    files = [soundfile.read(p, dtype="int16") for p in (tmp_path / "out" / "song").iterdir()]
    assert len(files) == 3
    total = sum(audio.astype(np.int64) for audio, _ in files)
    assert np.array_equal(total, soundfile.read(song, dtype="int16")[0])


@pytest.mark.parametrize(
    ("sounds", "told"),
    [
        (["half", "half"], "half"),
        (["cleaned"], "what the rest is called"),
        (["=x"], "NAME=TEXT"),
        ([" "], "expected what to extract"),
    ],
)
def test_what_cannot_be_taken_out_is_told_before_anything_is_read(
    sounds, told, bundle, song, tmp_path, capsys
):
    out = tmp_path / "out"
    assert main(["remove", str(song), *sounds, "--model", str(bundle), "-o", str(out)]) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def on_a_terminal(answer, *arguments, folder):
    """Run a command whose stdin and stderr are a terminal; return its exit code and the screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
        start_new_session=True,
    )
    os.close(theirs)
    screen = b""
    asked = False
    try:
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # The other side of the terminal is closed.
                break
            if not part:
                break
            screen += part
            if not asked and b"What do you want to hear?" in screen:
                asked = True
                os.write(ours, answer.encode() + b"\n")
    finally:
        os.close(ours)
    return process.wait(), screen.decode()


def test_without_a_prompt_it_is_asked_what_to_hear(song, tmp_path):
    model = named_bundle.build(tmp_path / "named")
    arguments = ("separate", song, "--model", model, "--in-process", "-o", tmp_path / "out")
    code, screen = on_a_terminal("2, most", *arguments, folder=tmp_path)
    assert code == 0, screen
    for line in ("The model named knows:", " 1  most", " 2  little", " 3  sides"):
        assert line in screen
    names = sorted(path.stem for path in (tmp_path / "out" / "song").iterdir())
    assert names == ["little", "most", "residual"]


def test_a_bundle_without_a_list_takes_words(bundle, song, tmp_path):
    arguments = ("separate", song, "--model", bundle, "--in-process", "-o", tmp_path / "out")
    code, screen = on_a_terminal("vox = half", *arguments, folder=tmp_path)
    assert code == 0, screen
    assert "knows" not in screen
    assert (tmp_path / "out" / "song" / "vox.wav").exists()


def test_nobody_is_asked_where_nobody_is(bundle, song, tmp_path, capsys):
    assert main(["separate", str(song), "--model", str(bundle), "-o", str(tmp_path / "o")]) == 2
    assert "say what to extract" in capsys.readouterr().err
