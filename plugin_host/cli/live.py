"""``stembridge live``: an insert for JACK and PipeWire."""

import sys
import time
from typing import Annotated, Literal, cast

import typer

from plugin_host.cli.arguments import parse_prompt
from plugin_host.live import DEFAULT_SEGMENT_S, LiveInsert
from plugin_host.separate_effect import Separate

_SHOW_EVERY_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("live", help="Play stems in place, as a JACK or PipeWire insert.")(live)


def live(
    *,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", metavar="TEXT", help="What to keep or to leave out.")
    ],
    keep: Annotated[
        str, typer.Option(metavar="target|residual|remix", help="What to play.")
    ] = "target",
    gain_db: Annotated[float, typer.Option("--gain-db", help="Level of what was named.")] = 0.0,
    name: Annotated[str, typer.Option(help="Name of the JACK client.")] = "stembridge",
    channels: Annotated[int, typer.Option(min=1, max=64, help="Inputs and outputs.")] = 2,
    segment: Annotated[
        float, typer.Option(metavar="SECONDS", help="How much is separated at once.")
    ] = DEFAULT_SEGMENT_S,
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="Model.")] = "mini",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Compute here, without the sidecar.")
    ] = False,
) -> None:
    """Pass audio dry while it is new, and play the stem wherever it is known; Ctrl-C leaves."""
    effect = Separate(
        parse_prompt(prompt).text,
        cast(Literal["target", "residual", "remix"], keep),
        gain_db=gain_db,
        model=model,
        segment_s=segment,
        seed=seed,
        in_process=in_process,
    )
    with effect, LiveInsert(effect, name=name, channels=channels) as insert:
        print(f"{name}: {channels} inputs and outputs at {insert.rate} Hz", file=sys.stderr)
        shown = ""
        while True:
            ready_s = insert.take.ready_samples() / insert.rate
            state = f"{ready_s:.0f} s separated" + ("" if insert.idle else ", working")
            if insert.dry_reason:
                state = f"dry: {insert.dry_reason}"
            if state != shown:
                print(state, file=sys.stderr)
                shown = state
            time.sleep(_SHOW_EVERY_S)
