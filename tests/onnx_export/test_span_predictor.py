"""PE-A-Frame as a graph of the bundle, and what it predicts in the engine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bridge import Engine, Prompt, Span
from bridge.errors import InputError
from bridge.inference.cancellation import Cancellation
from bridge.inference.model import Model
from onnx_export.span_predictor import load_span_predictor
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


def test_only_what_is_needed_is_loaded(small_bundle: Path) -> None:
    with Engine(small_bundle, threads=2) as engine:
        stem(engine, Prompt("drums"), predict_spans=False)
        stem(engine, Prompt("drums", spans=(Span(0.2, 0.4),)))
        assert "span_predictor" not in engine.loaded
        stem(engine, Prompt("drums"))
        assert "span_predictor" in engine.loaded


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
