"""``stembridge separate``: files in, one file per stem out."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from bridge.request import RESIDUAL, Prompt, SettingOptions
from bridge.separation import Report, Separation
from bridge.validation import check_prompts, settings_from_options
from plugin_host import riff
from plugin_host.audio_files import Audio, AudioInfo, probe, read_audio
from plugin_host.cli.arguments import build_prompts, build_settings, parse_prompt, parse_span
from plugin_host.cli.progress import ProgressDisplay
from plugin_host.separators import Separator, open_separator
from plugin_host.stem_files import (
    PICTURE,
    StemPlan,
    fit_integers,
    job_tag,
    plan_tracks,
    refuse_foreign_files,
    write_stems,
)
from presets import Preset, find_preset

DEFAULT_MODEL = "mini"
DEFAULT_OUTPUT = Path("stembridge-out")

Subtype = Literal["float", "input"]


@dataclass(frozen=True)
class Job:
    """What is the same for all inputs of one call."""

    prompts: tuple[Prompt, ...]
    settings: SettingOptions
    model: str
    overwrite: bool
    plot: bool


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("separate", help="Separate audio files into the stems you name.")(separate)


def separate(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Audio files.", show_default=False)
    ],
    *,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", metavar="[NAME=]TEXT", help="What to extract; repeat for more stems."
        ),
    ] = None,
    span: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME@]START:END", help="Seconds where it sounds; of one stem with NAME@."
        ),
    ] = None,
    not_span: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME@]START:END", help="Seconds where it does not sound."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Prompts and settings from a preset.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the folders go.")
    ] = DEFAULT_OUTPUT,
    model: Annotated[
        str | None, typer.Option(metavar="NAME_OR_DIR", help="Model bundle. (default: mini)")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise. (default: 0)")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the solver.")] = None,
    solver: Annotated[str | None, typer.Option(metavar="euler|midpoint", help="Solver.")] = None,
    window: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Length of a window.")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Overlap of two windows.")
    ] = None,
    reconstruct: Annotated[
        str | None,
        typer.Option(metavar="raw|null|mask", help="How the stems are made from the mixture."),
    ] = None,
    subtype: Annotated[
        str,
        typer.Option(
            metavar="float|input", help="Samples as float32, or as in the input where they fit."
        ),
    ] = "float",
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Compute here, without the sidecar.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are in the way.")
    ] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help=f"Also write {PICTURE}: mixture and stems.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a report on stdout as JSON.")
    ] = False,
) -> None:
    """Separate every input and write ``DIR/<track>/<stem>.wav``."""
    chosen = find_preset(preset) if preset is not None else Preset()
    settings = chosen.settings | build_settings(
        seed=seed,
        steps=steps,
        solver=solver,
        window_s=window,
        overlap_s=overlap,
        reconstruct=reconstruct,
    )
    settings_from_options(settings)
    spans = [parse_span(text, "+") for text in span or ()]
    spans += [parse_span(text, "-") for text in not_span or ()]
    prompts = build_prompts(
        [*chosen.prompts, *(parse_prompt(text) for text in prompt or ())], spans
    )
    job = Job(prompts, settings, model or chosen.model or DEFAULT_MODEL, overwrite, plot)

    infos = [probe(path) for path in inputs]
    for info in infos:
        check_prompts(prompts, info.duration_s)
    plans = plan_tracks(infos, output, _file_subtype(subtype))
    reports = []
    with open_separator(job.model, in_process=in_process) as separator, ProgressDisplay() as bars:
        for info, plan in zip(infos, plans, strict=True):
            reports.append(separate_file(separator, info.path, plan, job, bars))
            if not as_json:
                _tell(reports[-1])
    if as_json:
        json.dump({"tracks": reports}, sys.stdout, indent=2)
        sys.stdout.write("\n")


def separate_file(
    separator: Separator, path: Path, plan: StemPlan, job: Job, bars: ProgressDisplay
) -> dict[str, Any]:
    """Separate one file, write its stems, and return its part of the JSON report.

    Raises
    ------
    InputError
        The file is bad, a file is in the way, or the disk is full; nothing is written then.
    """
    mixture, info = read_audio(path)
    tag = job_tag(mixture, info, job.prompts, {**job.settings, "model": job.model})
    checked = check_prompts(job.prompts, info.duration_s)
    names = [*(prompt.stem for prompt in checked), RESIDUAL]
    targets = [plan.path(name) for name in names] + [plan.folder / PICTURE] * job.plot
    refuse_foreign_files(targets, tag, overwrite=job.overwrite)
    result = separator.separate(
        mixture, info.sample_rate, checked, progress=bars.track(path.name), **job.settings
    )
    stems = {**result.stems, RESIDUAL: result.residual}
    written, subtype = fit_integers(
        mixture, stems, plan.subtype, sums=result.report.reconstruct != "raw"
    )
    files = write_stems(
        plan,
        written,
        info.sample_rate,
        subtype=subtype,
        tag=tag,
        metadata=riff.read_metadata(path),
        picture=_picture(info, mixture, checked, result) if job.plot else None,
    )
    note = None
    if subtype != plan.subtype:
        note = f"written as float32, since a stem would have clipped as {plan.subtype}"
    return describe(info, files, result.report, plan.folder / PICTURE if job.plot else None, note)


def describe(
    info: AudioInfo,
    files: dict[str, Path],
    report: Report,
    picture: Path | None,
    note: str | None,
) -> dict[str, Any]:
    """Return what ``--json`` prints for one input."""
    return {
        "input": str(info.path),
        "files": {name: str(path) for name, path in files.items()},
        "picture": None if picture is None else str(picture),
        "note": note,
        **msgspec.to_builtins(report),
    }


def _picture(
    info: AudioInfo, mixture: Audio, prompts: tuple[Prompt, ...], result: Separation
) -> bytes:
    from plugin_host.pictures import draw_separation

    report = result.report
    return draw_separation(
        f"{info.path.name}: {report.model}, seed {report.seed}, {report.nfe} evaluations",
        mixture,
        {**result.stems, RESIDUAL: result.residual},
        info.sample_rate,
        spans={prompt.stem: prompt.spans for prompt in prompts},
    )


def _file_subtype(subtype: str) -> str:
    if subtype not in ("float", "input"):
        msg = f"expected 'float' or 'input', got {subtype!r}"
        raise typer.BadParameter(msg, param_hint="--subtype")
    return "FLOAT" if subtype == "float" else "input"


def _tell(report: dict[str, Any]) -> None:
    depth = report["null_depth_db"]
    null = "exactly" if depth is None else f"to {depth:.0f} dBFS"
    sums = "" if report["reconstruct"] == "raw" else f", stems sum to the mixture {null}"
    print(
        f"{report['input']}: {report['seconds']:.1f} s for "
        f"{report['samples'] / report['sample_rate']:.1f} s of audio "
        f"({report['nfe']} evaluations, {report['provider']}){sums}"
    )
    if report["note"]:
        print(f"  note: {report['note']}")
    for name, path in report["files"].items():
        print(f"  {name}: {path}")
    if report["picture"]:
        print(f"  picture: {report['picture']}")
