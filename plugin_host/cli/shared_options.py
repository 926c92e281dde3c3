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
        help="Seconds where it sounds; of one stem with NAME@.",
    ),
]
NotSpansOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--not-span", metavar="[NAME@]START:END", help="Seconds where it does not sound."),
]
ModelOption: TypeAlias = Annotated[
    str | None, typer.Option("--model", metavar="NAME_OR_DIR", help="Model bundle. (default: mini)")
]
SeedOption: TypeAlias = Annotated[
    int | None, typer.Option("--seed", help="Seed of the noise. (default: 0)")
]
StepsOption: TypeAlias = Annotated[int | None, typer.Option("--steps", help="Steps of the solver.")]
SolverOption: TypeAlias = Annotated[
    str | None, typer.Option("--solver", metavar="euler|midpoint", help="Solver.")
]
WindowOption: TypeAlias = Annotated[
    float | None, typer.Option("--window", metavar="SECONDS", help="Length of a window.")
]
OverlapOption: TypeAlias = Annotated[
    float | None, typer.Option("--overlap", metavar="SECONDS", help="Overlap of two windows.")
]
ReconstructOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--reconstruct",
        metavar="raw|null|mask|wiener",
        help="How the stems are made from the mixture.",
    ),
]
ListenOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="channels|mean",
        help="Whether the model hears each channel, or their mean.",
    ),
]
PredictSpansOption: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--predict-spans/--no-predict-spans",
        help="Let the model find where a prompt without spans is heard, if it can. (default: yes)",
    ),
]
CandidatesOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--candidates",
        metavar="COUNT",
        help="Compute each stem from so many noises, keep the best. (default: 1)",
    ),
]
JudgeOption: TypeAlias = Annotated[
    bool | None,
    typer.Option("--judge", help="Score the stems with the model's judge.", show_default=False),
]
WatermarkOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--watermark",
        metavar="0..65535",
        help="Message of models with a watermark. (default: from the seed)",
    ),
]
