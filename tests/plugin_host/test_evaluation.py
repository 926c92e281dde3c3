"""Scoring a model on mixtures whose stems are known, with a model whose answers are known."""

import json

import numpy as np
import pytest
import soundfile
from host_audio import RATE, music

from bridge.engine import Engine
from bridge.errors import InputError
from bridge.request import Prompt
from plugin_host.cli import main
from plugin_host.evaluation import (
    evaluate,
    find_cases,
    ideal_ratio_mask,
    image_error_db,
    summarise,
)
from plugin_host.scores import si_sdr_db


@pytest.fixture
def test_set(tmp_path):
    """Two mixtures; their stems lie in separate bands, so an ideal mask is nearly perfect."""
    for index in range(2):
        folder = tmp_path / "set" / f"{index:03}"
        folder.mkdir(parents=True)
        low = music(seed=index)
        time = np.arange(low.shape[1]) / RATE
        high = np.stack([0.2 * np.sin(2 * np.pi * 8000 * time), 0.1 * np.sin(16000 * np.pi * time)])
        for name, audio in (("half", low), ("nothing", high), ("mixture", low + high)):
            soundfile.write(folder / f"{name}.wav", audio.T, RATE, subtype="FLOAT")
    return tmp_path / "set"


def test_every_stem_of_every_mixture_is_scored(test_set, bundle):
    cases = find_cases(test_set)
    assert [case.name for case in cases] == ["000", "001"]
    mixture, truth = (
        soundfile.read(test_set / "000" / f"{name}.wav", dtype="float32")[0].T
        for name in ("mixture", "half")
    )
    with Engine(bundle) as engine:
        scores = list(evaluate(engine, cases, {"half": "everything"}, reconstruct="mask"))
        stem = engine.separate(mixture, RATE, [Prompt("everything", "half")], reconstruct="mask")
    assert [(s.case, s.stem) for s in scores] == [
        ("000", "half"), ("000", "nothing"), ("001", "half"), ("001", "nothing"),
    ]  # fmt: skip
    first = scores[0]
    assert first.estimate_db == pytest.approx(si_sdr_db(stem.stems["half"], truth))
    assert first.mixture_db == pytest.approx(si_sdr_db(mixture, truth))
    assert first.oracle_db > first.estimate_db
    assert summarise(scores).stems == 4


def test_the_ideal_mask_separates_what_does_not_overlap(test_set):
    case = find_cases(test_set)[0]
    mixture, stem = (soundfile.read(path, dtype="float32", always_2d=True)[0].T
                     for path in (case.mixture, case.stems["half"]))  # fmt: skip
    assert si_sdr_db(ideal_ratio_mask(mixture, stem, RATE), stem) > 25


def test_the_image_error_is_a_difference_of_level_differences():
    truth = music()
    estimate = truth * np.array([[1.0], [0.5]], np.float32)
    assert image_error_db(estimate, truth) == pytest.approx(6.02, abs=0.01)
    assert image_error_db(3 * truth, truth) == pytest.approx(0.0, abs=1e-4)
    assert image_error_db(truth[:1], truth[:1]) is None


def test_the_command_prints_medians_or_json(test_set, bundle, capsys):
    assert main(["eval", str(test_set), "--model", str(bundle), "--prompt", "half=half"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert main(["eval", str(test_set), "--model", str(bundle), "--limit", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["scores"]) == report["summary"]["stems"] == 2


def test_a_folder_without_mixtures_is_refused(tmp_path, bundle, capsys):
    with pytest.raises(InputError, match=r"mixture\.wav"):
        find_cases(tmp_path)
    assert main(["eval", f"musdb:{tmp_path}", "--model", str(bundle)]) == 2
    assert "folder per mixture" in capsys.readouterr().err
