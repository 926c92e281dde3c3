"""The recipe of a model, read from one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from onnx_export.mini import MiniConfig

#: Copy of the recipe in the directory of a run.
RECIPE_FILE = "recipe.json"
#: Losses and scores of a run, a JSON object a line.
LOG_FILE = "log.jsonl"


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How stems become mixtures; the comments of `mini.toml` say what each field means."""

    crop_s: float = 4.0
    batch: int = 32
    min_sources: int = 2
    max_sources: int = 4
    same_song: float = 0.6
    music_level_db: float = 5.0
    other_level_db: float = 10.0
    panned: float = 0.0
    spread: float = 0.0
    absent: float = 0.08
    plain_names: float = 0.2
    spans: float = 0.4
    equaliser: float = 0.5
    varispeed: float = 0.5
    extra_families: float = 0.25


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the weights are found."""

    seed: int = 1
    steps: int = 8000
    warmup: int = 200
    decay: float = 0.3
    rate: float = 1.5e-3
    weight_decay: float = 0.05
    optimiser: Literal["adamw", "muon"] = "adamw"
    ema: float = 0.999
    at_zero: float = 0.6
    loss_floor: float = 0.03
    validate_every: int = 500
    late_from: int = 0
    workers: int = 2
    compile: bool = True


class AlignConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The auxiliary alignment loss, see `onnx_export.training.alignment`; off without a tagger.

    Attributes
    ----------
    tagger : str or None
        A transformers audio model: a directory, or an id on the hub.
    weight : float
        Of the cosine distance in the loss.
    layer : int
        Block whose features are aligned, from 0.
    """

    tagger: str | None = None
    weight: float = 0.1
    layer: int = 1


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Model, data and training settings together."""

    model: MiniConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    align: AlignConfig = AlignConfig()
    late_data: DataConfig | None = None  # takes the place of `data` from step `late_from` on


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    ValueError
        If the file is not TOML, or has a field that is unknown or of the wrong type; the message
        has its path.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}") from None
