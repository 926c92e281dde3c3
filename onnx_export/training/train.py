"""A training run: resumable, seeded, on one GPU or on several single-threaded CPU processes.

On CPU every operation of a multi-threaded network ends in a barrier, which costs more than the
network when the cores have other work; processes that meet once a step do not.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import msgspec
import torch
from torch.multiprocessing.spawn import spawn

from bridge.bundles import manifest as manifests
from onnx_export.rebuild import rebuild_mini
from onnx_export.training.config import RECIPE_FILE, Recipe
from onnx_export.training.stem_pool import StemPool
from onnx_export.training.trainer import START, TOKENIZER, Trainer
from onnx_export.training.vocabulary import keep_tokenizer


def _worker(
    rank: int, world: int, port: int, recipe: Recipe, pool: Path, out: Path, start: Path | None
) -> None:
    if world > 1:
        if hasattr(os, "sched_setaffinity"):  # two on one core would wait for each other
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[rank % len(cores)]})
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
    trainer = Trainer(recipe, pool, out, rank, world, start)
    trainer.run()
    if world > 1:
        torch.distributed.destroy_process_group()


def train(recipe: Recipe, pool: Path, out: Path, start: Path | None = None) -> None:
    """Train a model; a run that was stopped goes on from its last checkpoint.

    Parameters
    ----------
    recipe : Recipe
        What to train and how.
    pool : Path
        A stem pool with the splits ``train`` and ``valid``.
    out : Path
        Directory of the run: recipe, tokenizer, checkpoint and log.
    start : Path or None
        A bundle whose weights and tokenizer a new run begins with, to teach it more. The recipe's
        model has to be the bundle's, or the same made `stereo`. A run that has a checkpoint goes
        on from that.

    Raises
    ------
    ModelError
        If `start` holds no model that is trained here.
    ValueError
        If it is a model of other sizes than the recipe's.
    """
    if start is not None:
        sizes = rebuild_mini(start).config
        if not recipe.model.extends(sizes):
            raise ValueError(f"{start}: the recipe's model is {recipe.model}, the bundle's {sizes}")
    out.mkdir(parents=True, exist_ok=True)
    (out / RECIPE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(recipe)))
    if start is not None and not (out / TOKENIZER).is_file():
        manifest = manifests.load(start)
        shutil.copyfile(start / manifest.tokenizer, out / TOKENIZER)
        (out / START).write_text(manifest.provenance, encoding="utf-8")
    keep_tokenizer(
        out / TOKENIZER, StemPool(pool, "train").vocabulary(), recipe.model.text.vocab_size
    )
    world = 1 if torch.cuda.is_available() else recipe.train.workers
    if world == 1:
        _worker(0, 1, 0, recipe, pool, out, start)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(_worker, (world, port, recipe, pool, out, start), nprocs=world)  # type: ignore[no-untyped-call]
