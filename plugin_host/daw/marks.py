"""Prompts and spans from what a session has marked: selection, loop, markers, regions.

``vox: lead vocals`` as the name of a marker, of a stretch of the timeline or of a clip names a
stem and what to extract. ``vox`` alone, once there is such a stem, says where it sounds, and
``-vox`` where it does not. Other names, such as "Refrain", say nothing about stems.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

from bridge.errors import InputError
from bridge.request import Polarity, Prompt, Span, is_safe_name
from plugin_host.daw.session import Clip, Marks, Range, SessionError
from plugin_host.files.span_files import Label, prompts_from_labels

SpanSource = Literal["selection", "loop", "markers", "regions"]

SPAN_SOURCES: Final[tuple[SpanSource, ...]] = get_args(SpanSource)
"""What ``--spans-from`` takes."""

StemSpan = tuple[str | None, Span]


def check_source(text: str) -> SpanSource:
    """Return a word as one of `SPAN_SOURCES`.

    Raises
    ------
    InputError
        It is another word.
    """
    for source in SPAN_SOURCES:
        if text == source:
            return source
    raise InputError(f"--spans-from {text!r}: expected {', '.join(SPAN_SOURCES)}")


def marked_range(marks: Marks, kind: Literal["selection", "loop"]) -> Range:
    """Return the time selection or the loop range.

    Raises
    ------
    SessionError
        There is none.
    """
    found = marks.selection if kind == "selection" else marks.loop
    if found is None:
        what = "time selection" if kind == "selection" else "loop range"
        raise SessionError(f"the session tells of no {what}; save it with one, or say START:END")
    return found


def parse_range(text: str | None, marks: Marks) -> Range | None:
    """Read ``START:END`` in seconds, ``selection`` or ``loop``; None gives None.

    Raises
    ------
    InputError
        It is something else, or the session has no such range.
    """
    if text is None:
        return None
    if text in ("selection", "loop"):
        return marked_range(marks, "selection" if text == "selection" else "loop")
    start, colon, end = text.partition(":")
    try:
        low, high = (float(start), float(end)) if colon else (0.0, 0.0)
    except ValueError:
        low, high = 0.0, 0.0
    if not 0.0 <= low < high < float("inf"):
        raise InputError(
            f"--range {text!r}: expected START:END in seconds, such as 1.5:3, selection or loop"
        )
    return low, high


def named_stretches(source: SpanSource, marks: Marks, clips: Sequence[Clip]) -> list[Label]:
    """Return the names of one kind with the stretches they stand for.

    Parameters
    ----------
    source
        ``"markers"``, each of which lasts until the next one or the end of the track, or
        ``"regions"``: named stretches of the timeline and the track's clips.
    marks
        Of the session.
    clips
        What the track plays.
    """
    if source == "regions":
        stretches = [label for label in marks.labels if label.end_s > label.start_s]
        return stretches + [Label(c.name, c.position_s, c.end_s) for c in clips]
    points = sorted(
        (label for label in marks.labels if label.end_s == label.start_s),
        key=lambda label: label.start_s,
    )
    last = max([clip.end_s for clip in clips] + [point.start_s for point in points], default=0.0)
    ends = [point.start_s for point in points[1:]] + [last]
    return [Label(p.text, p.start_s, end) for p, end in zip(points, ends, strict=False)]


def prompts_from_names(labels: Sequence[Label]) -> tuple[Prompt, ...]:
    """Return the prompts of all names of the form ``stem: prompt``, without spans.

    Raises
    ------
    SessionError
        There is none, or a stem's name cannot be that of a file.
    """
    named = [label for label in labels if label.prompt is not None]
    prompts = prompts_from_labels(named)
    for prompt in prompts:
        if not is_safe_name(prompt.stem):
            raise SessionError(
                f"the name {prompt.stem!r} cannot be that of a stem; use letters and digits"
            )
    if not prompts:
        raise SessionError(
            "no prompt: give --prompt or --preset, or name a marker or region in the session, "
            "such as 'vox: lead vocals'"
        )
    return tuple(Prompt(prompt.text, prompt.name) for prompt in prompts)


def spans_from_names(labels: Sequence[Label], prompts: Sequence[Prompt]) -> list[StemSpan]:
    """Return the spans of all names that name a stem; others are passed over."""
    stems = {prompt.stem.casefold(): prompt.stem for prompt in prompts}
    spans: list[StemSpan] = []
    for label in labels:
        stem = stems.get(label.name.casefold())
        if stem is not None and label.end_s > label.start_s:
            polarity: Polarity = "-" if label.absent else "+"
            spans.append((stem, Span(label.start_s, label.end_s, polarity)))
    return spans


def mark_spans(
    prompts: Sequence[Prompt],
    sources: Sequence[SpanSource],
    marks: Marks,
    clips: Sequence[Clip],
) -> tuple[tuple[Prompt, ...], list[StemSpan]]:
    """Return the prompts for a track and the spans that the session marks for them.

    Parameters
    ----------
    prompts
        Those that were given; if none, the names in the session make them, and say where.
    sources
        Where to take spans from.
    marks, clips
        Of the session and the track.

    Raises
    ------
    SessionError
        No prompt was given and no name makes one; or there is no selection or loop, or no
        name of a stem, where one is asked for.
    """
    chosen, wanted = tuple(prompts), list(sources)
    names: dict[SpanSource, list[Label]] = {
        kind: named_stretches(kind, marks, clips) for kind in ("regions", "markers")
    }
    if not chosen:
        chosen = prompts_from_names([*names["regions"], *names["markers"]])
        wanted += [kind for kind in names if kind not in sources and not sources]
    spans: list[StemSpan] = []
    for kind in wanted:
        if kind in ("selection", "loop"):
            spans.append((None, Span(*marked_range(marks, kind))))
            continue
        found = spans_from_names(names[kind], chosen)
        if not found and kind in sources:
            stems = ", ".join(prompt.stem for prompt in chosen)
            raise SessionError(f"none of the session's {kind} has the name of a stem ({stems})")
        spans += found
    return chosen, spans
