"""``stembridge render``: folders of files through a preset's chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from plugin_host.cli.arguments import InProcessOption, OutputOption, OverwriteOption, choose_preset
from plugin_host.cli.console import Batch, JsonOption, ProgressDisplay, say, say_json
from plugin_host.effects.presets import check_allowed
from plugin_host.effects.separators import Reporting, open_separator
from plugin_host.render import Output, Rendering, check_inputs, list_audio, render_file, target_of

DEFAULT_OUTPUT = Path("stembridge-out")


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("render", help="Render files through the chain of a preset.")(render)


def render(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Audio files, or folders of them."),
    ],
    *,
    chain: Annotated[
        str,
        typer.Option("--chain", "--preset", metavar="FILE_OR_NAME", help="The preset to render."),
    ],
    output: OutputOption = DEFAULT_OUTPUT,
    stems: Annotated[
        bool, typer.Option("--stems", help="Write every stem, not their sum.")
    ] = False,
    suffix: Annotated[
        str | None,
        typer.Option("--format", metavar="wav|flac|...", help="A format other than the input's."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME_OR_DIR", help="A model other than the preset's.")
    ] = None,
    in_process: InProcessOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Render every input; files that an interrupted run finished are not done again."""
    preset = choose_preset(chain)
    check_allowed(preset)
    if model is not None:
        preset = replace(preset, model=model)
    found = list(list_audio(inputs, output))
    files = [(source, target_of(relative, output, suffix)) for source, relative in found]
    form: Output = "stems" if stems else "remix"
    batch = Batch(len(files))
    good = check_inputs(files, preset, output=form, attempt=batch.attempt)
    rows = []
    if good:
        opened = open_separator(preset.model or "mini", in_process=in_process)
        with opened as separator, ProgressDisplay() as bars:
            for number, (source, target) in enumerate(good, 1):
                show = bars.track(f"{number}/{len(good)} {target.relative_to(output)}")
                with batch.attempt(source):
                    done = render_file(
                        source,
                        target,
                        preset,
                        output=form,
                        separator=Reporting(separator, show),
                        overwrite=overwrite,
                    )
                    rows.append(_row(done))
                    if not as_json:
                        _tell(done)
    if as_json:
        say_json({"files": rows, "failed": batch.as_json()})
    batch.finish()


def _row(done: Rendering) -> dict[str, Any]:
    return {
        "input": str(done.source),
        "files": {name: str(path) for name, path in done.files.items()},
        "skipped": done.skipped,
        "note": done.note,
    }


def _tell(done: Rendering) -> None:
    state = "already rendered" if done.skipped else done.note or "rendered"
    say(f"{done.source}: {state}")
    for path in done.files.values():
        say(f"  {path}")
