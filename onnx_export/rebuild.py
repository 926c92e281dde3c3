"""From a bundle back to PyTorch modules.

Sizes come from its configuration, weights from its graphs: bundles keep every weight under its
name (see `onnx_export.trace`), so no second copy of the weights is needed to verify one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bridge.bundles.bundle import load_prompted
from bridge.bundles.manifest import (
    CLAP,
    CLAP_TOKENIZER,
    JUDGE,
    JUDGE_TOKENIZER,
    VISION_ENCODER,
    Manifest,
)
from bridge.errors import ModelError
from onnx_export.checkpoints.checkpoint import parse_config
from onnx_export.export import CONFIG_FILE
from onnx_export.networks.judge import Judge
from onnx_export.networks.mini import MiniConfig, MiniModel
from onnx_export.networks.phrases import Clap, SpanPredictor, TextEncoder
from onnx_export.networks.sam_audio import SamAudio
from onnx_export.networks.vision_encoder import VisionConfig, VisionEncoder
from onnx_export.recipes import (
    Blueprint,
    Provenance,
    mini_blueprint,
    sam_audio_blueprint,
    with_clap,
    with_judge,
    with_span_predictor,
    with_vision,
)
from onnx_export.trace import IN_8_BITS, SCALE, TRANSPOSED, ZERO_POINT

_HALF_PREFIX = "module."


def rebuild_blueprint(bundle: str | Path) -> Blueprint:
    """Build a bundle's modules again, with its own weights.

    Parameters
    ----------
    bundle : str or Path
        Directory of a bundle that this package exported.

    Returns
    -------
    Blueprint
        Its modules are in evaluation mode and float32, whatever the bundle's precision.

    Raises
    ------
    ModelError
        If the bundle holds no configuration, or a weight of the modules isn't in its graphs.
    """
    directory = Path(bundle)
    manifest = load_prompted(directory)
    config = _read_config(directory)
    blueprint = _KINDS[config["kind"]](config, directory, manifest)
    if manifest.span_prediction is not None:
        predictor = _span_predictor(config["span_predictor"])
        tokenizer = directory / manifest.span_prediction.tokenizer
        blueprint = with_span_predictor(blueprint, predictor, tokenizer)
    if JUDGE in manifest.graphs:
        blueprint = with_judge(blueprint, Judge(config["judge"]), directory / JUDGE_TOKENIZER)
    if CLAP in manifest.graphs:
        blueprint = with_clap(blueprint, _clap(config["clap"]), directory / CLAP_TOKENIZER)
    if VISION_ENCODER in manifest.graphs:
        sizes = msgspec.convert(config["vision_encoder"], VisionConfig)
        blueprint = with_vision(blueprint, VisionEncoder(sizes))
    _fill_graphs(blueprint, directory, manifest)
    return replace(blueprint, weights="bundle")


def rebuild_mini(bundle: str | Path) -> MiniModel:
    """Build a bundle of `mini`'s kind again as the one model that is trained.

    Parameters
    ----------
    bundle : str or Path
        Directory of a bundle that this package exported.

    Returns
    -------
    MiniModel
        In evaluation mode and float32.

    Raises
    ------
    ModelError
        If the bundle holds another kind of model, or lacks weights.
    """
    directory = Path(bundle)
    manifest = load_prompted(directory)
    config = _read_config(directory)
    if config["kind"] != "mini":
        raise ModelError(
            f"{directory}: expected a model of the kind 'mini', which the project trains, got "
            f"{config['kind']!r}"
        )
    model = MiniModel(msgspec.convert(config["model"], MiniConfig))
    blueprint = mini_blueprint(model, directory / manifest.tokenizer, _provenance(manifest))
    _fill_graphs(blueprint, directory, manifest)
    return model.eval()


def _read_config(directory: Path) -> Any:
    """Read the sizes that a bundle's modules are built from."""
    path = directory / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        _KINDS[config["kind"]]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: no configuration of a model that this version can build ({error}); "
            "verify against the checkpoint instead"
        ) from error
    return config


def _fill_graphs(blueprint: Blueprint, directory: Path, manifest: Manifest) -> None:
    for graph in blueprint.graphs:
        graph.module.eval().requires_grad_(False)
        _fill(graph.module, directory / manifest.graphs[graph.role].file)


def _build_sam_audio(config: Mapping[str, Any], directory: Path, manifest: Manifest) -> Blueprint:
    model = SamAudio(parse_config(config["model"], directory / CONFIG_FILE))
    return sam_audio_blueprint(
        model,
        TextEncoder(_t5(config["t5"])),
        directory / manifest.tokenizer,
        _provenance(manifest),
    )


def _build_mini(config: Mapping[str, Any], directory: Path, manifest: Manifest) -> Blueprint:
    model = MiniModel(msgspec.convert(config["model"], MiniConfig))
    return mini_blueprint(model, directory / manifest.tokenizer, _provenance(manifest))


_KINDS: dict[str, Callable[[Mapping[str, Any], Path, Manifest], Blueprint]] = {
    "sam-audio": _build_sam_audio,
    "mini": _build_mini,
}


def _provenance(manifest: Manifest) -> Provenance:
    return Provenance(manifest.name, manifest.licence, manifest.provenance, manifest.sounds)


def _t5(config: Mapping[str, Any]) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**config))


def _span_predictor(config: Mapping[str, Any]) -> SpanPredictor:
    from transformers import PeAudioConfig, PeAudioFrameLevelModel

    return SpanPredictor(PeAudioFrameLevelModel(PeAudioConfig(**config)))


def _clap(config: Mapping[str, Any]) -> Clap:
    from transformers import ClapConfig, ClapModel

    return Clap(ClapModel(ClapConfig(**config["model"])), config["preprocessor"])


def _fill(module: nn.Module, path: Path) -> None:
    """Copy the weights of a graph into the module it was traced from."""
    stored = {
        (value.name or "").removeprefix(_HALF_PREFIX): value.const_value
        for value in ir.load(path).graph.initializers.values()
    }
    kept = set(module.state_dict())
    missing, filled = [], set()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, target in tensors:
        if name not in kept or _storage(target) in filled:
            continue
        if not target.is_floating_point():  # positions and counters, which modules make themselves
            continue
        names = [other for other, value in _aliases(module, target)]
        source = _find(stored, names)
        if source is None:
            missing.append(name)
            continue
        if tuple(source.shape) != tuple(target.shape):
            raise ModelError(
                f"{path}: {name} has shape {list(source.shape)}, expected {list(target.shape)}"
            )
        with torch.no_grad():
            target.copy_(source)
        filled.add(_storage(target))
    if missing:
        raise ModelError(f"{path}: lacks {len(missing)} weights, among them {missing[0]}")


def _aliases(module: nn.Module, target: Tensor) -> list[tuple[str, Tensor]]:
    """Every name under which a module knows a tensor: tied weights are stored under one."""
    return [
        (name, value)
        for name, value in module.state_dict(keep_vars=True).items()
        if value is target
    ]


def _storage(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _find(stored: Mapping[str, Any], names: list[str]) -> Tensor | None:
    for name in names:
        if name in stored:
            return torch.from_numpy(np.array(stored[name].numpy()))
        if name + TRANSPOSED in stored:
            return torch.from_numpy(np.array(stored[name + TRANSPOSED].numpy().T))
        rounded = stored.get(name + TRANSPOSED + IN_8_BITS)
        if rounded is not None:
            scales = stored[name + TRANSPOSED + SCALE].numpy()
            return torch.from_numpy(((rounded.numpy() - np.float32(ZERO_POINT)) * scales).T)
    return None
