"""``stembridge eval``: score a model on a folder of mixtures with their true stems."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bridge.errors import InputError
from plugin_host.cli.arguments import parse_prompt
from plugin_host.evaluation import Score, evaluate, find_cases, summarise
from plugin_host.separators import open_separator

_MUSDB = "musdb:"


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("eval", help="Score a model on mixtures whose true stems are known.")(run)


def run(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|musdb:PATH",
            help="A folder per mixture, with mixture.wav and the true stems; or MUSDB18-HQ.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="Model bundle.")] = "mini",
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="STEM=TEXT", help="Prompt for a stem, if not its name."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first mixtures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every score as JSON.")] = False,
) -> None:
    """Separate every stem of every mixture by a prompt of its own; print medians by stem."""
    root = Path(folder.removeprefix(_MUSDB))
    if folder.startswith(_MUSDB):
        root = root / "test"
    cases = find_cases(root)[:limit]
    prompts = {}
    for text in prompt or []:
        parsed = parse_prompt(text)
        if parsed.name is None:
            raise InputError(f"--prompt: expected STEM=TEXT, got {text!r}")
        prompts[parsed.name] = parsed.text
    with (
        open_separator(model, in_process=True) as separator,
        Progress(console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("mixtures", total=len(cases))
        scores = list(
            evaluate(separator, cases, prompts, on_case=lambda n: bar.update(task, completed=n))
        )
    if as_json:
        print(
            json.dumps(
                {
                    "summary": dataclasses.asdict(summarise(scores)),
                    "scores": [dataclasses.asdict(score) for score in scores],
                },
                indent=1,
            )
        )
        return
    Console(soft_wrap=True).print(_table(scores))


def _table(scores: list[Score]) -> Table:
    table = Table(title="Medians in dB (SI-SDR; the ideal ratio mask is the upper end)")
    columns = ("stem", "n", "improvement", "ideal mask", "worst", "wrong prompt costs",
               "absent", "image error")  # fmt: skip
    for title in columns:
        table.add_column(title, justify="left" if title == "stem" else "right")
    for stem in [*sorted({score.stem for score in scores}), None]:
        chosen = [score for score in scores if stem in (None, score.stem)]
        total = summarise(chosen)
        table.add_row(
            stem or "all",
            str(total.stems),
            *(
                "-" if value is None else f"{value:.1f}"
                for value in (
                    total.improvement_db,
                    total.oracle_improvement_db,
                    total.worst_db,
                    total.wrong_drop_db,
                    total.absent_db,
                    total.image_error_db,
                )
            ),
            end_section=stem is not None and stem == max(score.stem for score in scores),
        )
    return table
