"""``stembridge preset``: list, show, save and share presets."""

import difflib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from bridge.errors import InputError
from plugin_host.cli.arguments import build_prompts, build_settings, parse_prompt, parse_span
from plugin_host.cli.shared_options import (
    CandidatesOption,
    JudgeOption,
    ListenOption,
    ModelOption,
    NotSpansOption,
    OverlapOption,
    PredictSpansOption,
    PromptsOption,
    ReconstructOption,
    SeedOption,
    SolverOption,
    SpansOption,
    StepsOption,
    WatermarkOption,
    WindowOption,
)
from plugin_host.daw.project_presets import project_presets
from presets import FolderStore, Preset, PresetStore, find_preset, format_preset, library
from presets.library import user_store
from presets.preset import check_preset, preset_from_prompts

app = typer.Typer(help="List, show, save and share presets.", no_args_is_help=True)

Project = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Folder or session file of the project. (default: the current folder)",
    ),
]
InProject = Annotated[
    bool, typer.Option("--in-project", help="The project's preset, not the user's.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace one of the same name.")]


def stores_of(project: Path | None) -> list[PresetStore]:
    """Return the stores to search for a project, first to last."""
    return library(None if project is None else project_presets(project))


def _writable(project: Path | None, in_project: bool) -> PresetStore:
    # Naming a project is asking for its presets.
    return project_presets(project or Path.cwd()) if in_project or project else user_store()


@app.command("list")
def list_presets(
    *,
    project: Project = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the presets of the project, the user and the factory."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for store in stores_of(project):
        for name in store.names():
            try:
                preset = store.load(name)
                stems = [prompt.stem for prompt in preset.prompts]
                described = preset.description
            except InputError as error:
                # One broken file must not hide the others.
                stems, described = [], f"cannot be read: {error}"
            rows.append(
                {
                    "name": name,
                    "where": store.label,
                    "stems": stems,
                    "description": described,
                    "hidden": name in seen,
                }
            )
            seen.add(name)
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table("name", "where", "stems", "description", box=None, pad_edge=False)
    for row in rows:
        where = f"{row['where']}{' (hidden)' if row['hidden'] else ''}"
        table.add_row(row["name"], where, ", ".join(row["stems"]), row["description"])
    Console(soft_wrap=True).print(table)


@app.command("show")
def show(name: str, *, project: Project = None) -> None:
    """Print a preset as TOML."""
    sys.stdout.write(format_preset(find_preset(name, stores_of(project))))


@app.command("save")
def save(
    name: str,
    *,
    prompt: PromptsOption = None,
    span: SpansOption = None,
    not_span: NotSpansOption = None,
    base: Annotated[
        str | None, typer.Option("--from", metavar="NAME_OR_FILE", help="Begin with this preset.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="One line for lists.")] = None,
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
    pin: Annotated[
        bool, typer.Option(help="Record the model's checksum, so that a change is noticed.")
    ] = True,
    project: Project = None,
    in_project: InProject = False,
    overwrite: Overwrite = False,
) -> None:
    """Save prompts and settings as a preset."""
    start = find_preset(base, stores_of(project)) if base else Preset()
    spans = [parse_span(text, "+") for text in span or ()]
    spans += [parse_span(text, "-") for text in not_span or ()]
    settings = build_settings(
        seed=seed, steps=steps, solver=solver, window_s=window, overlap_s=overlap,
        reconstruct=reconstruct, listen=listen, predict_spans=predict_spans, candidates=candidates,
        judge=judge, watermark=watermark,
    )  # fmt: skip
    added = [parse_prompt(text) for text in prompt or ()]
    if spans:
        # Spans may be for prompts of the base as well.
        named = build_prompts([*start.prompts, *added], spans)
        fresh = preset_from_prompts(named, settings)
        kept = [
            replace(old, spans=new.spans)
            for old, new in zip(start.stems, fresh.stems, strict=False)
        ]
        stems = (*kept, *fresh.stems[len(kept) :])
    else:
        stems = (*start.stems, *preset_from_prompts(tuple(added), settings).stems)
    if not stems:
        msg = "a preset needs a prompt: give --prompt, or --from a preset that has some"
        raise InputError(msg)
    changes: dict[str, Any] = {**settings, "stems": stems}
    if description is not None:
        changes["description"] = description
    preset = replace(start, **changes)
    if model is not None:
        preset = replace(preset, model=model, model_sha256=None, provider=None)
    if pin:
        preset = _pin_model(preset)
    store = _writable(project, in_project)
    store.save(name, check_preset(preset), overwrite=overwrite)
    print(f"saved {name} ({store.label})", file=sys.stderr)


def _pin_model(preset: Preset) -> Preset:
    from bridge.bundles import manifest
    from bridge.bundles.bundle import find_bundle

    name = preset.model or "mini"
    return replace(preset, model=name, model_sha256=manifest.load(find_bundle(name)).sha256)


@app.command("rename")
def rename(old: str, new: str, *, project: Project = None, in_project: InProject = False) -> None:
    """Give a preset another name."""
    store = _writable(project, in_project)
    if isinstance(store, FolderStore):
        store.rename(old, new)
        return
    store.save(new, store.load(old))
    store.delete(old)


@app.command("delete")
def delete(name: str, *, project: Project = None, in_project: InProject = False) -> None:
    """Delete a preset."""
    _writable(project, in_project).delete(name)


@app.command("export")
def export(
    name: str,
    file: Annotated[Path, typer.Argument(help="Where to; a name ending in .toml.")],
    *,
    project: Project = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a preset to a file."""
    if file.suffix != ".toml":
        msg = f"{file}: expected a name ending in .toml"
        raise InputError(msg)
    preset = find_preset(name, stores_of(project))
    FolderStore(file.parent, "exported").save(file.stem, preset, overwrite=overwrite)


@app.command("import")
def import_(
    file: Path,
    *,
    name: Annotated[str | None, typer.Option(help="Another name than the file's.")] = None,
    project: Project = None,
    in_project: InProject = False,
    overwrite: Overwrite = False,
) -> None:
    """Read a preset from a file and save it."""
    if file.suffix != ".toml":
        msg = f"{file}: expected a preset, a file ending in .toml"
        raise InputError(msg)
    preset = find_preset(str(file))
    _writable(project, in_project).save(name or file.stem, preset, overwrite=overwrite)


@app.command("diff")
def diff(first: str, second: str, *, project: Project = None) -> None:
    """Show how two presets differ; the exit code is 1 if they do."""
    stores = stores_of(project)
    one, two = (format_preset(find_preset(name, stores)) for name in (first, second))
    lines = list(
        difflib.unified_diff(one.splitlines(), two.splitlines(), first, second, lineterm="")
    )
    for line in lines:
        print(line)
    if lines:
        raise typer.Exit(1)
