"""``stembridge preset``: list, show, save and share presets."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from presets import PresetStore, find_preset, format_preset, library
from presets.library import project_store

app = typer.Typer(help="List, show, save and share presets.", no_args_is_help=True)

Project = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Folder of the project. (default: the current folder)"),
]


def stores_of(project: Path | None) -> list[PresetStore]:
    """Return the stores to search for a project, first to last."""
    return library(None if project is None else project_store(project))


@app.command("list")
def list_presets(
    project: Project = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the presets of the project, the user and the factory."""
    rows = []
    seen: set[str] = set()
    for store in stores_of(project):
        for name in store.names():
            preset = store.load(name)
            rows.append(
                {
                    "name": name,
                    "where": store.label,
                    "stems": [prompt.stem for prompt in preset.prompts],
                    "description": preset.description,
                    "hidden": name in seen,
                }
            )
            seen.add(name)
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table("name", "where", "stems", "description", box=None, pad_edge=False)
    for row in rows:
        stems = row["stems"]
        table.add_row(
            str(row["name"]),
            f"{row['where']}{' (hidden)' if row['hidden'] else ''}",
            ", ".join(stems) if isinstance(stems, list) else "",
            str(row["description"]),
        )
    Console(soft_wrap=True).print(table)


@app.command("show")
def show(name: str, project: Project = None) -> None:
    """Print a preset as TOML."""
    sys.stdout.write(format_preset(find_preset(name, stores_of(project))))
