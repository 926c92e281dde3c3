"""``python -m onnx_export.training COMMAND``: make stems, train, evaluate, export."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bridge.errors import InputError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
RECIPE = Path(__file__).with_name("mini.toml")


@app.command()
def synthesise(
    out: Annotated[Path, typer.Option(help="Root of the stem pool.")],
    songs: Annotated[int, typer.Option(help="Songs to have in the pool.")] = 400,
    seed: int = 1,
    split: Annotated[str, typer.Option(help="train or valid.")] = "train",
    workers: int = 2,
) -> None:
    """Render songs and speech into a stem pool; songs that exist are left alone."""
    from onnx_export.training.stem_pool import synthesise_pool

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} songs", end="", file=sys.stderr, flush=True)

    synthesise_pool(out, songs, seed, split, workers, progress=show)


@app.command()
def collect(
    out: Annotated[Path, typer.Option(help="Root of the stem pool; it may hold other stems.")],
    audio: Annotated[
        list[Path] | None, typer.Option(help="Folder of labelled recordings with an index.tsv.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where Debian packages are unpacked.")] = Path(
        "training-packages"
    ),
    packages: Annotated[bool, typer.Option(help="Take the Debian packages' sound.")] = True,
    sung: Annotated[float, typer.Option(help="Minutes that the speakers are made to sing.")] = 60.0,
    changed: Annotated[
        float, typer.Option(help="Minutes of the singers with another body.")
    ] = 60.0,
    seed: int = 1,
) -> None:
    """Add real recordings to a stem pool, split by recording, with an index of their licences."""
    from onnx_export.training.collect import collect as run

    def show(stage: str, done: int, total: int) -> None:
        print(f"\r{stage}: {done}/{total}  ", end="", file=sys.stderr, flush=True)

    for family, minutes in sorted(
        run(out, audio or [], cache if packages else None, seed, show, sung, changed).items()
    ):
        print(f"{family}: {minutes:.1f} min")


@app.command("credits")
def credits_(
    audio: Annotated[list[Path], typer.Option(help="Folder of recordings with an index.tsv.")],
) -> None:
    """Print whose recordings training hears, and under which licences, as a table."""
    from onnx_export.training.collect import credits_table

    print(credits_table(audio), end="")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="FOLDER/<song>/<stem name>.wav, prompts.toml.")],
    out: Annotated[Path, typer.Option(help="Root of the stem pool; it may hold other stems.")],
) -> None:
    """Add your own stems to a pool, so that a model learns your instruments."""
    from onnx_export.training.stem_pool import import_stems

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} songs", end="", file=sys.stderr, flush=True)

    for family, count in sorted(import_stems(folder, out, progress=show).items()):
        print(f"{family}: {count}")


@app.command("pseudo-label")
def pseudo_label(
    folder: Annotated[Path, typer.Argument(help="Recordings, of which nothing is known.")],
    prompts: Annotated[
        Path, typer.Option(metavar="FILE", help="TOML, stem = text, or a list of texts.")
    ],
    out: Annotated[Path, typer.Option(help="Root of the stem pool; it may hold other stems.")],
    teacher: Annotated[str, typer.Option(help="Bundle, by name or directory.")] = "mini",
    active: Annotated[float, typer.Option(help="Seconds for which a stem has to sound.")] = 2.0,
    spans: Annotated[float, typer.Option(help="Seconds in which its prompt is heard.")] = 1.0,
    judge: Annotated[float, typer.Option(help="Least overall score of the judge.")] = 3.5,
    similarity: Annotated[float, typer.Option(help="Least similarity by CLAP.")] = 0.2,
    left: Annotated[
        float, typer.Option(help="Most dB, relative to the stem, found in what was left.")
    ] = -12.0,
    piece: Annotated[float, typer.Option(help="Seconds that are judged by themselves.")] = 30.0,
) -> None:
    """Have a teacher separate recordings by prompts, and keep the stems that are good enough."""
    from bridge.engine import Engine
    from onnx_export.evaluation import read_prompts
    from onnx_export.training import pseudo_label as labelling

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} recordings", end="", file=sys.stderr, flush=True)

    with Engine(teacher) as engine:
        labels = labelling.pseudo_label(
            folder,
            out,
            read_prompts(prompts),
            engine,
            labelling.Limits(active, spans, judge, similarity, left),
            piece_s=piece,
            progress=show,
        )
    for family, counts in sorted(labelling.tally(labels).items()):
        refused = "".join(f", {count} {why}" for why, count in counts.most_common() if why)
        print(f"{family}: {counts['']} of {counts.total()} kept{refused}")


@app.command()
def curves(run: Annotated[Path, typer.Option(help="Directory of a training run.")]) -> None:
    """Draw a run's loss and validation curves; training does so at every validation."""
    from onnx_export.training.run import write_curves

    print(write_curves(run))


@app.command()
def train(
    pool: Annotated[Path, typer.Option(help="A stem pool with train and valid splits.")],
    out: Annotated[Path, typer.Option(help="Directory of the run.")],
    recipe: Annotated[Path, typer.Option(help="A recipe in TOML.")] = RECIPE,
    steps: Annotated[int | None, typer.Option(help="Steps, in place of the recipe's.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Bundle whose weights a new run begins with.")
    ] = None,
) -> None:
    """Train a model; a stopped run goes on from its last checkpoint."""
    from onnx_export.training.run import load_recipe
    from onnx_export.training.trainer import train as run

    loaded = load_recipe(recipe)
    if steps:
        settings = msgspec.structs.replace(loaded.train, steps=steps)
        loaded = msgspec.structs.replace(loaded, train=settings)
    run(loaded, pool, out, start)


