"""Loading official checkpoints: strictly, in either spelling of weight norm."""

import json
from pathlib import Path

import pytest
import small
import torch

from bridge.errors import ModelError
from onnx_export import load_checkpoint

NORMED = "audio_codec.encoder.block.1.block.0.block.1"


def test_either_spelling_of_weight_norm_loads_alike(
    tmp_path: Path, small_checkpoint: Path, small_state: dict[str, torch.Tensor]
) -> None:
    respelled = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in small_state.items()
    }
    assert respelled.keys() != small_state.keys()
    ours = load_checkpoint(small_checkpoint).state_dict()
    other = load_checkpoint(small.write(tmp_path, respelled)).state_dict()
    assert all(torch.equal(ours[name], other[name]) for name in ours)


def test_weight_norm_is_folded(
    small_checkpoint: Path, small_state: dict[str, torch.Tensor]
) -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 4, 7))
    with torch.no_grad():
        layer.parametrizations.weight.original0.copy_(small_state[f"{NORMED}.weight_g"])
        layer.parametrizations.weight.original1.copy_(small_state[f"{NORMED}.weight_v"])
    folded = load_checkpoint(small_checkpoint).codec.encoder.blocks[0].units[0].dilated.weight
    torch.testing.assert_close(folded, layer.weight)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("proj.bias"), "missing 1 tensors: proj.bias"),
        (lambda s: s.pop(f"{NORMED}.weight_g"), f"missing 1 tensors: {NORMED}.weight_g"),
        (lambda s: s.update({"proj.scale": torch.ones(1)}), "unexpected 1 tensors: proj.scale"),
        (
            lambda s: s.update({"transformer.layers.3.attention_norm.weight": torch.ones(128)}),
            "unexpected 1 tensors: transformer.layers.3.attention_norm.weight",
        ),
        (
            lambda s: s.update({"memory_proj.bias": torch.ones(64)}),
            "misshapen 1 tensors: memory_proj.bias (expected [128], got [64])",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    tmp_path: Path, small_state: dict[str, torch.Tensor], change, named: str
) -> None:
    state = dict(small_state)
    change(state)
    with pytest.raises(ModelError) as caught:
        load_checkpoint(small.write(tmp_path, state))
    assert named in str(caught.value)


def test_the_vision_encoder_is_left_alone(
    tmp_path: Path, small_state: dict[str, torch.Tensor]
) -> None:
    state = small_state | {"vision_encoder.model.conv1.weight": torch.ones(2)}
    assert load_checkpoint(small.write(tmp_path, state)) is not None


def test_half_precision_checkpoints_load_as_float32(
    tmp_path: Path, small_state: dict[str, torch.Tensor]
) -> None:
    state = {name: value.bfloat16() for name, value in small_state.items()}
    model = load_checkpoint(small.write(tmp_path, state))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("kept", [0, 1000, 1_000_000])
def test_a_truncated_file_is_refused(tmp_path: Path, small_checkpoint: Path, kept: int) -> None:
    (tmp_path / "config.json").write_bytes((small_checkpoint / "config.json").read_bytes())
    whole = (small_checkpoint / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[:kept])
    with pytest.raises(ModelError, match=r"not a complete PyTorch checkpoint.*download it again"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"model": {"a": torch.ones(1)}}])
def test_anything_but_a_state_dict_is_refused(tmp_path: Path, content) -> None:
    with pytest.raises(ModelError, match="expected a state dict"):
        load_checkpoint(small.write(tmp_path, content))


@pytest.mark.parametrize("name", ["config.json", "checkpoint.pt"])
def test_a_missing_file_is_named(tmp_path: Path, small_checkpoint: Path, name: str) -> None:
    for file in ("config.json", "checkpoint.pt"):
        if file != name:
            (tmp_path / file).symlink_to(small_checkpoint / file)
    with pytest.raises(ModelError, match=name):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dim": "large"}, "transformer.dim: expected a positive whole number, got 'large'"),
        ({"n_heads": 5}, "transformer.n_heads: expected a number that divides dim 128"),
        ({"qk_norm": False}, "transformer.qk_norm: expected True"),
        ({"out_channels": 128}, "transformer.out_channels: expected 256"),
    ],
)
def test_sizes_that_cannot_be_are_named(
    tmp_path: Path, small_checkpoint: Path, sizes: dict[str, object], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small.config(**sizes)))
    (tmp_path / "checkpoint.pt").symlink_to(small_checkpoint / "checkpoint.pt")
    with pytest.raises(ModelError) as caught:
        load_checkpoint(tmp_path)
    assert message in str(caught.value)


def test_a_clip_is_padded_by_reflection(small_checkpoint: Path) -> None:
    model = load_checkpoint(small_checkpoint)
    wav = torch.linspace(-0.5, 0.5, 3000)[None, None]
    mirrored = torch.cat([wav, wav[..., -841:-1].flip(-1)], dim=-1)
    assert mirrored.shape[-1] == 2 * 1920
    with torch.inference_mode():
        assert torch.equal(model.encode(wav), model.encode(mirrored))
        assert model.encode(wav[..., :1]).shape == (1, 1, 128)
        assert torch.equal(model.encode(wav[:, 0]), model.encode(wav))


def test_the_message_changes_the_mark_and_nothing_random_does(small_checkpoint: Path) -> None:
    model = load_checkpoint(small_checkpoint)
    latents = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(0))
    zeros, ones = torch.zeros(16), torch.ones(2, 16)
    with torch.inference_mode():
        marked = model.decode(latents, zeros)
        assert marked.shape == (2, 1, 3 * 1920)
        assert torch.equal(marked, model.decode(latents, zeros))
        assert not torch.equal(marked, model.decode(latents, ones))
        assert not torch.equal(marked, model.decode_unmarked(latents))
