"""``stembridge render``: folders of files through a preset's chain."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from plugin_host.cli.progress import ProgressDisplay
from plugin_host.render import check_inputs, list_audio, render_file
from plugin_host.separators import Reporting, open_separator
from presets import find_preset

DEFAULT_OUTPUT = Path("stembridge-out")


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("render", help="Render files through the chain of a preset.")(render)


def render(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Audio files, or folders of them."),
    ],
    *,
    chain: Annotated[
        str,
        typer.Option("--chain", "--preset", metavar="FILE_OR_NAME", help="The preset to render."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the files go.")
    ] = DEFAULT_OUTPUT,
    stems: Annotated[
        bool, typer.Option("--stems", help="Write every stem by itself, not their sum.")
    ] = False,
    suffix: Annotated[
        str | None,
        typer.Option("--format", metavar="wav|flac|...", help="Another format than the input's."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME_OR_DIR", help="Another model than the preset's.")
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Compute here, without the sidecar.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are in the way.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a report on stdout as JSON.")
    ] = False,
) -> None:
    """Render every input; what an interrupted run has finished is not done again."""
    preset = find_preset(chain)
    if model is not None:
        preset = replace(preset, model=model)
    files = list(list_audio(inputs))
    check_inputs(files)
    rows = []
    with (
        open_separator(preset.model or "mini", in_process=in_process) as separator,
        ProgressDisplay() as bars,
    ):
        for number, (source, relative) in enumerate(files, 1):
            target = output / relative
            if suffix is not None:
                target = target.with_suffix(f".{suffix.lstrip('.')}")
            show = bars.track(f"{number}/{len(files)} {relative}")
            done = render_file(
                source,
                target,
                preset,
                output="stems" if stems else "remix",
                separator=Reporting(separator, show),
                overwrite=overwrite,
            )
            rows.append(
                {
                    "input": str(source),
                    "files": {name: str(path) for name, path in done.files.items()},
                    "skipped": done.skipped,
                    "note": done.note,
                }
            )
            if not as_json:
                state = "already rendered" if done.skipped else done.note or "rendered"
                print(f"{source}: {state}")
                for path in done.files.values():
                    print(f"  {path}")
    if as_json:
        json.dump({"files": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")
