import re

import numpy as np
import pytest
import soundfile

from plugin_host.cli import main
from plugin_host.cli.demo import PROMPTS, read_demo_audio


def test_the_bundled_mixture_is_the_sum_of_its_bundled_stems():
    mixture, rate = read_demo_audio("mixture")
    stems = [read_demo_audio(prompt.stem) for prompt in PROMPTS]
    assert {stem_rate for _, stem_rate in stems} == {rate}
    total = sum(audio.astype(np.float64) for audio, _ in stems)
    # Each of the four files is rounded to 16 bits on its own.
    assert np.abs(total - mixture).max() < 4 / 32768


@pytest.mark.slow
def test_it_writes_stems_and_picture_and_prints_scores(bundle, tmp_path, capsys):
    arguments = ["demo", "--model", str(bundle), "--in-process", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for prompt in PROMPTS:
        assert prompt.text in out
        assert f"{prompt.stem}: {tmp_path / 'out' / prompt.stem}.wav" in out
    assert (tmp_path / "out" / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
    stems = [soundfile.read(path)[0] for path in sorted((tmp_path / "out").glob("*.wav"))]
    assert len(stems) == 4
    mixture, _ = read_demo_audio("mixture")
    assert np.abs(sum(stems).T - mixture).max() < 1e-5
    # Again is no trouble; with another model the files are in the way.
    assert main(arguments) == 0


def test_files_of_others_are_not_replaced(bundle, tmp_path, capsys):
    (tmp_path / "drums.wav").write_bytes(b"mine")
    arguments = ["demo", "--model", str(bundle), "--in-process", "-o", str(tmp_path)]
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "drums.wav").read_bytes() == b"mine"


@pytest.mark.slow
def test_the_bundled_model_improves_each_stem_by_4_db(tmp_path, capsys):
    assert main(["demo", "--in-process", "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    # Only improvements are printed with a plus.
    improvements = [float(value) for value in re.findall(r"\+(\d+\.\d) dB", out)]
    assert len(improvements) == len(PROMPTS), out
    assert min(improvements) >= 4.0, out


@pytest.mark.parametrize("name", ["mixture", *(prompt.stem for prompt in PROMPTS)])
def test_the_bundled_audio_is_small(name):
    audio, rate = read_demo_audio(name)
    assert audio.shape[1] / rate <= 20