@app.command()
def mixtures(
    out: Annotated[Path, typer.Option(help="Folder of the set.")],
    count: Annotated[int, typer.Option(help="Number of mixtures.")] = 64,
    seed: int = 7,
    split: Annotated[str, typer.Option(help="test, or tune for choices beside it.")] = "test",
) -> None:
    """Render mixtures with known stems, of timbres that training never uses."""
    from onnx_export.training.held_out import make_test_set

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
    count: Annotated[int, typer.Option(help="Number of mixtures, if the set is made.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed, if the set is made.")] = 7,
    split: Annotated[str, typer.Option(help="test or tune, if the set is made.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Only the first mixtures.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; 1 is best on busy cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    real: Annotated[
        Path | None, typer.Option(help="Set of real recordings; measured beside the other set.")
    ] = None,
    recordings: Annotated[
        Path | None,
        typer.Option(help="Folder with index.tsv, from which a set that is missing is made."),
    ] = None,
    packages: Annotated[
        Path | None, typer.Option(help="Unpacked Debian packages, a folder each, for that set.")
    ] = None,
    beside: Annotated[
        str | None, typer.Option(help="A second bundle to measure on the real set.")
    ] = None,
    only_real: Annotated[bool, typer.Option(help="Measure the real set alone.")] = False,
    record: Annotated[
        bool,
        typer.Option(help="Write what it gains on real recordings into the bundle's manifest."),
    ] = False,
) -> None:
    """Measure everything that a bundled model has to reach, with its default settings."""
    if real is not None:
        _measure_recordings(
            real,
            model,
            out,
            recordings=recordings,
            unpacked=packages,
            beside=beside,
            threads=threads,
            record=record,
        )
    if only_real:
        return
    _measure_mixtures(
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
    out: Annotated[Path, typer.Option(help="Bundle to create.")],
) -> None:
    """Export a run's averaged weights as a bundle."""
    from onnx_export.training.release import release

    print(release(run, out))


def _measure_mixtures(
    folder: Path,
    model: str,
    out: Path | None,
    *,
    count: int,
    seed: int,
    split: str,
    limit: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Prepare the set, measure, print and write; see the command's help."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from bridge.engine import Engine
    from onnx_export.evaluation.scoring import draw_bars
    from onnx_export.training import acceptance

    with Progress(console=Console(stderr=True)) as bar, Engine(model, threads=threads) as engine:
        making = bar.add_task("test set", total=None)
        cases, songs = acceptance.prepare_set(folder, count, seed, split)
        bar.update(making, total=1, completed=1)
        tasks = {name: bar.add_task(name, total=None) for name in ("mixtures", "prompts", "song")}
        result = acceptance.measure(
            engine,
            cases[:limit],
            songs,
            progress=lambda stage, done, total: bar.update(
                tasks[stage], completed=done, total=total
            ),
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "acceptance.json").write_text(acceptance.to_json(result) + "\n")
        (out / "acceptance.md").write_text(acceptance.to_markdown(result))
        title = f"{result.about['model']} on {result.about['mixtures']} mixtures"
        (out / "bars.png").write_bytes(draw_bars(title, result.scores))
    if as_json:
        print(acceptance.to_json(result))
        return
    console = Console(soft_wrap=True)
    for titles, rows in (
        (acceptance.STEM_TITLES, acceptance.stem_rows(result)),
        (acceptance.CRITERIA_TITLES, acceptance.criteria_rows(result)),
    ):
        table = Table(*titles)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"{result.about['seconds']:.0f} s")


def _measure_recordings(
    folder: Path,
    model: str,
    out: Path | None,
    *,
    recordings: Path | None,
    unpacked: Path | None,
    beside: str | None,
    threads: int | None,
    record: bool = False,
) -> None:
    """Make the set of real recordings where it is missing, measure, print and write.

    Raises
    ------
    InputError
        If the set or what it is made from is missing.
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from bridge.bundles.bundle import find_bundle
    from bridge.engine import Engine
    from onnx_export.training import real_measures
    from onnx_export.training.real_set import make_real_set, read_set
    from onnx_export.training.release import record_improvements

    with Progress(console=Console(stderr=True)) as bar, ExitStack() as stack:
        making = bar.add_task("real set", total=None)
        try:
            if recordings is not None:
                make_real_set(folder, recordings, unpacked)
            kinds = read_set(folder)
        except (FileNotFoundError, ValueError) as error:
            raise InputError(str(error)) from error
        bar.update(making, total=len(kinds), completed=len(kinds))
        engine = stack.enter_context(Engine(model, threads=threads))
        other = stack.enter_context(Engine(beside, threads=threads)) if beside else None
        task = bar.add_task("real mixtures", total=None)
        scores = list(
            real_measures.measure_real(
                engine,
                folder,
                other,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "real.json").write_text(real_measures.to_json(scores) + "\n")
        (out / "real.md").write_text(real_measures.to_markdown(scores))
    if record:
        record_improvements(find_bundle(model), scores)
    table = Table(*real_measures.REAL_TITLES)
    for row in real_measures.real_rows(scores):
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    app()
