"""Official SAM Audio checkpoints, loaded strictly.

Every tensor of our modules must be found, every tensor of the file must be used, and every shape
must fit; what doesn't is named. Weights are prepared here once: weight norm is folded, attention
rows move from the official interleaved heads to the standard layout and rotary pairs to halves,
LSTM gates move to ONNX's order, and the input projection drops the columns that only see zeros.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.errors import ModelError
from onnx_export.configuration import read_config
from onnx_export.names import official_layers
from onnx_export.sam_audio import SamAudio, SamAudioConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "checkpoint.pt"
#: Parts that a checkpoint may hold and that `SamAudio` doesn't: exported on their own.
_OTHER_PARTS = ("vision_encoder.",)
_NAMED_AT_MOST = 8


def load_checkpoint(path: str | Path) -> SamAudio:
    """Load an official SAM Audio checkpoint.

    Parameters
    ----------
    path : str or Path
        Directory with ``config.json`` and ``checkpoint.pt``.

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
    directory = Path(path).expanduser()
    config = read_config(directory / CONFIG_FILE)
    tensors = read_tensors(directory / WEIGHTS_FILE)
    with torch.device("meta"):
        model = SamAudio(config)
    source = _Source(tensors, directory / WEIGHTS_FILE)
    state = _assemble(model, config, source)
    source.finish()
    model.load_state_dict(state, assign=True)
    model.eval().requires_grad_(False)
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a plain state dict, memory-mapped, without running any code that it may contain.

    Raises
    ------
    ModelError
        If the file is missing, truncated, or holds anything but named tensors.
    """
    if not path.is_file():
        raise ModelError(
            f"{path}: no such file; give the directory of a checkpoint, "
            f"with {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path}: not a complete PyTorch checkpoint ({reason[:160]}); download it again"
        ) from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise ModelError(f"{path}: expected a state dict of named tensors, got something else")
    return dict(loaded)


class _Source:
    """A state dict that notes what was used, what was missing and what had the wrong shape."""

    def __init__(self, tensors: dict[str, Tensor], path: Path) -> None:
        self._tensors, self._path = tensors, path
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor as float32; a stand-in if it isn't there, `finish` then raises."""
        if name not in self._tensors:
            self._missing.append(name)
            return torch.zeros(()).expand(shape)
        self._used.add(name)
        value = self._tensors[name]
        if tuple(value.shape) != shape:
            self._misshapen.append(f"{name} (expected {list(shape)}, got {list(value.shape)})")
            return torch.zeros(()).expand(shape)
        return value.float()

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
        """Raise if anything was missing or misshapen, or wasn't used."""
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
                f"{self._path} doesn't fit its {CONFIG_FILE}: {'; '.join(faults)}. "
                "Use the two files of one SAM Audio release."
            )


def _enumerate(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    rest = len(names) - _NAMED_AT_MOST
    return f"{len(names)} tensors: {shown}" + (f" and {rest} more" if rest > 0 else "")


def _assemble(model: SamAudio, config: SamAudioConfig, source: _Source) -> dict[str, Tensor]:
    """Fill every parameter of the model from the official tensors."""
    layers = official_layers(config)
    heads = config.transformer.n_heads
    state: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        shape = tuple(parameter.shape)
        official = layers.get(layer) or layers.get(name) or layer.removeprefix("velocity_network.")
        part = layer.rsplit(".", 1)[-1]
        if layer == "codec.encoder.mean":
            state[name] = _mean(source, official, leaf, shape)
        elif name == "velocity_network.proj.weight":
            state[name] = _fold_input(source, official, shape)
        elif name in layers:
            state[name] = source.take(f"{official}.weight", shape)
        elif ".lstm_" in layer:
            state[name] = _lstm(source, official, layer, leaf, shape)
        elif leaf == "weight" and part in ("wq", "wk", "wv"):
            rows = source.take(f"{official}.weight", shape)
            state[name] = _standard_heads(rows, heads, paired=part != "wv")
        elif part in ("q_norm", "k_norm"):
            state[name] = _halves(source.take(f"{official}.weight", shape))
        elif leaf == "weight":
            state[name] = source.take_weight(official, shape)
        else:
            state[name] = source.take(f"{official}.{leaf}", shape)
    # Memory-mapped tensors would pin the file; everything the model keeps is its own.
    return {name: value.contiguous().clone() for name, value in state.items()}


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
    """Take one parameter of an LSTM layer in the layout of `onnx_export.watermark.Lstm`."""
    from onnx_export.watermark import Lstm

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
