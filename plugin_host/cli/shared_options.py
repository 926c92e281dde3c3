"""Options that several commands have in common."""

from typing import Annotated, TypeAlias

import typer

SpanMidiOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME@]FILE.mid[:TRACK]", help="Where the notes of a MIDI file sound."),
]
SpanGapOption: TypeAlias = Annotated[
    float, typer.Option(metavar="SECONDS", help="Longest rest inside a span from MIDI.")
]
PresetOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="Prompts and settings from a preset.")
]
