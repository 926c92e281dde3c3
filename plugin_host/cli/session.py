"""``stembridge session``: stems for the tracks of a DAW session."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bridge.errors import InputError
from bridge.request import make_settings
from plugin_host.cli.arguments import (
    InProcessOption,
    ModelOption,
    NotSpansOption,
    PresetOption,
    PromptsOption,
    SpanGapOption,
    SpanMidiOption,
    add_labels,
    build_prompts,
    choose_preset,
    parse_midi_spans,
    parse_prompt,
    parse_span,
    takes_settings,
)
from plugin_host.cli.console import JsonOption, ProgressDisplay, note, say, say_json, say_table
from plugin_host.daw import SHOWN_SUFFIXES, open_session, session_path
from plugin_host.daw import apply as applying
from plugin_host.daw.audacity import open_audacity
from plugin_host.daw.marks import (
    SPAN_SOURCES,
    StemSpan,
    check_source,
    mark_spans,
    parse_range,
)
from plugin_host.daw.media import hold_project
from plugin_host.daw.project_presets import project_presets
from plugin_host.daw.session import Marks, Session, SessionError
from plugin_host.effects.separators import open_separator
from plugin_host.files.span_files import (
    DEFAULT_GAP_S,
    check_label_count,
    prompts_from_labels,
    read_labels,
)
from presets import Preset, library
from presets.preset import refuse_videos

_AUDACITY = Path("audacity")

app = typer.Typer(help="Stems for the tracks of a DAW session.", no_args_is_help=True)

Project = Annotated[
    Path,
    typer.Argument(
        metavar="PROJECT", help=f"{', '.join(SHOWN_SUFFIXES)}, Ardour's folder, or: audacity"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="NEW", help="Write another session file. (default: PROJECT itself)"),
]


@app.command("list")
def list_tracks(
    context: typer.Context,
    project: Project,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the audio tracks of a session."""
    tracks = _open(context, project).tracks()
    if as_json:
        say_json([asdict(track) for track in tracks])
        return
    rows = [
        (
            str(track.number),
            track.name,
            str(track.clips),
            str(track.channels),
            ", ".join(filter(None, ["muted" if track.muted else "", track.note])),
        )
        for track in tracks
    ]
    say_table(("", "track", "clips", "channels", ""), rows)


