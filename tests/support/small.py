"""A seeded checkpoint, narrow and of fewer layers, so that tests of files and exports are quick.

Its tensors have the official names; the codec's widths are divided by `NARROWER`, and of the
transformer's three layers the first `LAYERS` are kept. There are no official numbers for it.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch

from tests.support import parity, seeded

NARROWER = 16
LAYERS = 2
#: Layers of the watermark, whose sizes no configuration changes.
_MARK = re.compile(
    r"decoder\.wm_model\.(?!encoder_block\.pre\.[01]\.)|decoder\.model\.\d\.block\.(3|6|7|11)\."
)


def config(**transformer: object) -> dict[str, object]:
    """The configuration, with sizes of the transformer replaced."""
    raw = json.loads((parity.HERE / "sam_audio_tiny.config.json").read_text())
    raw["audio_codec"] = {"encoder_dim": 4, "latent_dim": 64, "decoder_dim": 96}
    raw["transformer"] |= {"n_layers": LAYERS, **transformer}
    raw["a_key_of_a_later_release"] = {"anything": 1}
    return raw


def _narrow(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not name.startswith("audio_codec.") or _MARK.search(name):
        return shape
    # The bottleneck keeps its 128 latent channels: rows of one projection, columns of the other.
    kept = {"in_proj": 0, "out_proj": 1}.get(name.split(".")[2])
    return tuple(
        size // NARROWER if size >= 64 and axis != kept else size for axis, size in enumerate(shape)
    )


def tensors() -> dict[str, torch.Tensor]:
    """Every tensor, in the official names."""
    return {
        name: torch.from_numpy(np.asarray(seeded.tensor(name, _narrow(name, shape)), np.float32))
        for name, shape in parity.shapes().items()
        if not name.startswith(f"transformer.layers.{LAYERS}.")
    }


def write(directory: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """Write the checkpoint, or another state dict with its configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(tensors() if state is None else state, directory / "checkpoint.pt")
    (directory / "config.json").write_text(json.dumps(config()))
    return directory
