"""The judge and the vision encoder as graphs of a bundle, and what the engine makes of them."""

import json
from pathlib import Path

import judge as judge_reference
import numpy as np
import parity
import pytest
import small
import torch
import vision as vision_reference
from safetensors.torch import load_file, save_file

from bridge import Engine, ModelError
from bridge.inference.cancellation import Cancellation
from bridge.inference.model import Model
from onnx_export import rebuild_blueprint, verify_bundle
from onnx_export.judge import Judge, load_judge
from onnx_export.vision_checkpoint import load_vision_encoder

FRAMES = 30
SIDE = vision_reference.GRID * vision_reference.PATCH
VIDEO_DIM = 1024


def vision_state(dim: int) -> dict[str, torch.Tensor]:
    """The vision tower under the names of a SAM Audio checkpoint, with some of a text tower."""
    state = {
        f"vision_encoder.model.visual.{name}": torch.from_numpy(value)
        for name, value in vision_reference.tensors(dim).items()
    }
    return state | {"vision_encoder.model.token_embedding.weight": torch.zeros(2, 2)}


@pytest.fixture(scope="module")
def judge_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judge_reference.write(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    small_state: dict[str, torch.Tensor],
    text_encoder_directory: Path,
    judge_directory: Path,
) -> Path:
    from plugin_host.cli import main

    root = tmp_path_factory.mktemp("seeing")
    checkpoint = small.write(root / "checkpoint", {**small_state, **vision_state(VIDEO_DIM)})
    arguments = [
        "models", "export", str(checkpoint), str(root / "sees"), "--with", "vision",
        "--text-encoder", str(text_encoder_directory), "--judge", str(judge_directory),
    ]  # fmt: skip
    assert main(arguments) == 0
    return root / "sees"


def test_vision_features_are_those_of_timm() -> None:
    ours = load_vision_encoder(
        vision_state(vision_reference.DIM), vision_reference.SETTINGS, "the tests'"
    )
    with np.load(parity.HERE / "pe_vision.npz") as stored:
        expected = stored["features"]
    with torch.inference_mode():
        got = ours(torch.from_numpy(vision_reference.frames())).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_a_vision_tower_that_does_not_fit_is_named() -> None:
    prefix = "vision_encoder.model.visual."
    state = vision_state(8)
    with pytest.raises(ModelError, match="holds no vision encoder"):
        load_vision_encoder({"proj.weight": torch.zeros(1)}, {}, "x")
    lacking = {name: value for name, value in state.items() if name != f"{prefix}ln_pre.bias"}
    with pytest.raises(ModelError, match="missing norm_in"):
        load_vision_encoder(lacking, {}, "x")
    with pytest.raises(ModelError, match="unexpected odd"):
        load_vision_encoder({**state, f"{prefix}odd.weight": torch.zeros(1)}, {}, "x")
    with pytest.raises(ModelError, match="misshapen norm_in"):
        load_vision_encoder({**state, f"{prefix}ln_pre.bias": torch.zeros(3)}, {}, "x")


def test_the_judge_hears_mixture_stem_and_text(judge_directory: Path) -> None:
    judge = load_judge(judge_directory)
    generator = torch.Generator().manual_seed(0)
    mixture, stem, other = torch.randn(3, 1, 9, 128, generator=generator)
    ids, mask = torch.tensor([[3, 1]]), torch.ones(1, 2, dtype=torch.bool)
    with torch.inference_mode():
        scores = judge(mixture, stem, ids, mask)
        assert scores.shape == (1, 4)
        for changed in (
            judge(other, stem, ids, mask),
            judge(mixture, other, ids, mask),
            judge(mixture, stem, torch.tensor([[4, 1]]), mask),
            judge(stem, mixture, ids, mask),
        ):
            assert (changed - scores).abs().max() > 1e-4
        # Its scale: mean and deviation of each score are among the weights.
        judge.mean += 1
        moved = judge(mixture, stem, ids, mask)
    torch.testing.assert_close(moved, scores + 1)


