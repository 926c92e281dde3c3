"""The vision tower in a SAM Audio checkpoint: found, renamed, and loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from bridge.errors import ModelError
from onnx_export.vision_encoder import VisionConfig, VisionEncoder

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
        with torch.device("meta"):
            names = VisionEncoder(config).state_dict()
        state = _renamed(tower, config.heads)
    except (KeyError, IndexError, ValueError) as error:
        raise ModelError(f"{where}: its vision encoder lacks {prefix}{error}") from error
    faults = [f"missing {name}" for name in names if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in names]
    faults += [
        f"misshapen {name} (expected {list(names[name].shape)}, got {list(value.shape)})"
        for name, value in state.items()
        if name in names and value.shape != names[name].shape
    ]
    if faults:
        raise ModelError(f"{where}: its vision encoder doesn't fit: {'; '.join(faults[:8])}")
    model = VisionEncoder(config)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


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
                    _halves(rows, heads) if turned else rows.clone()
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


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Reorder each head's rows: there neighbours are rotated together, here halves are."""
    by_head = rows.reshape(heads, -1, *rows.shape[1:])
    return torch.cat([by_head[:, 0::2], by_head[:, 1::2]], dim=1).flatten(0, 1)
