"""``python -m onnx_export.training COMMAND``: make stems, train, evaluate, export."""

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


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="FOLDER/<song>/<stem name>.wav, prompts.toml.")],
    out: Annotated[Path, typer.Option(help="Root of the stem pool; it may hold other stems.")],
) -> None:
    """Add your own stems to a pool, so that a model learns your instruments."""
    from onnx_export.training.own_stems import import_stems

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} songs", end="", file=sys.stderr, flush=True)

    for family, count in sorted(import_stems(folder, out, progress=show).items()):
        print(f"{family}: {count}")


@app.command()
def curves(run: Annotated[Path, typer.Option(help="Directory of a training run.")]) -> None:
    """Draw a run's loss and validation curves; training does so at every validation."""
    from onnx_export.training.curves import write_curves

    print(write_curves(run))


@app.command()
def train(
    pool: Annotated[Path, typer.Option(help="A stem pool with train and valid splits.")],
    out: Annotated[Path, typer.Option(help="Directory of the run.")],
    recipe: Annotated[Path, typer.Option(help="A recipe in TOML.")] = RECIPE,
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Bundle whose weights a new run begins with.")
    ] = None,
) -> None:
    """Train a model; a stopped run goes on from its last checkpoint."""
    from onnx_export.training.config import load_recipe
    from onnx_export.training.train import train as run

    loaded = load_recipe(recipe)
    if steps:
        settings = msgspec.structs.replace(loaded.train, steps=steps)
        loaded = msgspec.structs.replace(loaded, train=settings)
    run(loaded, pool, out, start)


@app.command()
def mixtures(
    out: Annotated[Path, typer.Option(help="Folder of the set.")],
    count: Annotated[int, typer.Option(help="How many mixtures.")] = 64,
    seed: int = 7,
    split: Annotated[str, typer.Option(help="test, or tune for choices beside it.")] = "test",
) -> None:
    """Render mixtures with known stems, of timbres that training never uses."""
    from onnx_export.training.test_set import make_test_set

    make_test_set(out, count, seed, split=split)


@app.command()
def evaluate(
    folder: Annotated[
        Path, typer.Option("--set", help="Test set; what is missing of it is made.")
    ] = Path("test-set"),
    model: Annotated[str, typer.Option(help="Bundle, by name or directory.")] = "mini",
    out: Annotated[
        Path | None, typer.Option(help="Folder for acceptance.json, acceptance.md, bars.png.")
    ] = None,
    count: Annotated[int, typer.Option(help="Mixtures of a set that is made.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of a set that is made.")] = 7,
    split: Annotated[str, typer.Option(help="test or tune, for a set that is made.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Only the first mixtures.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; 1 is best on busy cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure everything that a bundled model has to reach, with its default settings."""
    from onnx_export.training.acceptance_command import run

    run(
        folder,
        model,
        out,
        count=count,
        seed=seed,
        split=split,
        limit=limit,
        threads=threads,
        as_json=as_json,
    )


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
