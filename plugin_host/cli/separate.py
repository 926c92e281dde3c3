"""``stembridge separate``: files in, one file per stem out."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bridge.request import RESIDUAL, Prompt, SettingOptions, Span
from bridge.separation import Separation
from bridge.validation import check_prompts, settings_from_options
from plugin_host import riff
from plugin_host.audio_files import Audio, AudioInfo, probe, read_audio
from plugin_host.cli.arguments import (
    build_prompts,
    build_settings,
    parse_midi_spans,
    parse_prompt,
    parse_span,
)
from plugin_host.cli.progress import ProgressDisplay
from plugin_host.cli.separation_report import describe, tell
from plugin_host.cli.shared_options import (
    CandidatesOption,
    JudgeOption,
    ListenOption,
    ModelOption,
    NotSpansOption,
    OverlapOption,
    PredictSpansOption,
    PresetOption,
    PromptsOption,
    ReconstructOption,
    SeedOption,
    SolverOption,
    SpanGapOption,
    SpanMidiOption,
    SpansOption,
    StepsOption,
    WatermarkOption,
    WindowOption,
)
from plugin_host.cli.visual_prompt import read_visual_prompt
from plugin_host.separators import Separator, open_separator
from plugin_host.span_files import DEFAULT_GAP_S, prompts_from_labels, read_labels
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
from presets.recall import differences

DEFAULT_MODEL = "mini"
DEFAULT_OUTPUT = Path("stembridge-out")

Subtype = Literal["float", "input"]


@dataclass(frozen=True)
class Job:
    """What is the same for all inputs of one call.

    ``spans`` come from a session rather than from fingers: they may be longer than a file, which
    then uses the part of them that it has.
    """

    prompts: tuple[Prompt, ...]
    spans: list[tuple[str | None, Span]]
    settings: SettingOptions
    model: str
    overwrite: bool
    plot: bool
    preset: Preset

    def prompts_for(self, info: AudioInfo) -> tuple[Prompt, ...]:
        """Return the checked prompts for a file; InputError if one does not fit it."""
        end_s = info.duration_s
        inside = [
            (name, Span(span.start_s, min(span.end_s, end_s), span.polarity))
            for name, span in self.spans
            if span.start_s < end_s
        ]
        return check_prompts(build_prompts(self.prompts, inside), end_s)


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("separate", help="Separate audio files into the stems you name.")(separate)


def separate(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Audio files.", show_default=False)
    ],
    *,
    prompt: PromptsOption = None,
    span: SpansOption = None,
    not_span: NotSpansOption = None,
    span_midi: SpanMidiOption = None,
    span_gap: SpanGapOption = DEFAULT_GAP_S,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts and spans from Audacity's labels."),
    ] = None,
    preset: PresetOption = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the folders go.")
    ] = DEFAULT_OUTPUT,
    model: ModelOption = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    solver: SolverOption = None,
    window: WindowOption = None,
    overlap: OverlapOption = None,
    reconstruct: ReconstructOption = None,
    listen: ListenOption = None,
    predict_spans: PredictSpansOption = None,
    candidates: CandidatesOption = None,
    judge: JudgeOption = None,
    watermark: WatermarkOption = None,
    video: Annotated[
        Path | None,
        typer.Option(
            metavar="CLIP", help="Video that shows the one stem; with --mask and --in-process."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="CLIP", help="Video that is bright where it is; none if masked already."
        ),
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
        listen=listen,
        predict_spans=predict_spans,
        candidates=candidates,
        judge=judge,
        watermark=watermark,
    )
    settings_from_options(settings)
    spans = [parse_span(text, "+") for text in span or ()]
    spans += [parse_span(text, "-") for text in not_span or ()]
    named = [*chosen.prompts, *(parse_prompt(text) for text in prompt or ())]
    loose = [found for text in span_midi or () for found in parse_midi_spans(text, span_gap)]
    if labels is not None:
        for labelled in prompts_from_labels(read_labels(labels)):
            named.append(Prompt(labelled.text, labelled.name))
            loose += [(labelled.stem, each) for each in labelled.spans]
    prompts = build_prompts(named, spans)
    build_prompts(prompts, loose)
    job = Job(
        prompts, loose, settings, model or chosen.model or DEFAULT_MODEL, overwrite, plot, chosen
    )

    seen = read_visual_prompt(video, mask, job.model, len(inputs))
    infos = [probe(path) for path in inputs]
    for info in infos:
        job.prompts_for(info)
    plans = plan_tracks(infos, output, _file_subtype(subtype))
    reports = []
    opened = open_separator(job.model, in_process=in_process, video=seen)
    with opened as separator, ProgressDisplay() as bars:
        for info, plan in zip(infos, plans, strict=True):
            reports.append(separate_file(separator, info.path, plan, job, bars))
            if not as_json:
                tell(reports[-1])
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
    checked = job.prompts_for(info)
    tag = job_tag(mixture, info, checked, {**job.settings, "model": job.model})
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
    notes = differences(job.preset, result.report)
    if subtype != plan.subtype:
        notes.append(f"written as float32, since a stem would have clipped as {plan.subtype}")
    return describe(info, files, result.report, plan.folder / PICTURE if job.plot else None, notes)


def _picture(
    info: AudioInfo, mixture: Audio, prompts: tuple[Prompt, ...], result: Separation
) -> bytes:
    from plugin_host.pictures import draw_separation

    report = result.report
    return draw_separation(
        f"{info.path.name}: {report.model}, seed {report.seed}, NFE {report.nfe}",
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
