"""Prompts, spans, settings and presets as they are written on a command line."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_type_hints

import typer

from bridge.bundles.bundle import find_bundle, load_manifest
from bridge.bundles.manifest import NamedStemsManifest
from bridge.errors import InputError
from bridge.request import Polarity, Prompt, SettingField, Span, is_safe_name, setting_fields
from plugin_host.cli.console import note
from plugin_host.files.span_files import Label, prompts_from_labels, read_midi_spans
from presets import Preset, PresetStore
from presets.library import locate_preset

SpanMidiOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME@]FILE.mid[:TRACK]", help="Where the notes of a MIDI file sound."),
]
SpanGapOption: TypeAlias = Annotated[
    float, typer.Option(metavar="SECONDS", help="Longest rest inside a span that comes from MIDI.")
]
PresetOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="Prompts and settings from a preset.")
]
PromptsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", "-p", metavar="[NAME=]TEXT", help="What to extract; repeat for more stems."
    ),
]
SpansOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--span",
        metavar="[NAME@]START:END",
        help="Where it sounds, in seconds; NAME@ for one stem only.",
    ),
]
NotSpansOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--not-span", metavar="[NAME@]START:END", help="Where it does not sound."),
]
ModelOption: TypeAlias = Annotated[
    str | None, typer.Option("--model", metavar="NAME_OR_DIR", help="Model bundle. (default: mini)")
]

SAM_2: Final = "facebook/sam2.1-hiera-tiny"
NetworkOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--network",
        metavar="DIR_OR_ID",
        help="SAM 2 in transformers' format, which follows clicks on a clip; from the hub.",
    ),
]
OutputOption: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")
]
InProcessOption: TypeAlias = Annotated[
    bool, typer.Option("--in-process", help="Compute here, without the sidecar.")
]
OverwriteOption: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are in the way.")
]
SubtypeOption: TypeAlias = Annotated[
    Literal["float", "input"],
    typer.Option(help="float32, or the input's sample format where it fits."),
]


def parse_prompt(text: str) -> Prompt:
    """Read ``[NAME=]TEXT``.

    Raises
    ------
    InputError
        Nothing stands on a side of the equals sign.
    """
    name, equals, rest = text.partition("=")
    if not equals:
        if not text.strip():
            raise InputError(f"--prompt {text!r}: expected what to extract, such as 'drums'")
        return Prompt(text.strip())
    name, rest = name.strip(), rest.strip()
    if not name or not rest:
        raise InputError(f"--prompt {text!r}: expected NAME=TEXT, such as 'vox=lead vocals'")
    if not is_safe_name(name):
        raise InputError(
            f"--prompt {text!r}: {name!r} cannot be a file name; use letters, digits and dashes"
        )
    return Prompt(rest, name)


def ask_for_prompts(model: str) -> list[Prompt]:
    """Ask on the terminal what to hear, offering what a model knows.

    Parameters
    ----------
    model
        Name of a bundle, or its directory.

    Returns
    -------
    What was answered, in words or by the numbers of what was offered; none where nobody is there
    to be asked.

    Raises
    ------
    ModelError
        There is no such model.
    InputError
        An answer is no prompt.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return []
    manifest = load_manifest(find_bundle(model))
    names = [sound.name for sound in manifest.sounds]
    if names:
        note(f"The model {manifest.name} knows:")
        for number, name in enumerate(names, 1):
            note(f"  {number:2}  {name}")
        if not isinstance(manifest, NamedStemsManifest):
            note("Other sounds can be asked for in words, with less to hope for.")
    answer = typer.prompt(
        "What do you want to hear? (words or numbers, with commas between)", err=True
    )
    parts = [part.strip() for part in str(answer).split(",") if part.strip()]
    numbered = dict(zip(map(str, range(1, len(names) + 1)), names, strict=True))
    return [parse_prompt(numbered.get(part, part)) for part in parts]


