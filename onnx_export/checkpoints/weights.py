"""Files of weights as people have them, read without copying them: names to tensors.

A file is a PyTorch state dict or safetensors, a checkpoint one of them or several with an index.
All of them are memory-mapped, and a tensor is read when it is asked for. Names may be the official
ones, have a common prefix, or be those of the conversions for MLX, whose convolutions have their
channels last.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from bridge.errors import ModelError
from bridge.files import sha256_of_file

#: Files of a checkpoint, the first that is there counts; several of the last are refused.
WEIGHTS_FILES: Final = ("checkpoint.pt", "model.safetensors.index.json", "*.safetensors")
#: SHA-256 of the official ``checkpoint.pt``, as their repositories have them.
RELEASES: Final = {
    "8c44fda9821fd9f2ec8977304e3c0f55290d9eacb6bbf25b4b8fb1f69c2a8c06": "sam-audio-small",
    "b5f3e29ea7a9e80e90a00da495a8aafe890571f371c4bfb88c052c65a5636839": "sam-audio-base",
    "ca55418b1d23e8c8a4dcc55f259d9801c8f79da0131a66e525d862c1289e3c4f": "sam-audio-large",
    "1a9693b235efc3176986664dac349eb64022c7468cf8d4195954490a2457e6a9": "sam-audio-small-tv",
    "569e3fecdefe267047b02d117acb5a67c03d2f73c4943d3d8bd43df9e9b9148d": "sam-audio-base-tv",
    "90e047269238c498c5abe0da6e6ba40859d152111d4a09f582a209027a33b72f": "sam-audio-large-tv",
}
#: What wrappers of a model put before all of its names.
_PREFIXES = ("model.", "module.", "sam_audio.", "_orig_mod.")


def find_weights(directory: Path) -> list[Path]:
    """Return the files of a checkpoint's weights.

    Raises
    ------
    ModelError
        If there are none, several that could be meant, or an index names one that is not there.
    """
    for pattern in WEIGHTS_FILES:
        found = sorted(directory.glob(pattern))
        if not found:
            continue
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ModelError(
                f"{directory}: {names} and no index; leave the one file that is meant, or add "
                "model.safetensors.index.json"
            )
        return _shards(found[0]) if found[0].suffix == ".json" else found
    raise ModelError(
        f"{directory}: no {WEIGHTS_FILES[0]} and no safetensors; give the directory of a "
        "checkpoint, with config.json beside its weights"
    )


def digest(files: list[Path]) -> str:
    """Compute the SHA-256 of a file, of several over their digests in the order of names."""
    parts = [sha256_of_file(path) for path in files]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def read_weights(directory: Path) -> Mapping[str, Tensor]:
    """Open the weights of a checkpoint under their official names.

    Raises
    ------
    ModelError
        If there are none, a file is damaged, or they are quantised.
    """
    tensors: dict[str, ReadTensor] = {}
    for path in find_weights(directory):
        for name, read in _open(path).items():
            if name in tensors:
                raise ModelError(f"{path}: {name} is in another file as well; keep one of them")
            tensors[name] = read
    return Weights(_official(tensors, directory))


#: Reads one tensor, or maps it.
ReadTensor: TypeAlias = Callable[[], Tensor]


class Weights(Mapping[str, Tensor]):
    """Named tensors that are read, or mapped, when they are asked for."""

    def __init__(self, tensors: Mapping[str, ReadTensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors


def _shards(index: Path) -> list[Path]:
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(table.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{index}: not an index of weights ({error}); download it again"
        ) from error
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ModelError(f"{index}: names {name}, which is not beside it; download all parts")
    return [index.parent / name for name in names]


def _open(path: Path) -> dict[str, ReadTensor]:
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_safetensors(path: Path) -> dict[str, ReadTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: not a complete safetensors file ({error}); download it again"
        ) from error

    def lazy(name: str) -> ReadTensor:
        def read() -> Tensor:
            tensor: Tensor = file.get_tensor(name)
            return tensor

        return read

    return {name: lazy(name) for name in names}


def _open_pickle(path: Path) -> dict[str, ReadTensor]:
    """Read a plain state dict without running any code that it may contain."""
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
    return {name: lambda value=value: value for name, value in loaded.items()}  # type: ignore[misc]


def _official(tensors: Mapping[str, ReadTensor], directory: Path) -> dict[str, ReadTensor]:
    """Give tensors the names and the layout of the official release."""
    quantised = [name for name in tensors if name.endswith((".scales", ".qweight", ".qzeros"))]
    if quantised:
        raise ModelError(
            f"{directory}: its weights are quantised ({quantised[0]} and {len(quantised) - 1} "
            "more); take the version in bf16, fp16 or fp32 that they were made from"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): read for name, read in tensors.items()}
    if not any(name.startswith("audio_codec.encoder.conv_in.") for name in tensors):
        return dict(tensors)
    named: dict[str, ReadTensor] = {}
    for name, read in tensors.items():
        official = _from_mlx(name)
        layer, _, leaf = official.rpartition(".")
        if match := re.fullmatch(r"(.*\.lstm)\.layers\.(\d+)\.(Wx|Wh|bias)", official):
            layer, depth, leaf = match.groups()
            if leaf == "bias":
                # One stands for the sum of two there.
                named[f"{layer}.bias_ih_l{depth}"] = read
                named[f"{layer}.bias_hh_l{depth}"] = _zeros_like(read)
            else:
                named[f"{layer}.weight_{'ih' if leaf == 'Wx' else 'hh'}_l{depth}"] = read
            continue
        upwards = re.fullmatch(r"audio_codec\.decoder\.model\.\d+\.block\.[13]", layer)
        named[official] = _channels_first(read, (2, 0, 1) if upwards else (0, 2, 1))
    return named


def _channels_first(read: ReadTensor, order: tuple[int, int, int]) -> ReadTensor:
    """Put the channels of what has three axes where PyTorch has them."""

    def turned() -> Tensor:
        value = read()
        return value.permute(order).contiguous() if value.ndim == 3 else value

    return turned


def _zeros_like(read: ReadTensor) -> ReadTensor:
    return lambda: torch.zeros_like(read())


_UNIT = {"act1": "block.0", "conv1": "block.1", "act2": "block.2", "conv2": "block.3"}


def _from_mlx(name: str) -> str:
    """Turn a name of mlx-audio's module into the official one."""

    def numbered(pattern: str, form: Callable[[re.Match[str]], str], text: str) -> str:
        return re.sub(pattern, form, text)

    encoder, decoder = "audio_codec.encoder.", "audio_codec.decoder."
    mark = f"{decoder}wm_model.encoder_block.pre."
    for theirs, ours in (
        (f"{encoder}conv_in.", f"{encoder}block.0."),
        (f"{encoder}snake_out.", f"{encoder}block.5."),
        (f"{encoder}conv_out.", f"{encoder}block.6."),
        (f"{decoder}conv_in.", f"{decoder}model.0."),
        (f"{decoder}snake_out.", f"{mark}0."),
        (f"{decoder}conv_out.", f"{mark}1."),
        ("audio_codec.quantizer_", "audio_codec.quantizer."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if name.startswith(f"{encoder}blocks."):
        name = numbered(r"\.blocks\.(\d+)\.", lambda m: f".block.{int(m[1]) + 1}.", name)
        name = numbered(r"\.res(\d)\.", lambda m: f".block.{int(m[1]) - 1}.", name)
        name = name.replace(".snake.", ".block.3.").replace(".conv.", ".block.4.")
    elif name.startswith(f"{decoder}blocks."):
        name = numbered(
            r"\.blocks\.(\d+)\.block_(\d+)\.",
            lambda m: f".model.{int(m[1]) + 1}.block.{m[2]}.",
            name,
        )
    elif ".wm_model." in name:
        return numbered(r"\.(pre|post)_(\d)\.", lambda m: f".{m[1]}.{m[2]}.", name)
    else:
        return name
    return numbered(r"\.(act1|conv1|act2|conv2)\.", lambda m: f".{_UNIT[m[1]]}.", name)
