"""Official SAM Audio checkpoints, loaded strictly.

Every tensor of our modules must be found, every tensor of the file must be used, and every shape
must fit; what doesn't is named. Weights are prepared here once: weight norm is folded, attention
rows move from the official interleaved heads to the standard layout and rotary pairs to halves,
LSTM gates move to ONNX's order, and the input projection drops the columns that only see zeros.

``config.json`` is read into the sizes that our modules need; the vision tower is found, renamed and
loaded like the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from bridge.errors import ModelError
from bridge.files import expanded
from onnx_export.checkpoints.weights import ReadTensor, read_weights
from onnx_export.networks.dacvae import CodecConfig
from onnx_export.networks.dit import DiTConfig
from onnx_export.networks.layers import load_strictly
from onnx_export.networks.sam_audio import SamAudio, SamAudioConfig
from onnx_export.networks.vision_encoder import VisionConfig, VisionEncoder

#: Switches of the official transformer, and the one setting that every release has.
_FIXED = {"swiglu": True, "qk_norm": True, "fc_bias": False}
_COUNTS = (
    "dim", "n_heads", "n_layers", "out_channels", "context_dim", "multiple_of",
    "max_positions", "frequency_embedding_dim",
)  # fmt: skip
_REALS = ("ffn_exp", "ffn_dim_multiplier", "norm_eps")


def read_config(path: Path) -> SamAudioConfig:
    """Read the sizes of a model; keys that we don't need are ignored.

    Raises
    ------
    ModelError
        If the file is missing or no JSON object, or a size is missing, of the wrong kind, or one
        that the modules can't have.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{path}: cannot read ({error.strerror or error}); give the directory of a checkpoint"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}); download it again") from error
    return parse_config(raw, path)


def parse_config(raw: Any, path: Path) -> SamAudioConfig:
    """Read the sizes of a model from the decoded file; `path` is what errors name.

    Raises
    ------
    ModelError
        See `read_config`.
    """
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: expected an object, got {type(raw).__name__}")
    config = _Section(raw, path, "")
    codec, text = _codec(config.section("audio_codec")), config.section("text_encoder")
    transformer = _transformer(config.section("transformer"), 2 * codec.codebook_dim)
    wanted, given = 6 * codec.codebook_dim, config.count("in_channels", 6 * codec.codebook_dim)
    if given != wanted:
        raise ModelError(f"{path}: in_channels is {given}, expected {wanted} (6 codebook_dim)")
    return SamAudioConfig(
        codec=codec,
        transformer=transformer,
        text_dim=text.count("dim", 768),
        text_encoder=text.text("name", "t5-base"),
        max_tokens=text.count("max_length", 512),
        video_dim=config.section("vision_encoder").count("dim", 1024),
        span_dim=config.count("anchor_embedding_dim", 128),
        raw=raw,
    )


