"""PE-A-Frame as a graph of the bundle, and what it predicts in the engine."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bridge import Engine, Prompt, Span
from bridge.bundles.bundle import load_manifest
from bridge.errors import InputError
from bridge.inference.context import Cancellation
from bridge.inference.model import Model
from bridge.separation import Separation
from onnx_export.networks.phrases import load_span_predictor
from plugin_host.cli import main

RATE = 48000
FRAMES = 40


def test_scores_are_those_of_transformers(span_predictor_directory: Path) -> None:
    from transformers import PeAudioFrameLevelModel

    theirs = PeAudioFrameLevelModel.from_pretrained(span_predictor_directory).eval()
    ours = load_span_predictor(span_predictor_directory)
    generator = torch.Generator().manual_seed(0)
    wav = 0.1 * torch.randn(2, 1, 9 * 1920, generator=generator)
    ids = torch.randint(2, 8, (2, 5), generator=generator)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.inference_mode():
        expected = theirs(input_ids=ids, input_values=wav, attention_mask=mask).logits_audio_text
        embedder = theirs.audio_encoder.embedder
        latents = embedder.bottleneck(embedder.dac_encoder(wav)).transpose(1, 2)
        got = ours(latents, ids, mask)
    for clip in range(2):
        torch.testing.assert_close(got[clip], expected[clip, clip], atol=1e-5, rtol=0)
    assert got.std() > 0.1


@pytest.fixture(scope="module")
def engine(small_bundle: Path):
    with Engine(small_bundle, threads=2) as engine:
        yield engine


def mixture() -> np.ndarray:
    rng = np.random.default_rng(2)
    return 0.1 * rng.standard_normal((1, FRAMES * 1920)).astype(np.float32)


def predicted_runs(bundle: Path) -> list[tuple[int, int]]:
    """Runs of frames above the threshold, computed from the graphs alone."""
    model = Model(bundle, threads=2)
    with Cancellation(None) as cancellation:
        (latents,) = model.encode(mixture()[:1], cancellation, lambda: None)
        logits = model.span_predictor("drums", cancellation)(latents)
    heard = 1 / (1 + np.exp(-logits)) > 0.3
    edges = np.flatnonzero(np.diff(heard.astype(int), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def stem(engine: Engine, prompt: Prompt, **settings: object) -> np.ndarray:
    result = engine.separate(
        mixture(), RATE, [prompt], steps=1, solver="euler", reconstruct="raw", **settings
    )
    return result.stems["drums"]


@pytest.mark.slow
def test_predicted_spans_reach_the_velocity_network(engine: Engine, small_bundle: Path) -> None:
    runs = predicted_runs(small_bundle)
    assert 0 < sum(end - start for start, end in runs) < FRAMES
    predicted = stem(engine, Prompt("drums"))
    # Half a frame before each edge: spans are rounded up to frames.
    spans = tuple(
        Span(max(start - 0.5, 0) / 25, min(end - 0.5, FRAMES) / 25) for start, end in runs
    )
    np.testing.assert_array_equal(predicted, stem(engine, Prompt("drums", spans=spans)))
    unpredicted = stem(engine, Prompt("drums"), predict_spans=False)
    assert np.abs(predicted - unpredicted).max() > 1e-3


@pytest.mark.slow
def test_the_report_says_what_was_predicted(engine: Engine, small_bundle: Path) -> None:
    def ask(*prompts: Prompt | str, **settings: object) -> Separation:
        return engine.separate(mixture(), RATE, prompts, steps=1, solver="euler", **settings)

    told = Prompt("drums", "told", (Span(0.2, 0.4),))
    (found,) = ask("drums", told).report.predicted
    assert found.stem == "drums"
    frames = [(round(span.start_s * 25), round(span.end_s * 25)) for span in found.spans]
    assert frames == [tuple(run) for run in predicted_runs(small_bundle)]
    # Given back as a prompt's own, they are the same frames.
    again = ask(Prompt("drums", spans=found.spans))
    assert again.report.predicted == ()
    np.testing.assert_array_equal(again.stems["drums"], ask("drums").stems["drums"])
    assert ask("drums", predict_spans=False).report.predicted == ()


@pytest.mark.slow
def test_the_command_says_and_draws_what_was_predicted(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    from plugin_host.files import pictures

    drawn = []
    real = pictures.draw_separation
    monkeypatch.setattr(
        pictures,
        "draw_separation",
        lambda *a, **k: (drawn.append(k["predicted"]), real(*a, **k))[1],
    )
    soundfile.write(tmp_path / "a.wav", mixture().T, RATE)
    command = [
        "separate", str(tmp_path / "a.wav"), "-o", str(tmp_path / "out"), "--prompt", "drums",
        "--model", str(small_bundle), "--in-process", "--steps", "1", "--solver", "euler",
    ]  # fmt: skip
    assert main([*command, "--plot"]) == 0
    assert "drums: heard by the span predictor at " in capsys.readouterr().out
    (spans,) = drawn
    assert len(spans["drums"]) == len(predicted_runs(small_bundle))


@pytest.fixture
def fetch(
    small_checkpoint: Path,
    text_encoder_directory: Path,
    span_predictor_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """The command that fetches a checkpoint whose configuration names a span predictor."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    checkpoint = tmp_path / "sam"
    checkpoint.mkdir()
    (checkpoint / "checkpoint.pt").symlink_to(small_checkpoint / "checkpoint.pt")
    settings = json.loads((small_checkpoint / "config.json").read_text())
    # A path stands for the hub's name here; both have a slash.
    settings["span_predictor"] = str(span_predictor_directory)
    (checkpoint / "config.json").write_text(json.dumps(settings))
    return ["models", "fetch", str(checkpoint), "--text-encoder", str(text_encoder_directory)]


