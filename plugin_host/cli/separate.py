"""``stembridge separate``: files in, one file per stem out."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import typer
from msgspec.structs import asdict, replace
from typer.core import TyperCommand

from bridge.bundles.bundle import frame_side
from bridge.errors import InputError
from bridge.processes import give_back_large_arrays
from bridge.request import RESIDUAL, Prompt, Settings, Span, check_prompts, make_settings
from bridge.scratch import LongArray
from bridge.separation import ProgressCallback, Report, Separation, Separator
from bridge.video import Video
from plugin_host.cli.arguments import (
    InProcessOption,
    ModelOption,
    NotSpansOption,
    OutputOption,
    OverwriteOption,
    PresetOption,
    PromptsOption,
    SpanGapOption,
    SpanMidiOption,
    SpansOption,
    SubtypeOption,
    add_labels,
    ask_for_prompts,
    build_prompts,
    choose_preset,
    parse_midi_spans,
    parse_prompt,
    parse_span,
    parse_time,
    takes_settings,
)
from plugin_host.cli.console import Batch, JsonOption, ProgressDisplay, note, say, say_json
from plugin_host.cost import with_chosen_quality
from plugin_host.effects.separators import open_separator
from plugin_host.files import riff
from plugin_host.files.audio_files import (
    Audio,
    AudioInfo,
    probe,
    read_audio,
    read_long_audio,
    write_audio,
)
from plugin_host.files.span_files import DEFAULT_GAP_S, read_labels
from plugin_host.files.stem_files import (
    PICTURE,
    StemPlan,
    fit_integers,
    job_tag,
    plan_tracks,
    refuse_foreign_files,
    refuse_sources,
    write_picture,
    write_stems,
)
from presets import Preset
from presets.library import check_name, user_store
from presets.preset import PresetVideo, check_preset, differences, pinned, with_prompts

FLAG: Final = "--preview"
DEFAULT_S: Final = 15.0
_VALUE = re.compile(r"[\d.]+(:[\d.]+)?")


class WithPreview(TyperCommand):
    """A command whose option ``--preview`` may be given without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default value where none follows the option."""
        filled = []
        for word, following in itertools.pairwise([*args, ""]):
            bare = word == FLAG and not _VALUE.fullmatch(following)
            filled.append(f"{FLAG}={DEFAULT_S:g}" if bare else word)
        return super().parse_args(ctx, filled)


def find_stretch(text: str, mixture: Audio, sample_rate: int) -> tuple[int, int]:
    """Return the samples that a preview covers.

    Parameters
    ----------
    text
        ``START:END`` in seconds, or how many seconds of where it is loudest.
    mixture
        Float32 of shape ``(channels, samples)``.
    sample_rate
        In Hz.

    Returns
    -------
    start, end
        In samples, inside the mixture and in this order.

    Raises
    ------
    InputError
        The text is neither, or the stretch is empty or outside the mixture.
    """
    samples = mixture.shape[1]
    start_text, colon, end_text = text.partition(":")
    if not colon:
        length = min(round(parse_time(text) * sample_rate), samples)
        if length < 1:
            raise InputError(f"{FLAG} {text}: expected seconds above 0, such as {DEFAULT_S:g}")
        power = np.square(mixture, dtype=np.float64).sum(axis=0)
        total = np.concatenate([[0.0], np.cumsum(power)])
        start = int(np.argmax(total[length:] - total[:-length]))
        return start, start + length
    start, end = (round(parse_time(part) * sample_rate) for part in (start_text, end_text))
    if not start < min(end, samples):
        raise InputError(
            f"{FLAG} {text}: expected START:END with START before END and inside the "
            f"{samples / sample_rate:.2f} s of audio"
        )
    return start, min(end, samples)


DEFAULT_MODEL = "mini"
DEFAULT_OUTPUT = Path("stembridge-out")


_SHOWN = 6


@dataclass(frozen=True)
class Job:
    """What is the same for all inputs of one call.

    ``spans`` come from a session rather than from the command line: they may be longer than a file,
    which then uses the part of them that it has.
    """

    prompts: tuple[Prompt, ...]
    spans: list[tuple[str | None, Span]]
    settings: Settings
    model: str
    overwrite: bool
    plot: bool
    preset: Preset
    clips: dict[str, PresetVideo]

    def prompts_for(self, info: AudioInfo) -> tuple[Prompt, ...]:
        """Return the checked prompts for a file; InputError if one does not fit it."""
        end_s = info.duration_s
        check_prompts(self.prompts, end_s)
        everywhere = build_prompts(self.prompts, self.spans)
        return check_prompts([prompt.within(0.0, end_s) for prompt in everywhere], end_s)

    def as_preset(self, report: Report) -> Preset:
        """Return what ran as a preset; chains and levels are those of the preset it began with."""
        prompts = build_prompts(self.prompts, self.spans)
        preset = replace(with_prompts(self.preset, prompts), model=self.model)
        stems = [replace(s, video=self.clips.get(s.prompt.stem)) for s in preset.stems]
        preset = replace(preset, stems=tuple(stems))
        return check_preset(pinned(preset, report))

    def targets(self, plan: StemPlan) -> list[Path]:
        """Return the files that will be written for an input."""
        names = [*(prompt.stem for prompt in self.prompts), RESIDUAL]
        return [plan.path(name) for name in names] + [plan.folder / PICTURE] * self.plot


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("separate", cls=WithPreview, help="Separate audio files into the stems you name.")(
        takes_settings(separate)
    )


def separate(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Audio files.", show_default=False)
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
    save_preset: Annotated[
        str | None,
        typer.Option(
            "--save-preset",
            metavar="NAME",
            help="Keep what ran as a preset: prompts, settings, model, provider.",
        ),
    ] = None,
    output: OutputOption = DEFAULT_OUTPUT,
    model: ModelOption = None,
    settings: dict[str, Any],
    video: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME@]CLIP", help="Video that shows what makes the sound, of stem NAME."
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME@]CLIP", help="Video, bright where that is; none if CLIP is masked."
        ),
    ] = None,
    subtype: SubtypeOption = "float",
    preview: Annotated[
        str | None,
        typer.Option(
            FLAG,
            metavar="[START:END|SECONDS]",
            help=f"Only this stretch, or the loudest {DEFAULT_S:g} s, into temporary files.",
        ),
    ] = None,
    in_process: InProcessOption = False,
    revise: Annotated[
        bool,
        typer.Option(
            "--revise", help="Compute only what was edited since the sidecar was last asked."
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    plot: Annotated[
        bool, typer.Option("--plot", help=f"Also write {PICTURE}: mixture and stems.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Separate every input and write ``DIR/<track>/<stem>.wav``, or a preview elsewhere."""
    chosen = choose_preset(preset) if preset is not None else Preset()
    chosen_model = model or chosen.model or DEFAULT_MODEL
    asked = _settings(chosen, settings, chosen_model)
    spans = [
        *(parse_span(text, "+") for text in span or ()),
        *(parse_span(text, "-") for text in not_span or ()),
    ]
    named = [*chosen.prompts, *(parse_prompt(text) for text in prompt or ())]
    loose = [found for text in span_midi or () for found in parse_midi_spans(text, span_gap)]
    if labels is not None:
        named, labelled = add_labels(named, read_labels(labels))
        loose += labelled
    if not (named or as_json):
        named = ask_for_prompts(chosen_model)
    prompts = build_prompts(named, spans)
    build_prompts(prompts, loose)
    clips = find_clips(video or [], mask or [], prompts, chosen)
    job = Job(prompts, loose, asked, chosen_model, overwrite, plot, chosen, clips)

    if preview is not None and (save_preset is not None or clips):
        raise InputError("a preview has no video and is no preset; leave one of them out")
    if save_preset is not None:
        _check_free(save_preset, overwrite=overwrite)
    seen = read_visual_prompts(clips, job.model, len(inputs))
    chosen_subtype = "FLOAT" if subtype == "float" else subtype
    batch = Batch(len(inputs))
    opened = open_separator(
        job.model,
        in_process=in_process,
        video=seen or None,
        revise=_can_revise(revise, in_process=in_process),
    )
    reports: list[dict[str, Any]] = []
    if preview is not None:
        with opened as separator:
            reports = _preview_all(separator, inputs, preview, job, batch, as_json=as_json)
        _end(batch, reports, as_json=as_json)
        return
    infos = []
    for path in inputs:
        with batch.attempt(path):
            info = probe(path)
            job.prompts_for(info)
            (plan,) = plan_tracks([info], output, chosen_subtype, len(prompts) + 1)
            refuse_sources(job.targets(plan), inputs)
            infos.append(info)
    # Together they may be more than the disk holds, or have one name.
    plans = plan_tracks(infos, output, chosen_subtype, len(prompts) + 1)
    ran: Report | None = None
    if plans:
        with opened as separator, ProgressDisplay() as bars:
            for info, plan in zip(infos, plans, strict=True):
                with batch.attempt(info.path):
                    report, described = separate_file(separator, info.path, plan, job, bars)
                    reports.append(described)
                    ran = ran or report
                    if not as_json:
                        tell(described)
    if save_preset is not None and ran is not None:
        user_store().save(save_preset, job.as_preset(ran), overwrite=overwrite)
        note(f"saved the preset {save_preset}")
    _end(batch, reports, as_json=as_json)


