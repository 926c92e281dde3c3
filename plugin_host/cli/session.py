"""``stembridge session``: stems for the tracks of a DAW session."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bridge.errors import InputError
from bridge.validation import settings_from_options
from plugin_host.cli.arguments import build_prompts, build_settings, parse_prompt, parse_span
from plugin_host.cli.progress import ProgressDisplay
from plugin_host.daw import apply as applying
from plugin_host.daw.audacity import Audacity
from plugin_host.daw.audacity_stems import add_stems, label_prompts
from plugin_host.daw.audacity_stems import list_tracks as list_running
from plugin_host.daw.open_session import open_session
from plugin_host.daw.project_presets import project_presets
from plugin_host.separators import open_separator
from presets import Preset, find_preset, library
from presets.recall import check_usable

_AUDACITY = Path("audacity")

app = typer.Typer(help="Stems for the tracks of a DAW session.", no_args_is_help=True)

Project = Annotated[
    Path,
    typer.Argument(
        metavar="PROJECT", help=".rpp, .dawproject, .ardour, Ardour's folder, or: audacity"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="NEW", help="Write another session file. (default: PROJECT itself)"),
]


@app.command("list")
def list_tracks(
    project: Project,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the audio tracks of a session."""
    if project == _AUDACITY:
        with Audacity() as audacity:
            tracks = list_running(audacity)
    else:
        tracks = open_session(project).tracks()
    if as_json:
        json.dump([asdict(track) for track in tracks], sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table("track", "clips", "channels", "", box=None, pad_edge=False)
    for track in tracks:
        table.add_row(
            track.name, str(track.clips), str(track.channels), "muted" if track.muted else ""
        )
    Console(soft_wrap=True).print(table)


@app.command("apply")
def apply(
    project: Project,
    *,
    track: Annotated[str, typer.Option(metavar="NAME", help="The track to separate.")],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", metavar="[NAME=]TEXT", help="A stem.")
    ] = None,
    span: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME@]START:END", help="Where it sounds, on the timeline."),
    ] = None,
    not_span: Annotated[
        list[str] | None, typer.Option(metavar="[NAME@]START:END", help="Where it does not.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Prompts and settings from a preset.")
    ] = None,
    time_range: Annotated[
        str | None,
        typer.Option("--range", metavar="START:END", help="Only clips in this part."),
    ] = None,
    mute_source: Annotated[
        bool, typer.Option("--mute-source", help="Mute the track, so that the stems replace it.")
    ] = False,
    model: Annotated[str | None, typer.Option(metavar="NAME_OR_DIR", help="Model.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise.")] = None,
    out: Out = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Compute here, without the sidecar.")
    ] = False,
) -> None:
    """Separate what a track plays and add a track for every stem, in place.

    Close the session in the DAW before, and open it again after. A running Audacity gets the
    tracks at once; without prompts its labels are taken.
    """
    running = project == _AUDACITY
    session = None if running else open_session(project)
    stores = library(project_presets(Path.cwd() if session is None else session.path))
    chosen = find_preset(preset, stores) if preset is not None else Preset()
    check_usable(chosen)
    settings = chosen.settings | build_settings(
        seed=seed, steps=None, solver=None, window_s=None, overlap_s=None, reconstruct=None
    )
    settings_from_options(settings)
    spans = [parse_span(text, "+") for text in span or ()]
    spans += [parse_span(text, "-") for text in not_span or ()]
    named = [*chosen.prompts, *(parse_prompt(text) for text in prompt or ())]
    name = model or chosen.model or "mini"
    if session is None:
        with (
            Audacity() as audacity,
            open_separator(name, in_process=in_process) as separator,
            ProgressDisplay() as bars,
        ):
            prompts = build_prompts(named or label_prompts(audacity), spans)
            imported = add_stems(
                audacity,
                track,
                prompts=prompts,
                settings=settings,
                separator=separator,
                progress=bars.track(track),
                range_s=_range(time_range),
                mute_source=mute_source,
            )
        for stem, file in imported.items():
            print(f"  {stem}: {file}")
        return
    request = applying.Request(
        track,
        build_prompts(named, spans),
        settings,
        preset or "",
        _range(time_range),
        mute_source,
        chosen.rerun == "update",
    )
    target = out or session.path
    if target.exists() and target.resolve() != session.path.resolve():
        msg = f"{target} exists; choose another --out"
        raise InputError(msg)
    # What cannot be honoured is told before a model is loaded.
    session.clips(track)
    with open_separator(name, in_process=in_process) as separator, ProgressDisplay() as bars:
        done = applying.apply(session, request, separator, target, bars.track)
    verb = "replaced" if done.replaced else "added"
    print(f"{target}: {verb} {done.group!r}")
    for stem, files in done.files.items():
        print(f"  {stem}: {', '.join(map(str, files))}")


@app.command("undo")
def undo(project: Project, *, out: Out = None) -> None:
    """Take away the tracks that the last ``apply`` added; their audio files stay."""
    session = open_session(project)
    entry = applying.undo(session, out or session.path)
    print(f"{session.path}: took away {entry.label!r}")


def _range(text: str | None) -> applying.Range | None:
    if text is None:
        return None
    _, span = parse_span(text, "+")
    return span.start_s, span.end_s