def test_the_judges_audio_encoder_is_that_of_transformers(judge_directory: Path) -> None:
    from transformers import PeAudioEncoderConfig
    from transformers.models.pe_audio.modeling_pe_audio import PeAudioEncoder

    ours = load_judge(judge_directory)
    theirs = PeAudioEncoder(PeAudioEncoderConfig(**judge_reference.CONFIG["audio_config"])).eval()
    state = {
        name.removeprefix("audio_encoder."): value
        for name, value in load_file(judge_directory / "model.safetensors").items()
        if name.startswith("audio_encoder.") and "bottleneck" not in name
    }
    theirs.load_state_dict(state, strict=False)
    wav = 0.1 * torch.randn(1, 1, 9 * 1920, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        latents = theirs.embedder.bottleneck(theirs.embedder.dac_encoder(wav)).transpose(1, 2)
        expected = theirs(wav).last_hidden_state
        got = ours.audio_encoder(ours.audio_proj(latents))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_the_text_model_ends_at_the_layer_that_is_used() -> None:
    from transformers import AutoConfig, AutoModel

    text = dict(judge_reference.CONFIG["text_config"])
    whole = AutoModel.from_config(AutoConfig.for_model(text.pop("model_type"), **text)).eval()
    ours = Judge(judge_reference.CONFIG).eval()
    ours.text_model.load_state_dict(whole.state_dict(), strict=False)
    tokens = {"input_ids": torch.tensor([[3, 4, 1]]), "attention_mask": torch.ones(1, 3).bool()}
    with torch.inference_mode():
        expected = whole(**tokens, output_hidden_states=True).hidden_states[1]
        got = ours.text_model(**tokens, output_hidden_states=True).hidden_states[ours.text_layer]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert len(ours.text_model.layers) == 1


def test_a_judge_that_does_not_fit_is_named(judge_directory: Path, tmp_path: Path) -> None:
    tensors = load_file(judge_directory / "model.safetensors")
    config = json.dumps(judge_reference.CONFIG)

    def load(state: dict[str, torch.Tensor]) -> None:
        (tmp_path / "config.json").write_text(config)
        save_file(state, tmp_path / "model.safetensors")
        load_judge(tmp_path)

    with pytest.raises(ModelError, match=r"missing head\.weight"):
        load({name: value for name, value in tensors.items() if name != "head.weight"})
    with pytest.raises(ModelError, match="unexpected odd"):
        load({**tensors, "odd": torch.zeros(1)})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="not the configuration of a judge"):
        load_judge(tmp_path)


def test_both_are_verified_like_the_rest(bundle: Path) -> None:
    found = {d.role: d for d in verify_bundle(bundle, rebuild_blueprint(bundle))}
    assert {"judge", "vision_encoder"} < set(found)
    assert all(difference.passed for difference in found.values())
    assert found["judge"].scale > 0.1


def mixture() -> np.ndarray:
    rng = np.random.default_rng(2)
    return 0.1 * rng.standard_normal((1, FRAMES * 1920)).astype(np.float32)


def separate(engine: Engine, **settings: object):
    return engine.separate(
        mixture(), 48000, ["drums"], steps=1, solver="euler", reconstruct="raw", **settings
    )


def test_the_judge_chooses_and_is_loaded_only_then(bundle: Path) -> None:
    with Engine(bundle, threads=2) as engine:
        plain = separate(engine)
        assert set(engine.loaded).isdisjoint({"judge", "vision_encoder", "span_predictor"})
        chosen = separate(engine, candidates=2)
        assert "judge" in engine.loaded
        (selection,) = chosen.report.selections
        assert selection.ranker == "judge"
        if selection.candidate == 0:
            np.testing.assert_array_equal(chosen.stems["drums"], plain.stems["drums"])
        alone = separate(engine, judge=True)
    (scored,) = alone.report.selections
    # The same scores from the graphs alone, of the one window that the clip is.
    model = Model(bundle, threads=2)
    with Cancellation(None) as cancellation:
        latents, stem = (
            model.encode(wave[:1], cancellation, lambda: None)[0]
            for wave in (mixture(), alone.stems["drums"])
        )
        expected = model.judge("drums", cancellation)(latents, stem)
    assert scored.scores is not None
    np.testing.assert_allclose(
        [scored.scores.overall, scored.scores.faithfulness], expected[[0, 3]], atol=1e-4
    )
