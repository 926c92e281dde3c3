"""``stembridge remove``: what is left of files when sounds are taken out, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import asdict

from bridge.errors import InputError
from bridge.request import RESIDUAL, Settings, check_prompts, make_settings
from plugin_host.cli.arguments import (
    InProcessOption,
    ModelOption,
    OutputOption,
    OverwriteOption,
    SubtypeOption,
    parse_prompt,
    takes_settings,
)
from plugin_host.cli.console import JsonOption, ProgressDisplay, say, say_json
from plugin_host.cli.separate import DEFAULT_MODEL, DEFAULT_OUTPUT
from plugin_host.cost import with_chosen_quality
from plugin_host.effects.separators import open_separator
from plugin_host.files import riff
from plugin_host.files.audio_files import Audio, probe, read_audio
from plugin_host.files.stem_files import (
    fit_integers,
    job_tag,
    plan_tracks,
    refuse_foreign_files,
    refuse_sources,
    write_stems,
)

CLEANED = "cleaned"


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("remove", help="Take sounds out of a file, and keep the rest.")(
        takes_settings(remove)
    )


def remove(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Audio file.")],
    sounds: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]TEXT...", help="What to take out, in this order."),
    ],
    *,
    output: OutputOption = DEFAULT_OUTPUT,
    model: ModelOption = None,
    settings: dict[str, Any],
    removed: Annotated[
        bool, typer.Option("--removed", help="Also write what was taken out, sound by sound.")
    ] = False,
    subtype: SubtypeOption = "float",
    in_process: InProcessOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take sounds out of a file and write ``DIR/<track>/cleaned.wav``.

    Each sound is sought in what the one before it left, so name the loudest first.
    """
    asked = with_chosen_quality(make_settings(Settings(), **settings), model or DEFAULT_MODEL)
    prompts = [parse_prompt(text) for text in sounds]
    info = probe(source)
    check_prompts(prompts, info.duration_s)
    if CLEANED in (prompt.stem.casefold() for prompt in prompts):
        raise InputError(f"{CLEANED!r} is what the rest is called; name the sound with NAME=TEXT")
    wanted = [*(prompt.stem for prompt in prompts if removed), CLEANED]
    chosen = "FLOAT" if subtype == "float" else subtype
    (plan,) = plan_tracks([info], output, chosen, len(wanted))
    targets = [plan.path(name) for name in wanted]
    refuse_sources(targets, [source])
    mixture, info = read_audio(source)
    name = model or DEFAULT_MODEL
    tag = job_tag(
        mixture, info, prompts, {**asdict(asked), "model": name, "one after the other": True}
    )
    refuse_foreign_files(targets, tag, overwrite=overwrite)
    with open_separator(name, in_process=in_process) as separator, ProgressDisplay() as bars:
        taken: dict[str, Audio] = {}
        notes: list[str] = []
        rest = mixture
        for prompt in prompts:
            result = separator.separate(
                rest, info.sample_rate, [prompt], asked, progress=bars.track(prompt.text)
            )
            taken[prompt.stem], rest = result.stems[prompt.stem], result.residual
            notes += [note.text for note in result.report.notes]
    sums = result.report.reconstruct != "raw"
    fitted, written = fit_integers(mixture, {**taken, RESIDUAL: rest}, plan.subtype, sums=sums)
    fitted[CLEANED] = fitted.pop(RESIDUAL)
    files = write_stems(
        plan,
        {name: fitted[name] for name in wanted},
        info.sample_rate,
        subtype=written,
        tag=tag,
        overwrite=overwrite,
        metadata=riff.read_metadata(source),
    )
    if as_json:
        report = {name: str(path) for name, path in files.items()}
        say_json({"input": str(source), "files": report, "notes": notes})
        return
    say(f"{source}: {', '.join(prompt.text for prompt in prompts)} taken out")
    for text in notes:
        say(f"  note: {text}")
    for stem, path in files.items():
        say(f"  {stem}: {path}")
