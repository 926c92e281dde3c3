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
from plugin_host.cli.arguments import (
    build_prompts,
    build_settings,
    parse_midi_spans,
    parse_prompt,
    parse_span,
)
from plugin_host.cli.progress import ProgressDisplay
from plugin_host.cli.shared_options import (
    ModelOption,
    NotSpansOption,
    PresetOption,
    PromptsOption,
    SeedOption,
    SpanGapOption,
    SpanMidiOption,
)
from plugin_host.daw import apply as applying
from plugin_host.daw import audacity_stems as running
from plugin_host.daw.audacity import Audacity
from plugin_host.daw.marks import (
    SPAN_SOURCES,
    StemSpan,
    check_source,
    mark_spans,
    parse_range,
)
from plugin_host.daw.open_session import open_session
from plugin_host.daw.project_presets import project_presets
from plugin_host.daw.session import Clip, Marks
from plugin_host.separators import open_separator
from plugin_host.span_files import DEFAULT_GAP_S, prompts_from_labels, read_labels
from presets import Preset, find_preset, library

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
            tracks = running.list_tracks(audacity)
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
    prompt: PromptsOption = None,
    span: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME@]START:END", help="Where it sounds, on the timeline."),
    ] = None,
    not_span: NotSpansOption = None,
    spans_from: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(SPAN_SOURCES),
            help="Where it sounds, as the session marks it: for all stems, or by name, such as "
            "'vox: lead vocals'.",
        ),
    ] = None,
    span_midi: SpanMidiOption = None,
    span_gap: SpanGapOption = DEFAULT_GAP_S,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts and spans from a file of labels."),
    ] = None,
    preset: PresetOption = None,
    time_range: Annotated[
        str | None,
        typer.Option(
            "--range", metavar="START:END|selection|loop", help="Only this part, exactly."
        ),
    ] = None,
    mute_source: Annotated[
        bool, typer.Option("--mute-source", help="Mute the track, so that the stems replace it.")
    ] = False,
    model: ModelOption = None,
    seed: SeedOption = None,
    out: Out = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Compute here, without the sidecar.")
    ] = False,
) -> None:
    """Separate what a track plays and add a track for every stem, in place.

    Close the session in the DAW before, and open it again after. A running Audacity gets the
    tracks at once. Without a prompt or preset, the names of markers and regions such as
    'vox: lead vocals' are the prompts, and say where they sound; in Audacity, the labels.
    """
    live = project == _AUDACITY
    session = None if live else open_session(project)
    stores = library(project_presets(Path.cwd() if session is None else session.path))
    chosen = find_preset(preset, stores) if preset is not None else Preset()
    settings = chosen.settings | build_settings(seed=seed)
    settings_from_options(settings)
    spans: list[StemSpan] = [parse_span(text, "+") for text in span or ()]
    spans += [parse_span(text, "-") for text in not_span or ()]
    spans += [found for text in span_midi or () for found in parse_midi_spans(text, span_gap)]
    named = [*chosen.prompts, *(parse_prompt(text) for text in prompt or ())]
    if labels is not None:
        named += prompts_from_labels(read_labels(labels))
    sources = [check_source(text) for text in spans_from or ()]
    name = model or chosen.model or "mini"
    asks = bool(sources) or not named or time_range in ("selection", "loop")

    def request(marks: Marks, clips: list[Clip]) -> applying.Request:
        prompts, marked = mark_spans(named, sources, marks, clips)
        return applying.Request(
            track,
            build_prompts(prompts, [*spans, *marked]),
            settings,
            preset or "",
            parse_range(time_range, marks),
            mute_source,
            chosen.rerun == "update",
        )

    if session is None:
        with Audacity() as audacity:
            marks = running.marks(audacity) if asks else Marks()
            if not named and not sources:
                named += prompts_from_labels(marks.labels)
            wanted = request(marks, [running.playing(audacity, track)])
            with (
                open_separator(name, in_process=in_process) as separator,
                ProgressDisplay() as bars,
            ):
                imported = running.add_stems(audacity, wanted, separator, bars.track(track))
        for stem, file in imported.items():
            print(f"  {stem}: {file}")
        return
    target = out or session.path
    if target.exists() and target.resolve() != session.path.resolve():
        msg = f"{target} exists; choose another --out"
        raise InputError(msg)
    # What cannot be honoured is told before a model is loaded.
    wanted = request(session.marks() if asks else Marks(), session.clips(track))
    with open_separator(name, in_process=in_process) as separator, ProgressDisplay() as bars:
        done = applying.apply(session, wanted, separator, target, bars.track)
    verb = "replaced" if done.replaced else "added"
    print(f"{target}: {verb} {done.group!r}")
    for stem, files in done.files.items():
        print(f"  {stem}: {', '.join(map(str, files))}")


@app.command("undo")
def undo(project: Project, *, out: Out = None) -> None:
    """Take away the tracks that the last ``apply`` added; their audio files stay."""
    if project == _AUDACITY:
        with Audacity() as audacity:
            entry = running.undo_stems(audacity)
        print(f"Audacity: took away {', '.join(map(repr, entry.tracks))}")
        return
    session = open_session(project)
    entry = applying.undo(session, out or session.path)
    print(f"{session.path}: took away {entry.label!r}")
