"""Prompts, spans and settings as they are written on a command line."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from bridge.errors import InputError
from bridge.request import Polarity, Prompt, SettingOptions, Span, is_safe_name
from plugin_host.span_files import read_midi_spans


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
            msg = f"--prompt {text!r}: expected what to extract, such as 'drums'"
            raise InputError(msg)
        return Prompt(text.strip())
    name, rest = name.strip(), rest.strip()
    if not name or not rest:
        msg = f"--prompt {text!r}: expected NAME=TEXT, such as 'vox=lead vocals'"
        raise InputError(msg)
    if not is_safe_name(name):
        msg = f"--prompt {text!r}: {name!r} cannot be a file name; use letters, digits and dashes"
        raise InputError(msg)
    return Prompt(rest, name)


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
        msg = f"{text!r}: expected seconds from the start of the file, such as 1.5"
        raise InputError(msg)
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
        msg = f"{option} {text!r}: expected START:END or NAME@START:END in seconds, such as 1.5:3"
        raise InputError(msg)
    try:
        span = Span(parse_time(start), parse_time(end), polarity)
    except InputError as error:
        msg = f"{option} {text!r}: {error}"
        raise InputError(msg) from None
    if span.end_s <= span.start_s:
        msg = f"{option} {text!r}: the span ends before it starts; give START:END with START < END"
        raise InputError(msg)
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
        msg = "no prompt: say what to extract, such as --prompt drums, or give a --preset"
        raise InputError(msg)
    stems = [prompt.stem for prompt in prompts]
    for name, _ in spans:
        if name is not None and name not in stems:
            msg = f"a span names the stem {name!r}; expected one of {', '.join(stems)}"
            raise InputError(msg)
    return tuple(
        Prompt(
            prompt.text,
            prompt.name,
            (*prompt.spans, *(span for name, span in spans if name in (None, prompt.stem))),
        )
        for prompt in prompts
    )


def build_settings(**given: str | float | bool | None) -> SettingOptions:
    """Gather the settings that were given; what is None stays with the preset or the model."""
    return cast(SettingOptions, {key: value for key, value in given.items() if value is not None})