@app.command("apply")
@takes_settings
def apply(
    context: typer.Context,
    project: Project,
    *,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|NUMBER|ID",
            help="The track to separate, as `session list` shows it; may be repeated.",
        ),
    ] = None,
    items: Annotated[
        bool, typer.Option("--items", help="Only the selected items, as the session was saved.")
    ] = False,
    item: Annotated[
        list[str] | None,
        typer.Option(metavar="ID|START", help="Only this item, such as one that begins at 12.5."),
    ] = None,
    place: Annotated[
        str,
        typer.Option("--as", metavar="tracks|takes", help="Where the stems go. (REAPER: takes)"),
    ] = "tracks",
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
    settings: dict[str, Any],
    out: Out = None,
    color: Annotated[
        bool,
        typer.Option("--color/--no-color", help="Colour the new tracks by what sounds on them."),
    ] = True,
    no_undo: Annotated[
        bool, typer.Option("--no-undo", help="Do not record this run for `session undo`.")
    ] = False,
    in_process: InProcessOption = False,
) -> None:
    """Separate what a track plays and add a track for every stem, in place.

    Close the session in the DAW before, and open it again after. A running Audacity gets the
    tracks at once. Without a prompt or preset, the names of markers and regions such as
    'vox: lead vocals' are the prompts, and say where they sound; in Audacity, the labels.
    """
    if place not in ("tracks", "takes"):
        raise InputError(f"--as {place!r}: expected tracks or takes")
    if not track and not items:
        raise InputError("say which track with --track, or --items for the selected items")
    session = _open_to_change(context, project, out)
    stores = library(project_presets(Path.cwd() if session.live else session.path))
    chosen = choose_preset(preset, stores) if preset is not None else Preset()
    refuse_videos(chosen, "a session")
    asked = make_settings(chosen.settings, **settings)
    spans: list[StemSpan] = [parse_span(text, "+") for text in span or ()]
    spans += [parse_span(text, "-") for text in not_span or ()]
    spans += [found for text in span_midi or () for found in parse_midi_spans(text, span_gap)]
    named = [*chosen.prompts, *(parse_prompt(text) for text in prompt or ())]
    if labels is not None:
        named, labelled = add_labels(named, read_labels(labels))
        spans += labelled
    sources = [check_source(text) for text in spans_from or ()]
    name = model or chosen.model or "mini"
    asks = bool(sources) or not named or time_range in ("selection", "loop")

    marks = session.marks() if asks else Marks()
    check_label_count(session.path, len(marks.labels))
    if session.live and not named and not sources:
        named += prompts_from_labels(marks.labels)
    target = _target(session, out)
    requests = []
    for name_of in dict.fromkeys(track or _with_selected_items(session)):
        wanted = applying.Request(
            name_of,
            (),
            asked,
            preset or "",
            parse_range(time_range, marks),
            mute_source,
            chosen.rerun == "update",
            items=None if item is None else tuple(item),
            selected=items,
            as_takes=place == "takes",
            colours=color,
        )
        # What cannot be honoured is told before a model is loaded.
        clips = applying.choose_clips(session, wanted)
        prompts, marked = mark_spans(named, sources, marks, clips)
        prompts = build_prompts(prompts, [*spans, *marked])
        requests.append(replace(wanted, prompts=prompts))
        for remark in session.remarks(name_of):
            note(f"{session.find(name_of).shown}: {remark}")
    # Run again after an edit of its audio or marks, only that is computed.
    opened = open_separator(name, in_process=in_process, revise=True)
    with opened as separator, ProgressDisplay() as bars:
        done = applying.apply_all(
            session, requests, separator, target, bars.track, remember=not no_undo
        )
    for part in done:
        verb = "replaced" if part.replaced else "added"
        say(f"{'Audacity' if session.live else target}: {verb} {part.group!r}")
        for stem, files in part.files.items():
            say(f"  {stem}: {', '.join(map(str, files))}")
        for text in part.notes:
            say(f"  note: {text}")


@app.command("undo")
def undo(context: typer.Context, project: Project, *, out: Out = None) -> None:
    """Remove the tracks that the last ``apply`` added; their audio files stay."""
    session = _open_to_change(context, project, out)
    entries = applying.undo(session, _target(session, out))
    where = "Audacity" if session.live else session.path
    say(f"{where}: took away {', '.join(repr(entry.label) for entry in entries)}")


def _open(context: typer.Context, project: Path) -> Session:
    """Open a session until the command ends."""
    if project == _AUDACITY:
        return context.with_resource(open_audacity())
    return open_session(project)


def _open_to_change(context: typer.Context, project: Path, out: Path | None) -> Session:
    """Open a session and hold it, so that another run reads what this one will have written."""
    if project != _AUDACITY:
        context.with_resource(hold_project(out or session_path(project)))
    return _open(context, project)


def _with_selected_items(session: Session) -> list[str]:
    found = []
    for track in session.tracks():
        try:
            if any(clip.selected for clip in session.clips(str(track.identity or track.number))):
                found.append(str(track.identity or track.number))
        except SessionError as error:
            note(f"{track.name or f'Track {track.number}'}: left out; {error}")
    if not found:
        raise SessionError(
            f"{session.path}: no item is selected; select some and save, or say --track"
        )
    return found


def _target(session: Session, out: Path | None) -> Path:
    """Return where the session is written; InputError if that is another one that exists."""
    target = session.path if session.live else out or session.path
    if target.exists() and target.resolve() != session.path.resolve():
        raise InputError(f"{target} exists; choose another --out")
    return target
