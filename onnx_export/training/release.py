"""From a training run to a bundle that the engine runs, and what it says that it knows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec.structs import replace

from bridge.bundles.bundle import load_prompted, write_manifest
from bridge.bundles.manifest import Sound
from bridge.inference.job import find_sound
from onnx_export.export import Progress, export_bundle
from onnx_export.networks.mini import MiniModel
from onnx_export.recipes import Provenance, mini_blueprint
from onnx_export.training.objective import HEAD
from onnx_export.training.real_measures import REST_PROMPT, RealScore
from onnx_export.training.run import RECIPE_FILE, Recipe
from onnx_export.training.sound.families import FAMILIES
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
    provenance = Provenance(recipe.model.name, LICENCE, source, known_sounds())
    blueprint = mini_blueprint(model, run / TOKENIZER, provenance)
    return export_bundle(blueprint, out, precision="fp16-weights", progress=progress)


def known_sounds(improvements_db: Mapping[str, float] | None = None) -> tuple[Sound, ...]:
    """List the families that training knows, with every phrase that names them.

    Parameters
    ----------
    improvements_db : mapping of str to float, optional
        Median improvement by family, in dB.
    """
    measured = improvements_db or {}
    return tuple(
        Sound(
            name,
            tuple(
                dict.fromkeys(
                    " ".join(phrase.casefold().split())
                    for phrase in (*family.phrasings, *family.held_out)
                )
            ),
            measured.get(name),
        )
        for name, family in FAMILIES.items()
    )


def record_improvements(bundle: Path, scores: Iterable[RealScore]) -> tuple[Sound, ...]:
    """Write into a bundle's manifest what it knows, and what it gains on real recordings.

    Parameters
    ----------
    bundle : Path
        Directory; its checksum stays, since words alone change.
    scores : iterable of RealScore
        Of that bundle.

    Returns
    -------
    tuple of Sound
        What was written.
    """
    sounds = known_sounds()
    gains: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        sound = find_sound(score.prompt, sounds) if score.prompt != REST_PROMPT else None
        if sound is not None and score.improvement_db is not None:
            gains[sound.name].append(score.improvement_db)
    medians = {name: round(float(np.median(found)), 1) for name, found in gains.items()}
    sounds = known_sounds(medians)
    write_manifest(replace(load_prompted(bundle), sounds=sounds), bundle)
    return sounds