def parse_time(text: str) -> float:
    """Read seconds, such as ``75.5``.

    Raises
    ------
    InputError
        It is not a finite number from 0 up.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{text!r}: expected seconds from the start of the file, such as 1.5")
    return value


def parse_span(text: str, polarity: Polarity) -> tuple[str | None, Span]:
    """Read ``[NAME@]START:END`` in seconds.

    Returns
    -------
    stem
        The stem it applies to; None for all.
    span
        The stretch, with the polarity given.

    Raises
    ------
    InputError
        It is not written like that, or ends before it starts.
    """
    option = "--span" if polarity == "+" else "--not-span"
    name, at, times = text.rpartition("@")
    start, colon, end = times.partition(":")
    if not colon or (at and not name.strip()):
        raise InputError(
            f"{option} {text!r}: expected START:END or NAME@START:END in seconds, such as 1.5:3"
        )
    try:
        span = Span(parse_time(start), parse_time(end), polarity)
    except InputError as error:
        raise InputError(f"{option} {text!r}: {error}") from None
    if span.end_s <= span.start_s:
        raise InputError(
            f"{option} {text!r}: the span ends before it starts; give START:END with START < END"
        )
    return (name.strip() if at else None), span


def parse_midi_spans(text: str, gap_s: float) -> list[tuple[str | None, Span]]:
    """Read ``[NAME@]FILE.mid[:TRACK]`` and the notes in that file.

    Returns
    -------
    As many as `parse_span` would give: the stem, or None for all, and a positive span.

    Raises
    ------
    InputError
        The file cannot be read, or has no such track or no note.
    """
    name: str | None = None
    rest = text
    if "@" in text and not Path(text.rpartition(":")[0] or text).exists():
        name, _, rest = text.partition("@")
    path, track = Path(rest), None
    if not path.exists() and ":" in rest:
        head, _, tail = rest.rpartition(":")
        path, track = Path(head), tail
    return [(name, span) for span in read_midi_spans(path, track, gap_s)]


def build_prompts(
    prompts: Sequence[Prompt], spans: Sequence[tuple[str | None, Span]]
) -> tuple[Prompt, ...]:
    """Attach spans to the prompts they name, or to all.

    Raises
    ------
    InputError
        There is no prompt, or a span names a stem that no prompt makes.
    """
    if not prompts:
        raise InputError(
            "no prompt: say what to extract, such as --prompt drums, or give a --preset"
        )
    stems = [prompt.stem for prompt in prompts]
    for name, _ in spans:
        if name is not None and name not in stems:
            raise InputError(f"a span names the stem {name!r}; expected one of {', '.join(stems)}")
    return tuple(
        Prompt(
            prompt.text,
            prompt.name,
            (*prompt.spans, *(span for name, span in spans if name in (None, prompt.stem))),
        )
        for prompt in prompts
    )


def add_labels(
    prompts: Sequence[Prompt], labels: Iterable[Label]
) -> tuple[list[Prompt], list[tuple[str | None, Span]]]:
    """Let labels say where prompts sound.

    Parameters
    ----------
    prompts
        Those that were given; they keep their texts.
    labels
        A label with the name of a stem is about that stem, another makes one.

    Returns
    -------
    prompts
        Those that were given and those that labels make, without the labels' spans.
    spans
        Where they sound and where not, for `build_prompts`.
    """
    found = list(prompts)
    spans: list[tuple[str | None, Span]] = []
    stems = {prompt.stem.casefold(): prompt.stem for prompt in prompts}
    for labelled in prompts_from_labels(labels):
        stem = stems.get(labelled.stem.casefold())
        if stem is None:
            found.append(Prompt(labelled.text, labelled.name))
            stem = labelled.stem
        spans += [(stem, span) for span in labelled.spans]
    return found, spans


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every field of `Settings`.

    The command has a parameter ``settings``, in whose place the options stand; it receives a
    dict of those that were given.
    """
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    parameters = []
    for name, parameter in signature.parameters.items():
        if name == "settings":
            parameters += [_as_parameter(field) for field in setting_fields()]
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {field.name: values.pop(field.name) for field in setting_fields()}
        settings = {name: value for name, value in given.items() if value is not None}
        command(**values, settings=settings)

    # Typer reads these two.
    vars(run)["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _as_parameter(field: SettingField) -> inspect.Parameter:
    flag = "--" + field.name.removesuffix("_s").replace("_", "-")
    if field.kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    metavar = "|".join(field.choices) or ("SECONDS" if field.name.endswith("_s") else None)
    default = "" if field.default is None else f" (default: {field.default})"
    option = typer.Option(flag, metavar=metavar, help=field.help + default, show_default=False)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[field.kind | None, option],
    )


def choose_preset(name: str, stores: Sequence[PresetStore] | None = None) -> Preset:
    """Find a preset and say on stderr where it is, and which model of its own it brings.

    Parameters
    ----------
    name, stores
        As for `presets.find_preset`.

    Raises
    ------
    PresetError
        There is none, or it cannot be read.
    """
    found = locate_preset(name, stores)
    model = found.preset.model
    # A name is one of an installed model; a path leads to weights that came from somewhere.
    brought = f", with the model {model}" if model and not model.isidentifier() else ""
    note(f"preset {name}: {found.place}{brought}")
    return found.preset
