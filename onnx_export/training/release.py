"""From a training run to a bundle that the engine runs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from onnx_export.export import Progress, export_bundle
from onnx_export.mini import MiniModel
from onnx_export.recipes import Provenance, mini_blueprint
from onnx_export.training.alignment import HEAD
from onnx_export.training.config import RECIPE_FILE, Recipe
from onnx_export.training.trainer import CHECKPOINT, START, TOKENIZER

LICENCE = "GPL-3.0-or-later"


def load_run(run: Path) -> tuple[MiniModel, Recipe, int]:
    """Load a run's averaged weights.

    Returns
    -------
    model : MiniModel
        In evaluation mode.
    recipe : Recipe
        What it was trained with.
    step : int
        How far.

    Raises
    ------
    FileNotFoundError
        If the directory holds no run.
    """
    for name in (RECIPE_FILE, CHECKPOINT, TOKENIZER):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run}: no {name}; expected the directory of a training run")
    recipe = msgspec.json.decode((run / RECIPE_FILE).read_bytes(), type=Recipe)
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    model = MiniModel(recipe.model)
    # What only training needs is not part of the model.
    weights = {k: v for k, v in state["average"].items() if not k.startswith(HEAD + ".")}
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False), recipe, int(state["step"])


def release(run: Path, out: Path, progress: Progress = print) -> Path:
    """Export a run as a bundle, its weights stored in half precision.

    Parameters
    ----------
    run : Path
        Directory of a training run.
    out : Path
        Directory to make; its name is that of the model.
    progress : callable
        Told of each graph.
    """
    model, recipe, step = load_run(run)
    how = f"by onnx_export.training, {step} steps, seed {recipe.train.seed}"
    start = run / START
    if start.is_file():
        source = f"trained on {how}, from a bundle that was {start.read_text(encoding='utf-8')}"
    else:
        source = (
            f"trained from scratch {how}, on audio synthesised by the project; see "
            "onnx_export/MINI.md"
        )
    provenance = Provenance(recipe.model.name, LICENCE, source)
    blueprint = mini_blueprint(model, run / TOKENIZER, provenance)
    return export_bundle(blueprint, out, precision="fp16-weights", progress=progress)