def _settings(preset: Preset, settings: dict[str, Any], model: str) -> Settings:
    """Return what was asked for; what a preset leaves open is the bundle's, wherever it is used."""
    asked = make_settings(preset.settings, **settings)
    return with_chosen_quality(asked, model) if preset == Preset() else asked


def _preview_all(
    separator: Separator,
    inputs: list[Path],
    preview: str,
    job: Job,
    batch: Batch,
    *,
    as_json: bool,
) -> list[dict[str, Any]]:
    reports = []
    with ProgressDisplay() as bars:
        for path in inputs:
            with batch.attempt(path):
                reports.append(preview_file(separator, path, preview, job, bars.track(path.name)))
                if not as_json:
                    tell(reports[-1])
    return reports


def _can_revise(revise: bool, *, in_process: bool) -> bool:
    """Return what was asked for, if it can be done."""
    if revise and in_process:
        raise InputError("only the sidecar knows what was separated before; leave out --in-process")
    return revise


def _check_free(name: str, *, overwrite: bool) -> None:
    """Raise before anything is computed if a preset cannot have a name."""
    if check_name(name) in user_store().names() and not overwrite:
        raise InputError(f"you have a preset {name!r}; choose another name, or --overwrite")


def _end(batch: Batch, reports: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        say_json({"tracks": reports, "failed": batch.as_json()})
    batch.finish()


def separate_file(
    separator: Separator, path: Path, plan: StemPlan, job: Job, bars: ProgressDisplay
) -> tuple[Report, dict[str, Any]]:
    """Separate one file and write its stems; return the report, and its part of the JSON.

    Raises
    ------
    InputError
        The file is bad, a file is in the way, or the disk is full; nothing is written then.
    """
    give_back_large_arrays()
    mixture, info = read_long_audio(path)
    checked = job.prompts_for(info)
    decides = {**asdict(job.settings), "model": job.model}
    if job.clips:
        decides["videos"] = {stem: clip.sha256 for stem, clip in job.clips.items()}
    tag = job_tag(mixture, info, checked, decides)
    refuse_foreign_files(job.targets(plan), tag, overwrite=job.overwrite)
    result = separator.separate(
        mixture, info.sample_rate, checked, job.settings, progress=bars.track(path.name)
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
        overwrite=job.overwrite,
        metadata=riff.read_metadata(path),
    )
    notes = [*info.notes, *differences(job.preset, result.report)]
    if subtype != plan.subtype:
        notes.append(f"written as float32, since a stem would have clipped as {plan.subtype}")
    picture = plan.folder / PICTURE if job.plot else None
    if picture is not None:
        missing = write_picture(picture, lambda: _draw(info, mixture, checked, result))
        if missing is not None:
            notes.append(missing)
            picture = None
    return result.report, describe(info, files, result.report, picture, notes)


def preview_file(
    separator: Separator, path: Path, text: str, job: Job, progress: ProgressCallback
) -> dict[str, Any]:
    """Separate a stretch of a file into temporary files, and return its part of the report.

    Parameters
    ----------
    separator, path, job, progress
        As for `separate_file`; nothing is written where the stems would go.
    text
        See `plugin_host.cli.separate.find_stretch`.

    Raises
    ------
    InputError
        The file or the stretch cannot be used.
    """
    mixture, info = read_audio(path)
    rate = info.sample_rate
    start, end = find_stretch(text, mixture, rate)
    cut = [prompt.within(start / rate, end / rate) for prompt in job.prompts_for(info)]
    result = separator.separate(mixture[:, start:end], rate, cut, job.settings, progress=progress)
    folder = Path(tempfile.mkdtemp(prefix="stembridge-preview-"))
    files = {}
    for name, stem in {**result.stems, RESIDUAL: result.residual}.items():
        files[name] = folder / f"{name}.wav"
        write_audio(files[name], stem, rate, channel_mask=info.channel_mask)
    told = f"a preview of {start / rate:.2f} to {end / rate:.2f} s"
    report = describe(info, files, result.report, None, [*info.notes, told])
    return {**report, "preview": {"start_s": start / rate, "end_s": end / rate}}


def _draw(
    info: AudioInfo, mixture: LongArray, prompts: tuple[Prompt, ...], result: Separation
) -> bytes:
    from plugin_host.files.pictures import draw_separation

    report = result.report
    return draw_separation(
        f"{info.path.name}: {report.model}, seed {report.seed}, NFE {report.nfe}",
        mixture,
        {**result.stems, RESIDUAL: result.residual},
        info.sample_rate,
        spans={prompt.stem: prompt.spans for prompt in prompts},
        predicted={found.stem: found.spans for found in report.predicted},
    )


def describe(
    info: AudioInfo,
    files: dict[str, Path],
    report: Report,
    picture: Path | None,
    notes: list[str],
) -> dict[str, Any]:
    """Return what ``--json`` prints for one input."""
    return {
        "input": str(info.path),
        "files": {name: str(path) for name, path in files.items()},
        "picture": None if picture is None else str(picture),
        **msgspec.to_builtins(report),
        "notes": [*notes, *(one.text for one in report.notes)],
    }


def tell(report: dict[str, Any]) -> None:
    """Print the lines for one input, from what `describe` made of it."""
    depth = report["null_depth_db"]
    null = "exactly" if depth is None else f"to {depth:.0f} dBFS"
    sums = "" if report["reconstruct"] == "raw" else f", stems sum to the mixture {null}"
    say(
        f"{report['input']}: {report['seconds']:.1f} s for "
        f"{report['samples'] / report['sample_rate']:.1f} s of audio "
        f"({report['nfe']} evaluations, {report['provider']}){sums}"
    )
    for text in report["notes"]:
        say(f"  note: {text}")
    for found in report["predicted"]:
        heard = ", ".join(f"{s['start_s']:.1f}-{s['end_s']:.1f} s" for s in found["spans"][:_SHOWN])
        more = len(found["spans"]) - _SHOWN
        say(
            f"  {found['stem']}: heard by the span predictor "
            f"{'at ' + heard if heard else 'nowhere'}{f' and {more} times more' * (more > 0)}"
        )
    selected = {chosen["stem"]: chosen for chosen in report["selections"]}
    for name, path in report["files"].items():
        say(f"  {name}: {path}{_told(selected.get(name), report['candidates'])}")
    if report["picture"]:
        say(f"  picture: {report['picture']}")


def _told(chosen: dict[str, Any] | None, candidates: int) -> str:
    """Return, in brackets, which candidate a stem is, what chose it, and its scores."""
    if chosen is None:
        return ""
    parts = []
    if chosen["ranker"] is not None:
        parts.append(f"candidate {chosen['candidate'] + 1} of {candidates} by {chosen['ranker']}")
    parts += [f"{name} {score:.2f}" for name, score in (chosen["scores"] or {}).items()]
    if chosen["similarity"] is not None:
        parts.append(f"CLAP {chosen['similarity']:.2f}")
    return f" ({', '.join(parts)})"


def find_clips(
    videos: list[str], masks: list[str], prompts: Sequence[Prompt], preset: Preset
) -> dict[str, PresetVideo]:
    """Tell which video shows which stem: those given, and otherwise those of the preset.

    Raises
    ------
    InputError
        The options name no stem, or don't fit each other; a file of the preset is gone or was
        changed since.
    """
    stems = [prompt.stem for prompt in prompts]
    given = {
        "--video": _by_stem("--video", videos, stems),
        "--mask": _by_stem("--mask", masks, stems),
    }
    for name in given["--mask"].keys() - given["--video"].keys():
        raise InputError(f"--mask needs the --video that it belongs to; there is none of {name}")
    clips = {
        name: PresetVideo.of_files(clip, given["--mask"].get(name))
        for name, clip in given["--video"].items()
    }
    for stem in preset.stems:
        name, kept = stem.prompt.stem, stem.video
        if kept is None or name in clips:
            continue
        kept.check(name, "give one with --video")
        clips[name] = kept
    return clips


def _by_stem(option: str, texts: list[str], stems: Sequence[str]) -> dict[str, Path]:
    """Read ``[NAME@]CLIP``; the name may be left out where there is one stem."""
    found: dict[str, Path] = {}
    for text in texts:
        name, at, clip = text.partition("@")
        if not at or name not in stems:
            if len(stems) > 1:
                raise InputError(
                    f"{option} {text!r}: expected NAME@CLIP with one of {', '.join(stems)}"
                )
            name, clip = stems[0], text
        if name in found:
            raise InputError(f"{option}: there are two of {name!r}; leave one of them out")
        found[name] = Path(clip)
    return found


def read_visual_prompts(
    clips: Mapping[str, PresetVideo], model: str, inputs: int
) -> dict[str, Video]:
    """Read the visual prompts of stems, in the size that the model takes.

    Raises
    ------
    InputError
        There are several inputs, a file is no video, or the model has no vision encoder.
    """
    if not clips:
        return {}
    if inputs > 1:
        raise InputError(
            f"--video belongs to one file, but there are {inputs}; separate them one by one"
        )
    from bridge.video import read_video

    side = frame_side(model)
    if side is None:
        raise InputError(
            f"the model {model} has no vision encoder; leave --video out, or export it with one"
        )
    return {
        stem: read_video(Path(clip.clip), None if clip.mask is None else Path(clip.mask), side)
        for stem, clip in clips.items()
    }
