"""Loading official checkpoints: strictly, in either spelling of weight norm."""

import json
import re
from pathlib import Path

import pytest
import torch

from bridge.errors import ModelError
from onnx_export import load_checkpoint
from tests.support import small

NORMED = "audio_codec.encoder.block.1.block.0.block.1"


@pytest.mark.slow
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


def same(directory: Path, small_checkpoint: Path, tolerance: float = 0.0) -> None:
    """The weights of a directory load as those of the official file."""
    ours, theirs = (load_checkpoint(d).state_dict() for d in (directory, small_checkpoint))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=tolerance, rtol=tolerance, msg=name)


def write_safetensors(
    directory: Path, state: dict[str, torch.Tensor], name: str = "model.safetensors"
) -> Path:
    from safetensors.torch import save_file

    directory.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, directory / name)
    (directory / "config.json").write_text(json.dumps(small.config()))
    return directory


@pytest.mark.parametrize("prefix", ["", "model.", "sam_audio."])
def test_safetensors_load_as_the_official_file(
    tmp_path: Path, small_checkpoint: Path, small_state: dict[str, torch.Tensor], prefix: str
) -> None:
    state = {prefix + name: value for name, value in small_state.items()}
    same(write_safetensors(tmp_path, state, "sam_audio_small.safetensors"), small_checkpoint)


def test_half_precision_in_shards_with_an_index(
    tmp_path: Path, small_checkpoint: Path, small_state: dict[str, torch.Tensor]
) -> None:
    names = sorted(small_state)
    shards = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        write_safetensors(tmp_path, {name: small_state[name].half() for name in part}, shard)
        shards |= dict.fromkeys(part, shard)
    with pytest.raises(ModelError, match="no index"):
        load_checkpoint(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    same(tmp_path, small_checkpoint, 1e-3)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names model-00002-of-00002\.safetensors"):
        load_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(ModelError, match="not beside it"):
        load_checkpoint(tmp_path)


def to_mlx(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name and lay out tensors as mlx-audio's module does; written from its description."""
    unit = {"0": "act1", "1": "conv1", "2": "act2", "3": "conv2"}
    out: dict[str, torch.Tensor] = {}
    for official, value in state.items():
        name, tensor = official, value
        up = re.search(r"decoder\.model\.\d\.block\.[13]\.", name)
        if tensor.ndim == 3:
            tensor = tensor.permute(*((1, 2, 0) if up else (0, 2, 1)))
        if match := re.fullmatch(r"(.*lstm)\.(weight|bias)_(ih|hh)_l(\d)", name):
            layer, kind, which, depth = match.groups()
            layer = re.sub(r"\.(pre|post)\.(\d)", r".\1_\2", layer)
            leaf = "bias" if kind == "bias" else {"ih": "Wx", "hh": "Wh"}[which]
            key = f"{layer}.layers.{depth}.{leaf}"
            out[key] = out[key] + tensor if key in out else tensor
            continue
        encoder, decoder = "audio_codec.encoder.", "audio_codec.decoder."
        for old, new in (
            (f"{decoder}wm_model.encoder_block.pre.0.", f"{decoder}snake_out."),
            (f"{decoder}wm_model.encoder_block.pre.1.", f"{decoder}conv_out."),
            (f"{encoder}block.0.", f"{encoder}conv_in."),
            (f"{encoder}block.5.", f"{encoder}snake_out."),
            (f"{encoder}block.6.", f"{encoder}conv_out."),
            (f"{decoder}model.0.", f"{decoder}conv_in."),
            ("audio_codec.quantizer.", "audio_codec.quantizer_"),
        ):
            if name.startswith(old):
                name = new + name.removeprefix(old)
        if match := re.fullmatch(r"audio_codec\.encoder\.block\.(\d)\.block\.(\d)\.(.*)", name):
            block, part, rest = int(match[1]) - 1, int(match[2]), match[3]
            if part < 3:
                inner, _, leaf = rest.removeprefix("block.").partition(".")
                rest = f"res{part + 1}.{unit[inner]}.{leaf}"
            else:
                rest = f"{'snake' if part == 3 else 'conv'}.{rest}"
            name = f"{encoder}blocks.{block}.{rest}"
        if match := re.fullmatch(r"audio_codec\.decoder\.model\.(\d)\.block\.(\d+)\.(.*)", name):
            block, part, rest = int(match[1]) - 1, int(match[2]), match[3]
            if 4 <= part <= 8:
                inner, _, leaf = rest.removeprefix("block.").partition(".")
                rest = f"{unit[inner]}.{leaf}"
            name = f"{decoder}blocks.{block}.block_{part}.{rest}"
        out[re.sub(r"(\.wm_model\..*)\.(pre|post)\.(\d)\.", r"\1.\2_\3.", name)] = tensor
    return out


def test_names_and_layout_of_mlx_are_understood(
    tmp_path: Path, small_checkpoint: Path, small_state: dict[str, torch.Tensor]
) -> None:
    converted = to_mlx(small_state)
    assert len(set(converted) & set(small_state)) < len(small_state) / 2
    directory = write_safetensors(tmp_path / "whole", converted)
    # Two biases of an LSTM came together in one, which their sum doesn't notice.
    ours, theirs = (load_checkpoint(d).state_dict() for d in (directory, small_checkpoint))
    for name, value in theirs.items():
        mine = ours[name]
        if ".lstm_" in name and name.endswith(".bias"):
            mine, theirs[name] = (x.reshape(2, -1).sum(0) for x in (mine, value))
        torch.testing.assert_close(mine, theirs[name], msg=name)
    bare = {k: v for k, v in converted.items() if not k.startswith("align_masked_video.")}
    with pytest.raises(ModelError, match=r"missing \d tensors: align_masked_video.*for MLX"):
        load_checkpoint(write_safetensors(tmp_path / "bare", bare))


def test_quantised_weights_are_refused(
    tmp_path: Path, small_state: dict[str, torch.Tensor]
) -> None:
    state = small_state | {"proj.scales": torch.ones(1)}
    with pytest.raises(ModelError, match=r"quantised \(proj\.scales"):
        load_checkpoint(write_safetensors(tmp_path, state))


def test_damaged_safetensors_are_refused(
    tmp_path: Path, small_state: dict[str, torch.Tensor]
) -> None:
    path = write_safetensors(tmp_path, small_state) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        load_checkpoint(tmp_path)
