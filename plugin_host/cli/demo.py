"""``stembridge demo``: the bundled mixture, separated, scored and drawn."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bridge.request import RESIDUAL, Prompt
from onnx_export.evaluation.sdr import si_sdr_db
from plugin_host.cli.arguments import InProcessOption, OutputOption, OverwriteOption
from plugin_host.cli.console import ProgressDisplay, say, say_table
from plugin_host.effects.separators import open_separator
from plugin_host.files.audio_files import Audio, read_audio
from plugin_host.files.pictures import draw_separation
from plugin_host.files.stem_files import (
    PICTURE,
    StemPlan,
    job_tag,
    refuse_foreign_files,
    write_picture,
    write_stems,
)

PROMPTS = (Prompt("drums"), Prompt("bass guitar", "bass"), Prompt("person speaking", "speech"))
DEFAULT_OUTPUT = Path("stembridge-demo")


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("demo", help="Separate the bundled mixture and show how well it went.")(demo)


def read_demo_audio(name: str) -> tuple[Audio, int]:
    """Return a file of the demonstration: ``"mixture"`` or the true stem of a prompt.

    Returns
    -------
    audio
        Float32 ``(channels, samples)``.
    sample_rate
        Samples per second.
    """
    with resources.as_file(resources.files("plugin_host").joinpath("demo", f"{name}.flac")) as path:
        audio, info = read_audio(path)
    return audio, info.sample_rate


def demo(
    output: OutputOption = DEFAULT_OUTPUT,
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="Model bundle.")] = "mini",
    in_process: InProcessOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Separate the bundled mixture by three prompts; print scores, stems and picture."""
    with resources.as_file(resources.files("plugin_host").joinpath("demo", "mixture.flac")) as path:
        mixture, info = read_audio(path)
    plan = StemPlan(output, "FLOAT")
    tag = job_tag(mixture, info, PROMPTS, {"model": model})
    names = [*(prompt.stem for prompt in PROMPTS), RESIDUAL]
    refuse_foreign_files(
        [*(plan.path(name) for name in names), output / PICTURE], tag, overwrite=overwrite
    )
    with open_separator(model, in_process=in_process) as separator, ProgressDisplay() as bars:
        result = separator.separate(mixture, info.sample_rate, PROMPTS, progress=bars.track("demo"))
    stems = {**result.stems, RESIDUAL: result.residual}
    truth = {name: read_demo_audio(name)[0] for name in result.stems}
    before = {name: si_sdr_db(mixture, reference) for name, reference in truth.items()}
    after = {name: si_sdr_db(result.stems[name], reference) for name, reference in truth.items()}
    notes = {name: f"{after[name] - before[name]:+.1f} dB SI-SDR" for name in truth}
    files = write_stems(
        plan, stems, info.sample_rate, subtype="FLOAT", tag=tag, overwrite=overwrite
    )
    missing = write_picture(
        output / PICTURE,
        lambda: draw_separation(
            f"demo: {result.report.model}, NFE {result.report.nfe}",
            mixture,
            stems,
            info.sample_rate,
            notes=notes,
        ),
    )

    numbers = ("mixture", "separated", "improvement")
    rows = [
        (
            prompt.text,
            prompt.stem,
            f"{before[prompt.stem]:.1f} dB",
            f"{after[prompt.stem]:.1f} dB",
            f"{after[prompt.stem] - before[prompt.stem]:+.1f} dB",
        )
        for prompt in PROMPTS
    ]
    say_table(
        ("prompt", "stem", *numbers),
        rows,
        title="How much closer to the true stems than the mixture is",
        right=numbers,
    )
    report = result.report
    median = float(np.median([after[name] - before[name] for name in truth]))
    say(
        f"SI-SDR, median improvement {median:.1f} dB; {report.seconds:.1f} s for "
        f"{report.samples / report.sample_rate:.1f} s of audio with {report.model} on "
        f"{report.provider}, seed {report.seed}"
    )
    for name, path in files.items():
        say(f"{name}: {path}")
    say(missing or f"picture: {output / PICTURE}")
