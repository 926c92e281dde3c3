"""Judge, CLAP and vision encoder as graphs of a bundle, and what the engine makes of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from bridge import Engine, ModelError
from bridge.inference.context import Cancellation
from bridge.inference.model import Model
from bridge.signal.resampling import without_rumble
from onnx_export import rebuild_blueprint, verify_bundle
from onnx_export.checkpoints.checkpoint import load_vision_encoder
from onnx_export.networks.judge import Judge, load_judge
from onnx_export.networks.phrases import load_clap
from tests.plugin_host.test_video_files import write_clip
from tests.support import judge as judge_reference
from tests.support import parity, small
from tests.support import vision as vision_reference
from tests.support.panels import running_panel

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
def clap_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.write_clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="module")
def bundle(
    made_once: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    small_state: dict[str, torch.Tensor],
    text_encoder_directory: Path,
    judge_directory: Path,
    clap_directory: Path,
) -> Path:
    from plugin_host.cli import main

    root = tmp_path_factory.mktemp("seeing")
    checkpoint = small.write(root / "checkpoint", {**small_state, **vision_state(VIDEO_DIM)})

    def export(out: Path) -> None:
        arguments = [
            "models", "export", str(checkpoint), str(out), "--with", "vision",
            "--text-encoder", str(text_encoder_directory), "--judge", str(judge_directory),
            "--clap", str(clap_directory),
        ]  # fmt: skip
        assert main(arguments) == 0

    return made_once("sees", export)


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


def test_claps_spectrogram_is_that_of_its_feature_extractor(clap_directory: Path) -> None:
    from transformers import ClapFeatureExtractor

    extractor = ClapFeatureExtractor.from_pretrained(clap_directory)
    mel = load_clap(clap_directory).mel
    rng = np.random.default_rng(4)
    # Nothing below -100 dB, then silence, and a tone that leaves most bands empty.
    sounds = [0.1 * rng.standard_normal(mel.samples), np.zeros(mel.samples)]
    sounds.append(0.3 * np.sin(2 * np.pi * 440 * np.arange(mel.samples) / 48000))
    for sound in sounds:
        expected = extractor(sound, sampling_rate=48000, return_tensors="pt")["input_features"]
        got = mel(torch.from_numpy(sound.astype(np.float32))[None])
        assert got.shape == expected.shape == (1, 1, 1001, 64)
        # Where a band is empty, rounding to float32 is what is left in it.
        heard = expected > expected.max() - 90
        torch.testing.assert_close(got[heard], expected[heard], atol=1e-2, rtol=0)
    torch.testing.assert_close(
        mel(torch.from_numpy(sounds[0].astype(np.float32))[None]),
        extractor(sounds[0], sampling_rate=48000, return_tensors="pt")["input_features"],
        atol=1e-4,
        rtol=0,
    )


def test_a_clap_that_does_not_fit_is_named(clap_directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "clap"
    shutil.copytree(clap_directory, copy)
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**settings, "truncation": "fusion"}))
    with pytest.raises(ModelError, match="fusion, repeatpad, 48000; expected rand_trunc"):
        load_clap(copy)
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    tensors = load_file(copy / "model.safetensors")
    del tensors["text_projection.linear1.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"among them text_projection\.linear1\.weight"):
        load_clap(copy)


@pytest.mark.slow
def test_all_are_verified_like_the_rest(bundle: Path) -> None:
    found = {d.role: d for d in verify_bundle(bundle, rebuild_blueprint(bundle))}
    assert {"judge", "clap", "vision_encoder"} < set(found)
    assert found["clap"].worst < 1e-4 < found["clap"].scale
    assert all(difference.passed for difference in found.values())
    assert found["judge"].scale > 0.1


def mixture() -> np.ndarray:
    rng = np.random.default_rng(2)
    return 0.1 * rng.standard_normal((1, FRAMES * 1920)).astype(np.float32)


def separate(engine: Engine, **settings: object):
    return engine.separate(
        mixture(), 48000, ["drums"], steps=1, solver="euler", reconstruct="raw", **settings
    )


@pytest.mark.slow
def test_judge_and_clap_choose_and_are_loaded_only_then(bundle: Path, clap_directory: Path) -> None:
    with Engine(bundle, threads=2) as engine:
        plain = separate(engine)
        assert set(engine.loaded).isdisjoint({"judge", "clap", "vision_encoder", "span_predictor"})
        chosen = separate(engine, candidates=2)
        assert {"judge", "clap"} <= set(engine.loaded)
        (selection,) = chosen.report.selections
        assert selection.ranker == "ensemble"
        if selection.candidate == 0:
            np.testing.assert_array_equal(chosen.stems["drums"], plain.stems["drums"])
        alone = separate(engine, judge=True)
    (scored,) = alone.report.selections
    # The same scores from the graphs alone, of the one window that the clip is. Like the flow, the
    # judge hears the mixture without its rumble, of which white noise has some.
    model = Model(bundle, threads=2)
    with Cancellation(None) as cancellation:
        latents, stem = (
            model.encode(wave[:1], cancellation, lambda: None)[0]
            for wave in (without_rumble(mixture(), 48000), alone.stems["drums"])
        )
        expected = model.judge("drums", cancellation)(latents, stem)
    assert scored.scores is not None
    np.testing.assert_allclose(
        [scored.scores.overall, scored.scores.faithfulness], expected[[0, 3]], atol=1e-5
    )
    assert scored.similarity == pytest.approx(
        clap_of_transformers(clap_directory, alone.stems["drums"][0], "drums"), abs=1e-4
    )


def clap_of_transformers(directory: Path, sound: np.ndarray, text: str) -> float:
    """What transformers says of a sound at 48 kHz, shorter than 10 s, and a text."""
    from transformers import ClapFeatureExtractor, ClapModel

    extractor = ClapFeatureExtractor.from_pretrained(directory)
    heard = extractor(sound, sampling_rate=48000, return_tensors="pt")
    ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text).ids
    with torch.inference_mode():
        found = ClapModel.from_pretrained(directory).eval()(
            input_ids=torch.tensor([ids]), input_features=heard["input_features"]
        )
    return float(found.text_embeds @ found.audio_embeds.T)


@pytest.mark.slow
def test_the_panel_shows_the_vision_encoder_what_was_painted(bundle: Path, tmp_path: Path) -> None:
    from plugin_host.cli import main

    song = tmp_path / "song.wav"
    soundfile.write(song, mixture().T, 48000, subtype="FLOAT")
    pictures = np.round(255 * vision_reference.frames()).astype(np.uint8).transpose(0, 2, 3, 1)
    clip = write_clip(tmp_path / "clip.mkv", list(pictures))
    (tmp_path / "one.toml").write_text(
        'format = 1\nsteps = 1\nsolver = "euler"\n[[prompts]]\ntext = "drums"\n', encoding="utf-8"
    )
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 1
    stems = []
    with running_panel(song, "--model", bundle, "--preset", tmp_path / "one.toml") as panel:
        assert panel.state()["sees"]
        panel.do("clip/p1/clip.mkv", clip.read_bytes())
        panel.do("mask/p1?at=0", mask.tobytes())
        (tmp_path / "mask.mkv").write_bytes(panel.ask("mask/p1/mask.mkv").body)
        for _ in ("masked", "blind"):
            panel.do("run", {"whole": True})
            take = panel.finished()
            assert take["state"] == "done", take["error"]
            sent = panel.ask(f"audio/{take['id']}/p1?start=0&samples={take['samples']}").body
            stems.append(np.frombuffer(sent, "<f4"))
            panel.do("edit", {"do": "remove-clip", "id": "p1"})
    masked, blind = stems
    assert np.abs(masked - blind).max() > 1e-4
    arguments = ["separate", str(song), "--preset", str(tmp_path / "one.toml"), "--in-process"]
    shown = ["--video", str(clip), "--mask", str(tmp_path / "mask.mkv"), "--model", str(bundle)]
    assert main([*arguments, *shown, "-o", str(tmp_path / "out")]) == 0
    written, _ = soundfile.read(tmp_path / "out" / "song" / "drums.wav", dtype="float32")
    np.testing.assert_array_equal(masked, written)