class _Section:
    """One object of the configuration, whose values are checked as they are read."""

    def __init__(self, values: dict[str, Any], path: Path, prefix: str) -> None:
        self.values, self._path, self._prefix = values, path, prefix

    def fail(self, key: str, wanted: str) -> ModelError:
        """Make the error for a value that isn't as wanted."""
        got = self.values.get(key)
        return ModelError(f"{self._path}: {self._prefix}{key}: expected {wanted}, got {got!r}")

    def section(self, key: str) -> _Section:
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return _Section(value, self._path, f"{self._prefix}{key}.")

    def count(self, key: str, default: int) -> int:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.fail(key, "a positive whole number")
        return value

    def real(self, key: str, default: float) -> float:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise self.fail(key, "a positive number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "a name")
        return value

    def counts(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.values.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(v, int) and v > 0 for v in value):
            raise self.fail(key, "a list of positive whole numbers")
        return tuple(value)


def _codec(section: _Section) -> CodecConfig:
    default = CodecConfig()
    config = CodecConfig(
        encoder_dim=section.count("encoder_dim", default.encoder_dim),
        encoder_rates=section.counts("encoder_rates", default.encoder_rates),
        latent_dim=section.count("latent_dim", default.latent_dim),
        decoder_dim=section.count("decoder_dim", default.decoder_dim),
        decoder_rates=section.counts("decoder_rates", default.decoder_rates),
        codebook_dim=section.count("codebook_dim", default.codebook_dim),
        sample_rate=section.count("sample_rate", default.sample_rate),
    )
    if len(config.decoder_rates) != 4:
        raise section.fail("decoder_rates", "four rates, as the watermark's layers have")
    if sorted(config.decoder_rates) != sorted(config.encoder_rates):
        raise section.fail("decoder_rates", f"the encoder's {list(config.encoder_rates)} reversed")
    return config


def _transformer(section: _Section, out_channels: int) -> DiTConfig:
    default = DiTConfig()
    for key, value in _FIXED.items():
        if section.values.get(key, value) != value:
            raise section.fail(key, f"{value}; no other kind of transformer is known")
    values: dict[str, Any] = {}
    for key in _COUNTS:
        if section.values.get(key) is not None:
            values[key] = section.count(key, 1)
    for key in _REALS:
        values[key] = section.real(key, getattr(default, key))
    config = DiTConfig(**values)
    if config.dim % config.n_heads or config.head_dim % 2:
        raise section.fail("n_heads", f"a number that divides dim {config.dim} into even parts")
    if config.out_channels != out_channels:
        raise section.fail("out_channels", f"{out_channels}, twice the codec's codebook_dim")
    return config


_UNIT_LAYERS = ("snake_in", "dilated", "snake_out", "pointwise")


def _codec_layers(config: CodecConfig) -> Iterator[tuple[str, str]]:
    """Pairs of our layer and the official one, for the codec."""
    depth = len(config.encoder_rates)
    encoder, theirs = "codec.encoder", "audio_codec.encoder.block"
    yield f"{encoder}.entry", f"{theirs}.0"
    for i in range(depth):
        for unit in range(3):
            for k, layer in enumerate(_UNIT_LAYERS):
                yield (
                    f"{encoder}.blocks.{i}.units.{unit}.{layer}",
                    f"{theirs}.{i + 1}.block.{unit}.block.{k}",
                )
        yield f"{encoder}.blocks.{i}.snake", f"{theirs}.{i + 1}.block.3"
        yield f"{encoder}.blocks.{i}.down", f"{theirs}.{i + 1}.block.4"
    yield f"{encoder}.snake", f"{theirs}.{depth + 1}"
    yield f"{encoder}.exit", f"{theirs}.{depth + 2}"
    yield "codec.encoder.mean", "audio_codec.quantizer.in_proj"
    yield "codec.decoder.features", "audio_codec.quantizer.out_proj"

    depth = len(config.decoder_rates)
    decoder, theirs = "codec.decoder", "audio_codec.decoder.model"
    mark = f"{decoder}.watermark"
    yield f"{decoder}.entry", f"{theirs}.0"
    for i in range(depth):
        block = f"{theirs}.{i + 1}.block"
        yield f"{decoder}.blocks.{i}.snake", f"{block}.0"
        yield f"{decoder}.blocks.{i}.up", f"{block}.1"
        for unit, index in enumerate((4, 5, 8)):
            for k, layer in enumerate(_UNIT_LAYERS):
                yield f"{decoder}.blocks.{i}.units.{unit}.{layer}", f"{block}.{index}.block.{k}"
        # The official blocks also carry the watermark's layers: upwards 3 and 6 in the order of
        # the decoder, downwards 7 and 11 against it.
        up, down = f"{mark}.ups.{i}", f"{mark}.downs.{depth - 1 - i}"
        yield f"{up}.up", f"{block}.3"
        yield f"{up}.unit.squeeze", f"{block}.6.block.1"
        yield f"{up}.unit.expand", f"{block}.6.block.3"
        yield f"{down}.unit.squeeze", f"{block}.7.block.1"
        yield f"{down}.unit.expand", f"{block}.7.block.3"
        yield f"{down}.down", f"{block}.11"
    theirs = "audio_codec.decoder.wm_model"
    yield f"{decoder}.snake", f"{theirs}.encoder_block.pre.0"
    yield f"{decoder}.exit", f"{theirs}.encoder_block.pre.1"
    yield f"{mark}.entry", f"{theirs}.encoder_block.pre.3"
    yield f"{mark}.squeeze", f"{theirs}.encoder_block.post.2"
    yield f"{mark}.bits", f"{theirs}.msg_processor.msg_processor"
    yield f"{mark}.expand", f"{theirs}.decoder_block.pre.0"
    for depth in range(2):
        yield f"{mark}.lstm_in.layers.{depth}", f"{theirs}.encoder_block.post.0.lstm"
        yield f"{mark}.lstm_out.layers.{depth}", f"{theirs}.decoder_block.pre.1.lstm"
    yield f"{mark}.exit", f"{theirs}.decoder_block.post.1"


def official_layers(config: SamAudioConfig) -> dict[str, str]:
    """Map our layers to the official ones, wherever the names differ.

    A parameter that is a layer of its own (the watermark's table of bits) is listed by its name.
    Below ``velocity_network.`` a layer that isn't listed has the official name.
    """
    network = "velocity_network"
    return {
        **dict(_codec_layers(config.codec)),
        f"{network}.proj": "proj",
        f"{network}.memory_proj": "memory_proj",
        f"{network}.visual": "align_masked_video",
        f"{network}.visual.conv": "align_masked_video.conv",
        f"{network}.visual.layer_norm": "align_masked_video.layer_norm",
        f"{network}.spans": "embed_anchors",
        f"{network}.spans.embed": "embed_anchors.embed",
        f"{network}.spans.proj": "embed_anchors.proj",
    }


CONFIG_FILE = "config.json"
#: Parts that a checkpoint may hold and that `SamAudio` doesn't: exported on their own.
_OTHER_PARTS = ("vision_encoder.",)
_VIDEO = "align_masked_video."
_NAMED_AT_MOST = 8


def load_checkpoint(path: str | Path) -> SamAudio:
    """Load an official SAM Audio checkpoint.

    Parameters
    ----------
    path : str or Path
        Directory with ``config.json`` and weights, see `onnx_export.checkpoints.weights`.

    Returns
    -------
    SamAudio
        In evaluation mode, float32, on the CPU. Parts outside `SamAudio` (the vision encoder) are
        left in the file.

    Raises
    ------
    ModelError
        If a file is missing, unreadable or truncated, the configuration isn't one we know, or a
        tensor is missing, unexpected or of another shape than the configuration says; the message
        names the tensors.
    """
    model, weights = open_checkpoint(path)
    model.load_state_dict({name: read() for name, read in weights.items()}, assign=True)
    return model.requires_grad_(False)


def open_checkpoint(path: str | Path) -> tuple[SamAudio, dict[str, ReadTensor]]:
    """Check an official SAM Audio checkpoint, and leave its weights in the file.

    Parameters
    ----------
    path : str or Path
        As of `load_checkpoint`, which raises the same.

    Returns
    -------
    model : SamAudio
        In evaluation mode, with parameters on the meta device: shapes and no values.
    weights : dict of str to callable
        For each name in the model's state dict what reads it, contiguous and in float32. What is
        kept as it was in the file is a view of the mapped file.
    """
    directory = expanded(path)
    config = read_config(directory / CONFIG_FILE)
    source = _Source(read_weights(directory), directory)
    with torch.device("meta"):
        model = SamAudio(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    layers = official_layers(config)
    heads = config.transformer.n_heads
    weights = {
        name: partial(_parameter, name, shape, source, layers, heads)
        for name, shape in shapes.items()
    }
    for read in weights.values():
        read()
    source.finish()
    return model.eval().requires_grad_(False), dict(weights)


class _Source:
    """A state dict that is first checked, and read from when it was found to fit.

    Until `finish`, tensors are handed out without values, and what is used, missing or of the
    wrong shape is noted.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self._tensors, self._path = tensors, path
        self._checked = False
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor as float32."""
        if self._checked:
            return self._tensors[name].float()
        if name not in self._tensors:
            self._missing.append(name)
        else:
            self._used.add(name)
            got = tuple(self._tensors[name].shape)
            if got != shape:
                self._misshapen.append(f"{name} (expected {list(shape)}, got {list(got)})")
        return torch.empty(shape, device="meta")

    def take_weight(self, layer: str, shape: tuple[int, ...]) -> Tensor:
        """Return a layer's weight, folded if it is stored as weight norm in either spelling."""
        for gain, direction in (
            ("weight_g", "weight_v"),
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ):
            if f"{layer}.{gain}" in self or f"{layer}.{direction}" in self:
                g = self.take(f"{layer}.{gain}", (shape[0],) + (1,) * (len(shape) - 1))
                v = self.take(f"{layer}.{direction}", shape)
                norm = torch.linalg.vector_norm(v.flatten(1), dim=1).reshape(g.shape)
                folded: Tensor = v * (g / norm)
                return folded
        return self.take(f"{layer}.weight", shape)

    def finish(self) -> None:
        """Raise if a tensor was missing, misshapen or not used; hand out values from now on."""
        unexpected = [
            name
            for name in self._tensors
            if name not in self._used and not name.startswith(_OTHER_PARTS)
        ]
        faults = [
            f"{label} {_enumerate(names)}"
            for label, names in (
                ("missing", self._missing),
                ("unexpected", unexpected),
                ("misshapen", self._misshapen),
            )
            if names
        ]
        if faults:
            raise ModelError(
                f"{self._path}: the weights don't fit {CONFIG_FILE}: {'; '.join(faults)}. "
                "Use the files of one SAM Audio release"
                + (
                    "; conversions without align_masked_video, such as those for MLX, can't be "
                    "used, since it has a part in prompts without a video too."
                    if self._missing and all(n.startswith(_VIDEO) for n in self._missing)
                    else "."
                )
            )
        self._checked = True


def _enumerate(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    rest = len(names) - _NAMED_AT_MOST
    return f"{len(names)} tensors: {shown}" + (f" and {rest} more" if rest > 0 else "")


def _parameter(
    name: str, shape: tuple[int, ...], source: _Source, layers: Mapping[str, str], heads: int
) -> Tensor:
    """Make one parameter of the model from the official tensors."""
    layer, _, leaf = name.rpartition(".")
    official = layers.get(layer) or layers.get(name) or layer.removeprefix("velocity_network.")
    part = layer.rsplit(".", 1)[-1]
    if layer == "codec.encoder.mean":
        value = _mean(source, official, leaf, shape)
    elif name == "velocity_network.proj.weight":
        value = _fold_input(source, official, shape)
    elif name in layers:
        value = source.take(f"{official}.weight", shape)
    elif ".lstm_" in layer:
        value = _lstm(source, official, layer, leaf, shape)
    elif leaf == "weight" and part in ("wq", "wk", "wv"):
        rows = source.take(f"{official}.weight", shape)
        value = _standard_heads(rows, heads, paired=part != "wv")
    elif part in ("q_norm", "k_norm"):
        value = _halves(source.take(f"{official}.weight", shape))
    elif leaf == "weight":
        value = source.take_weight(official, shape)
    else:
        value = source.take(f"{official}.{leaf}", shape)
    return value.contiguous()


def _fold_input(source: _Source, layer: str, shape: tuple[int, ...]) -> Tensor:
    """Fold the official input projection, of (state, zeros, mixture, mixture), to what it sees."""
    channels = shape[1] // 3
    columns = source.take(f"{layer}.weight", (shape[0], 6 * channels)).chunk(6, dim=1)
    target, residual, _, _, once, twice = columns
    return torch.cat([target, residual, once + twice], dim=1)


def _mean(source: _Source, layer: str, leaf: str, shape: tuple[int, ...]) -> Tensor:
    """Take the first half of the bottleneck, which predicts the mean; the scale isn't used."""
    whole = (2 * shape[0], *shape[1:])
    if leaf == "weight":
        return source.take_weight(layer, whole)[: shape[0]]
    return source.take(f"{layer}.{leaf}", whole)[: shape[0]]


def _lstm(source: _Source, official: str, layer: str, leaf: str, shape: tuple[int, ...]) -> Tensor:
    """Take one parameter of an LSTM layer in the layout of `networks.watermark.Lstm`."""
    from onnx_export.networks.dacvae import Lstm

    depth = layer.rsplit(".", 1)[-1]
    if leaf == "bias":
        half = (shape[1] // 2,)
        return torch.cat(
            [
                Lstm.reorder(source.take(f"{official}.bias_{kind}_l{depth}", half))
                for kind in ("ih", "hh")
            ]
        )[None]
    kind = "ih" if leaf == "input_weight" else "hh"
    return Lstm.reorder(source.take(f"{official}.weight_{kind}_l{depth}", shape[1:]))[None]


def _halves(rows: Tensor) -> Tensor:
    """Reorder the last axis but for pairs (0, 1), (2, 3)... to become (0, n/2), (1, n/2 + 1)..."""
    return torch.cat([rows[..., 0::2], rows[..., 1::2]], dim=-1)


def _standard_heads(weight: Tensor, heads: int, *, paired: bool) -> Tensor:
    """Move the rows of a projection from heads fastest to heads slowest.

    With ``paired`` the rows of each head also move from rotary pairs to halves. Queries and keys
    are permuted alike, so that their products, and hence the attention, are the same.
    """
    by_head = weight.reshape(-1, heads, weight.shape[1]).permute(1, 2, 0)  # (heads, in, head_dim)
    if paired:
        by_head = _halves(by_head)
    return by_head.permute(0, 2, 1).reshape(weight.shape)


#: Where a SAM Audio checkpoint keeps the tower.
PREFIX: Final = "vision_encoder."
_HEAD_DIM = 64
#: Heads where they aren't `_HEAD_DIM` wide; nothing in the weights tells.
_HEADS = {"PE-Core-G14-448": 16}
_RESBLOCKS = "transformer.resblocks."
_LAYERS = {
    "conv1": "patches", "ln_pre": "norm_in", "ln_post": "norm_out",
    "attn_pool.attn.out_proj": "pool.out", "attn_pool.layernorm": "pool_norm",
    "attn_pool.mlp.c_fc": "pool_feed_forward.up", "attn_pool.mlp.c_proj": "pool_feed_forward.down",
}  # fmt: skip
_BLOCK_LAYERS = {
    "ln_1": "norm_1", "ln_2": "norm_2", "attn.out_proj": "attention.out",
    "mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down",
}  # fmt: skip
_SINGLES = {
    "class_embedding": "class_token", "positional_embedding": "positions",
    "attn_pool.probe": "probe",
}  # fmt: skip


def load_vision_encoder(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], where: str
) -> VisionEncoder:
    """Build the tower of a checkpoint; its sizes are those of its tensors.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        The checkpoint. Of the part under `PREFIX`, a text tower, which nothing here uses, may
        stand beside the vision tower.
    settings : mapping
        ``vision_encoder`` of ``config.json``.
    where : str
        What errors call the checkpoint.

    Returns
    -------
    VisionEncoder
        In evaluation mode, float32.

    Raises
    ------
    ModelError
        If the checkpoint has no vision tower, or one of another kind.
    """
    entry = "conv1.weight"
    own = [name for name in tensors if name.startswith(PREFIX)]
    prefixes = [name.removesuffix(entry) for name in own if name.endswith(entry)]
    if not prefixes:
        raise ModelError(f"{where}: holds no vision encoder ({PREFIX}*); export without it")
    prefix = prefixes[0]
    tower = {n.removeprefix(prefix): tensors[n].float() for n in own if n.startswith(prefix)}
    try:
        config = _config(tower, settings)
        state = _renamed(tower, config.heads)
    except (KeyError, IndexError, ValueError) as error:
        raise ModelError(f"{where}: its vision encoder lacks {prefix}{error}") from error
    model = VisionEncoder(config)
    load_strictly(model, state, f"{where}: its vision encoder doesn't fit")
    return model


def _config(tower: Mapping[str, Tensor], settings: Mapping[str, Any]) -> VisionConfig:
    width, _, patch, _ = tower["conv1.weight"].shape
    has_class = "class_embedding" in tower
    grid = round((len(tower["positional_embedding"]) - has_class) ** 0.5)
    return VisionConfig(
        image_size=grid * patch,
        patch=patch,
        width=width,
        heads=_HEADS.get(str(settings.get("name")), width // _HEAD_DIM),
        layers=len({n.split(".")[2] for n in tower if n.startswith(_RESBLOCKS)}),
        hidden=len(tower[f"{_RESBLOCKS}0.mlp.c_fc.weight"]),
        pool_hidden=len(tower["attn_pool.mlp.c_fc.weight"]),
        dim=tower["proj"].shape[1],
        class_token=has_class,
        normalise=bool(settings.get("normalize_feature", True)),
    )


def _renamed(tower: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Give the tensors our names, and take fused projections apart."""
    state: dict[str, Tensor] = {}
    for name, value in tower.items():
        block, rest = "", name
        if name.startswith(_RESBLOCKS):
            number, _, rest = name.removeprefix(_RESBLOCKS).partition(".")
            block = f"blocks.{number}."
        layer, _, leaf = rest.rpartition(".")
        if leaf in ("in_proj_weight", "in_proj_bias"):
            target, leaf = "attention" if block else "pool", leaf.removeprefix("in_proj_")
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                turned = block and part != "value"
                state[f"{block}{target}.{part}.{leaf}"] = (
                    _vision_halves(rows, heads) if turned else rows.clone()
                )
        elif name == "proj":
            state["head.weight"] = value.T.contiguous()
        elif name in _SINGLES:
            state[_SINGLES[name]] = value
        else:
            state[f"{block}{(_BLOCK_LAYERS if block else _LAYERS).get(layer, layer)}.{leaf}"] = (
                value
            )
    return state


def _vision_halves(rows: Tensor, heads: int) -> Tensor:
    """Reorder each head's rows: there neighbours are rotated together, here halves are."""
    by_head = rows.reshape(heads, -1, *rows.shape[1:])
    return torch.cat([by_head[:, 0::2], by_head[:, 1::2]], dim=1).flatten(0, 1)
