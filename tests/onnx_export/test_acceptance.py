"""The acceptance of a model, with a model of formulas whose answers are known."""

import json

import numpy as np
import pytest
import soundfile

from bridge.engine import Engine
from onnx_export.evaluation import find_cases
from onnx_export.training import acceptance
from onnx_export.training.acceptance import (
    FREE_WORDINGS,
    Criterion,
    measure,
    measure_seams,
    song_against_pieces,
    to_json,
    to_markdown,
    true_spans,
    window_edges_s,
)
from onnx_export.training.mixing import TEMPLATES
from onnx_export.training.sound.families import FAMILIES
from tests.support import tiny_bundle

pytestmark = pytest.mark.slow

RATE = 16000


def write(folder, seconds, seed, *, late=False):
    """Write drums (noise) and bass (a tone), the drums in the last two fifths if late."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    drums = 0.05 * rng.standard_normal(len(time))
    if late:
        drums[: round(0.6 * len(time))] = 0
    bass = 0.1 * np.sin(2 * np.pi * 110 * time)
    stems = {"drums": np.stack([drums, 0.5 * drums]), "bass": np.stack([0.7 * bass, bass])}
    for name, audio in {**stems, "mixture": sum(stems.values())}.items():
        soundfile.write(folder / f"{name}.wav", audio.T, RATE, subtype="FLOAT")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tiny_bundle.build(tmp_path_factory.mktemp("bundle") / "tiny")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"window_s": 8.0, "overlap_s": 2.0}  # edges far enough apart to have a between
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with Engine(folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    write(root / "000", 2.0, 0, late=True)
    write(root / "001", 2.0, 1)
    write(root / "long" / "000", 24.0, 2)
    return find_cases(root), find_cases(root / "long")


def test_spans_mark_where_a_stem_sounds(cases):
    truth = soundfile.read(cases[0][0].stems["drums"], dtype="float32")[0].T
    spans, share = true_spans(truth, RATE)
    assert [(span.start_s, span.end_s) for span in spans] == [(pytest.approx(1.2, abs=0.03), 2.0)]
    assert share == pytest.approx(0.4, abs=0.02)


def test_everything_is_measured_and_written_down(engine, cases):
    stages = []
    result = measure(engine, *cases, progress=lambda stage, done, total: stages.append(
        (stage, done, total)))  # fmt: skip
    values = {c.name: c.value for c in result.criteria}
    # The model takes a quarter of the mixture whatever it is asked: no gain, no loss.
    assert values["SI-SDR improvement, median"] == pytest.approx(0.0, abs=0.01)
    assert values["right less wrong prompt, median"] == pytest.approx(0.0, abs=0.01)
    assert values["held-out phrasings lose, difference of medians"] == pytest.approx(0.0, abs=0.01)
    assert values["free wording loses, difference of medians"] == pytest.approx(0.0, abs=0.01)
    assert values["in mono, improvement, median"] == pytest.approx(0.0, abs=0.01)
    assert values["change in a passage 26 dB softer, median"] == pytest.approx(0.0, abs=0.5)
    # Frames in a span get all of it, others a quarter.
    assert values["spans add where the target sounds less than half, median"] > 1.0
    assert values["60 s song through windows less its 6 s pieces, the worst song"] == pytest.approx(
        0, abs=0.05
    )
    assert values["error at window edges, ratio to shifted windows"] == pytest.approx(1, abs=0.02)
    assert values["size of the bundle"] < 1
    assert {c.name for c in result.criteria if not c.passed} >= {"drums, median", "bass, median"}
    assert stages[-1] == ("song", 2, 2)
    assert {("mixtures", 2, 2), ("prompts", 2, 2)} <= set(stages)
    assert {kind: len(found) for kind, found in result.changes.items()} == {
        "phrasing": 4, "wording": 4, "spans": 4, "mono": 2, "offset": 2, "soft": 2,
    }  # fmt: skip
    assert json.loads(to_json(result))["stems"]["bass"]["stems"] == 2
    text = to_markdown(result)
    assert "| SI-SDR improvement, median | 0.0 dB | at least 11 dB | no |" in text.replace(
        "-0.0", "0.0"
    )
    assert "| all | 4 |" in text


def test_free_wordings_are_no_family_s_and_in_no_template():
    assert sum(map(len, FREE_WORDINGS.values())) == 60
    listed = {p for f in FAMILIES.values() for p in (*f.phrasings, *f.held_out)}
    trained = listed | {template.format(phrase) for phrase in listed for template in TEMPLATES}
    for name, wordings in FREE_WORDINGS.items():
        assert name in FAMILIES
        assert not trained & set(wordings)


def test_goals_have_a_direction():
    assert Criterion("", 1.0, 1.0).passed
    assert not Criterion("", 0.9, 1.0).passed
    assert Criterion("", -30.0, -25.0, at_least=False).passed
    assert not Criterion("", -20.0, -25.0, at_least=False).passed
    assert not Criterion("", None, 0.0).passed
    assert not Criterion("", float("nan"), 0.0).passed


def test_seams_show_where_windows_begin_and_end(engine, cases):
    edges, stride_s = window_edges_s(engine, 24.0)
    manifest = engine.manifest
    assert stride_s == pytest.approx(manifest.window_s - manifest.overlap_s, abs=0.01)
    assert edges[0] == pytest.approx(stride_s, abs=0.01)

    class Clicking:
        """Adds an error at the edges of the default windows."""

        manifest = engine.manifest

        def separate(self, mixture, rate, prompts):
            result = engine.separate(mixture, rate, prompts)
            stem = result.stems[prompts[0].stem]
            for edge in window_edges_s(engine, mixture.shape[1] / rate)[0]:
                stem[:, round(edge * rate) : round(edge * rate) + 200] += 0.5
            return result

    seams = measure_seams(Clicking(), cases[1], seconds=24.0)
    assert seams.elsewhere > 1.5
    assert seams.shifted > 1.5
    assert measure_seams(engine, cases[1], seconds=4.0) is None  # one window has no seam
    assert song_against_pieces(Clicking(), cases[1][0])[0] < -1


def test_what_a_set_lacks_is_made(tmp_path, monkeypatch):
    made = []

    def make_set(folder, count, seed, split):
        made.append((count, seed, split))
        write(folder / "000", 1.0, 0)
        (folder / "index.json").write_text("{}")

    def make_song(folder, families, seed, split):
        made.append((len(families), seed, split))
        write(folder, 1.0, 0)

    monkeypatch.setattr(acceptance, "make_test_set", make_set)
    monkeypatch.setattr(acceptance, "make_long_song", make_song)
    for _ in range(2):
        cases, songs = acceptance.prepare_set(tmp_path / "s", 5, 9, "tune")
    assert made == [(5, 9, "tune"), (4, 9, "tune"), (3, 10, "tune"), (3, 11, "tune")]
    assert [case.name for case in cases] == ["000"]
    assert [case.name for case in songs] == ["000", "001", "002"]
