"""``stembridge panel``: a page beside the DAW, to mark, listen and decide."""

from __future__ import annotations

import webbrowser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from bridge.errors import InputError
from plugin_host.cli.arguments import (
    SAM_2,
    ModelOption,
    NetworkOption,
    PresetOption,
    PromptsOption,
    parse_prompt,
)
from plugin_host.cli.console import note
from plugin_host.cost import with_chosen_quality
from plugin_host.daw import SHOWN_SUFFIXES, is_session
from presets import Preset, find_preset
from presets.preset import check_preset, stems_from_prompts

_EXTRA = "pip install 'stembridge[panel]'"


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("panel", help="Mark, listen and separate on a page in the browser.")(panel)


def panel(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE|SESSION]",
            help=f"Audio file, or a session: {', '.join(SHOWN_SUFFIXES)}, Ardour's folder. "
            "(default: the bundled mixture)",
            show_default=False,
        ),
    ] = None,
    *,
    prompt: PromptsOption = None,
    preset: PresetOption = None,
    model: ModelOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where the folder of stems goes. (default: stembridge-out beside the file)",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0 for any free one.")
    ] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    idle_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1.0, help="End after so long without a page and without a job."
        ),
    ] = 1800.0,
    network: NetworkOption = SAM_2,
) -> None:
    """Show a page on this machine only, until Ctrl-C or until nobody has looked for a while."""
    from plugin_host.panel.song import Material, demo_mixture
    from plugin_host.panel.tracks import SessionTracks

    def read() -> Material | SessionTracks:
        if source is not None and is_session(source):
            return SessionTracks(source)
        return Material.of_file(
            demo_mixture() if source is None else source,
            output or (Path("stembridge-out") if source is None else None),
        )

    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read)  # meanwhile the server is imported, which takes as long
        try:
            from plugin_host.panel.server import serve
        except ModuleNotFoundError as error:
            if error.name not in ("starlette", "uvicorn"):
                raise
            raise InputError(f"the panel needs {error.name}, which comes with: {_EXTRA}") from None
        opening = reading.result()
    chosen = find_preset(preset) if preset is not None else Preset()
    added = stems_from_prompts(parse_prompt(text) for text in prompt or ())
    chosen = check_preset(replace(chosen, stems=(*chosen.stems, *added)))
    name = model or chosen.model or "mini"
    if preset is None:
        quality = with_chosen_quality(chosen.settings, name).quality
        chosen = replace(chosen, quality=quality)
    title = opening.title if isinstance(opening, Material) else opening.path.name

    def opened(address: str) -> None:
        note(f"{title}: {address}")
        if browser:
            webbrowser.open(address)

    try:
        serve(
            opening,
            name,
            folder=output,
            port=port,
            preset=chosen,
            idle_timeout_s=idle_timeout,
            network=network,
            opened=opened,
        )
    except KeyboardInterrupt:
        note("stembridge: panel closed")
