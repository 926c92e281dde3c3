"""``python -m onnx_export.training synthesise|train|...``: make stems, train, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
RECIPE = Path(__file__).with_name("mini.toml")


@app.command()
def synthesise(
    out: Annotated[Path, typer.Option(help="Root of the stem pool.")],
    songs: Annotated[int, typer.Option(help="Songs the pool shall have.")] = 400,
    seed: int = 1,
    split: Annotated[str, typer.Option(help="train or valid.")] = "train",
    workers: int = 2,
) -> None:
    """Render songs and speech into a stem pool; songs that exist are left alone."""
    from onnx_export.training.pool import synthesise_pool

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} songs", end="", file=sys.stderr, flush=True)

    synthesise_pool(out, songs, seed, split, workers, progress=show)


@app.command()
def train(
    pool: Annotated[Path, typer.Option(help="A stem pool with train and valid splits.")],
    out: Annotated[Path, typer.Option(help="Directory of the run.")],
    recipe: Annotated[Path, typer.Option(help="A recipe in TOML.")] = RECIPE,
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
) -> None:
    """Train a model; a stopped run goes on from its last checkpoint."""
    from onnx_export.training.config import load_recipe
    from onnx_export.training.train import train as run

    loaded = load_recipe(recipe)
    if steps:
        settings = msgspec.structs.replace(loaded.train, steps=steps)
        loaded = msgspec.structs.replace(loaded, train=settings)
    run(loaded, pool, out)


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Directory of a training run.")],
    out: Annotated[Path, typer.Option(help="Bundle to make.")],
) -> None:
    """Export a run's averaged weights as a bundle."""
    from onnx_export.training.release import release

    print(release(run, out))


if __name__ == "__main__":
    app()