@pytest.mark.slow
@pytest.mark.usefixtures("captured_once")
def test_fetching_takes_the_predictor_along_unless_told_otherwise(
    fetch: list[str], tmp_path: Path
) -> None:
    assert main(fetch) == 0
    assert main([*fetch, "--name", "bare", "--without", "spans"]) == 0
    models = tmp_path / "stembridge" / "models"
    assert "span_predictor" in load_manifest(models / "sam").graphs
    assert "span_predictor" not in load_manifest(models / "bare").graphs


def test_parts_that_cannot_be_left_out_are_told(
    fetch: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main([*fetch, "--name", "x", "--without", "judge"]) == 2
    assert "--without judge: expected spans" in capsys.readouterr().err
    assert main([*fetch, "--name", "x", "--without", "spans", "--with", "spans"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


@pytest.mark.slow
def test_only_what_is_needed_is_loaded(small_bundle: Path) -> None:
    with Engine(small_bundle, threads=2) as engine:
        stem(engine, Prompt("drums"), predict_spans=False)
        stem(engine, Prompt("drums", spans=(Span(0.2, 0.4),)))
        assert "span_predictor" not in engine.loaded
        stem(engine, Prompt("drums"))
        assert "span_predictor" in engine.loaded


@pytest.mark.slow
def test_predict_spans_must_be_a_truth_value(engine: Engine) -> None:
    with pytest.raises(InputError, match="predict_spans is 'no'"):
        stem(engine, Prompt("drums"), predict_spans="no")


def test_another_model_is_refused(
    small_checkpoint: Path,
    text_encoder_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    arguments = [
        "models", "export", str(small_checkpoint), str(tmp_path / "out"),
        "--text-encoder", str(text_encoder_directory),
    ]  # fmt: skip
    assert main([*arguments, "--span-predictor", str(text_encoder_directory)]) == 2
    assert "cannot load a span predictor" in capsys.readouterr().err
    assert main([*arguments, "--with", "spans"]) == 2
    assert "names no span_predictor" in capsys.readouterr().err
    assert main([*arguments, "--with", "spams"]) == 2
    assert "--with spams: unknown part" in capsys.readouterr().err
