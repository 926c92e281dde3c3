"""The ``evaluate`` command: progress on stderr, tables on stdout, files in a folder."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bridge.engine import Engine
from onnx_export.training.acceptance import (
    CRITERIA_TITLES,
    STEM_TITLES,
    criteria_rows,
    measure,
    prepare_set,
    stem_rows,
    to_json,
    to_markdown,
)
from plugin_host.evaluation.charts import draw_bars


def run(
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
    with Progress(console=Console(stderr=True)) as bar, Engine(model, threads=threads) as engine:
        making = bar.add_task("test set", total=None)
        cases, songs = prepare_set(folder, count, seed, split)
        bar.update(making, total=1, completed=1)
        tasks = {name: bar.add_task(name, total=None) for name in ("mixtures", "prompts", "song")}
        result = measure(
            engine,
            cases[:limit],
            songs,
            progress=lambda stage, done, total: bar.update(
                tasks[stage], completed=done, total=total
            ),
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "acceptance.json").write_text(to_json(result) + "\n")
        (out / "acceptance.md").write_text(to_markdown(result))
        title = f"{result.about['model']} on {result.about['mixtures']} mixtures"
        (out / "bars.png").write_bytes(draw_bars(title, result.scores))
    if as_json:
        print(to_json(result))
        return
    console = Console(soft_wrap=True)
    for titles, rows in (
        (STEM_TITLES, stem_rows(result)),
        (CRITERIA_TITLES, criteria_rows(result)),
    ):
        table = Table(*titles)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"{result.about['seconds']:.0f} s")
