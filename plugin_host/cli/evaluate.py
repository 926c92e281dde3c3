"""``stembridge eval``: score a model on a folder of mixtures with their true stems."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bridge.errors import InputError
from plugin_host.cli.arguments import parse_prompt
from plugin_host.evaluation import (
    Case,
    Score,
    SdrMeasure,
    Summary,
    by_stem,
    evaluate,
    find_cases,
    find_musdb,
    load_sdr,
    read_prompts,
    summarise,
)
from plugin_host.evaluation.cases import PROMPTS_FILE
from plugin_host.separators import Separator, open_separator

_MUSDB = "musdb:"
#: MUSDB18's stems in words that say what they are; what is left is ``other``.
_MUSDB_PROMPTS = {"vocals": "singing voice"}
_MUSDB_REST = "other"


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("eval", help="Score a model on mixtures whose true stems are known.")(run)


def run(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|musdb:PATH",
            help="A folder per mixture, with mixture.wav and the true stems; or MUSDB18-HQ.",
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
        typer.Option(metavar="STEM", help="The stem that is what all the others leave."),
    ] = None,
    sdr: Annotated[
        str | None,
        typer.Option(
            metavar="bss|museval|none",
            help="SDR by fast-bss-eval or museval. (default: bss, if installed)",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write scores.json, bars.png, best.png and worst.png."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first mixtures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every score as JSON.")] = False,
) -> None:
    """Separate every stem of every mixture by a prompt of its own; print medians by stem."""
    musdb = folder.startswith(_MUSDB)
    root = Path(folder.removeprefix(_MUSDB))
    cases = (find_musdb(root) if musdb else find_cases(root))[:limit]
    texts = dict(_MUSDB_PROMPTS) if musdb else {}
    if prompts is not None or (root / PROMPTS_FILE).is_file():
        texts |= {
            stem: many[0] for stem, many in read_prompts(prompts or root / PROMPTS_FILE).items()
        }
    texts |= _given(prompt or [])
    measure = _sdr_measure(sdr)
    rest = rest or (_MUSDB_REST if musdb else None)
    with (
        open_separator(model, in_process=True) as separator,
        Progress(console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("mixtures", total=len(cases))
        scores = list(
            evaluate(
                separator,
                cases,
                texts,
                rest=rest,
                sdr=load_sdr(measure) if measure else None,
                on_case=lambda n: bar.update(task, completed=n),
            )
        )
        if not scores:
            raise InputError(f"{root}: all the true stems are silent; nothing can be scored")
        if out is not None:
            write_report(out, scores, separator, cases, texts, model, rest)
    if as_json:
        print(json.dumps(as_builtins(scores), indent=1))
        return
    Console(soft_wrap=True).print(score_table(scores))
    if out is not None:
        print(f"report: {out}")


def as_builtins(scores: list[Score]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "summary": dataclasses.asdict(summarise(scores)),
        "stems": {name: dataclasses.asdict(total) for name, total in by_stem(scores).items()},
        "scores": [dataclasses.asdict(score) for score in scores],
    }


def write_report(
    out: Path,
    scores: list[Score],
    separator: Separator,
    cases: list[Case],
    prompts: dict[str, str],
    model: str,
    rest: str | None = None,
) -> None:
    """Write ``scores.json`` and the pictures to a folder."""
    from plugin_host.evaluation.charts import draw_bars, draw_case

    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").write_text(json.dumps(as_builtins(scores), indent=1) + "\n")
    (out / "bars.png").write_bytes(
        draw_bars(f"{Path(model).name} on {len(cases)} mixtures", scores)
    )
    ranked = sorted((s for s in scores if s.stem != rest), key=lambda s: s.improvement_db)
    by_name = {case.name: case for case in cases}
    for word, score in (("worst", ranked[0]), ("best", ranked[-1])):
        picture = draw_case(word, separator, by_name[score.case], score, prompts)
        (out / f"{word}.png").write_bytes(picture)


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
        msg = f"expected 'bss', 'museval' or 'none', got {option!r}"
        raise typer.BadParameter(msg, param_hint="--sdr")
    return None if option == "none" else cast(SdrMeasure, option)


#: Heading and value of every column of numbers.
_COLUMNS: tuple[tuple[str, Callable[[Summary], float | None]], ...] = (
    ("SI-SDR gain", lambda s: s.improvement_db),
    ("ideal mask", lambda s: s.oracle_improvement_db),
    ("worst", lambda s: s.worst_db),
    ("SDR", lambda s: s.sdr_db),
    ("mix", lambda s: s.mixture_sdr_db),
    ("ideal mask", lambda s: s.oracle_sdr_db),
    ("wrong prompt costs", lambda s: s.wrong_drop_db),
    ("absent", lambda s: s.absent_db),
    ("image error", lambda s: s.image_error_db),
)


def score_table(scores: list[Score]) -> Table:
    """Lay out medians by stem; columns that nothing is known of are left out."""
    totals: dict[str, Summary] = {**by_stem(scores), "all": summarise(scores)}
    columns = [(title, value) for title, value in _COLUMNS if value(totals["all"]) is not None]
    table = Table(
        title="Medians in dB (zero gain is the mixture; the ideal ratio mask is the top)",
        box=None,
        pad_edge=False,
    )
    table.add_column("stem", no_wrap=True)
    table.add_column("n", justify="right")
    for title, _ in columns:
        table.add_column(title, justify="right")
    for name, total in totals.items():
        values = [value(total) for _, value in columns]
        cells = ["-" if value is None else f"{value:.1f}" for value in values]
        table.add_row(name, str(total.stems), *cells, end_section=name == list(totals)[-2])
    return table
