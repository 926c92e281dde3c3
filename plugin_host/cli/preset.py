"""``stembridge preset``: list, show, save and share presets."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from bridge.errors import InputError
from plugin_host.cli.arguments import (
    ModelOption,
    NotSpansOption,
    PromptsOption,
    SpansOption,
    build_prompts,
    choose_preset,
    parse_prompt,
    parse_span,
    takes_settings,
)
from plugin_host.cli.console import JsonOption, note, say, say_document, say_json, say_table
from plugin_host.daw.project_presets import project_presets
from presets import FolderStore, Preset, PresetStore, format_preset, library
from presets.library import check_new_name, list_names, user_store
from presets.preset import check_preset, with_prompts

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
    as_json: JsonOption = False,
) -> None:
    """List the presets of the project, the user and the factory."""
    rows: list[dict[str, Any]] = []
    for store, name, hidden in list_names(stores_of(project)):
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
                "hidden": hidden,
            }
        )
    if as_json:
        say_json(rows)
        return
    cells = [
        (
            row["name"],
            f"{row['where']}{' (hidden)' if row['hidden'] else ''}",
            ", ".join(row["stems"]),
            row["description"],
        )
        for row in rows
    ]
    say_table(("name", "where", "stems", "description"), cells)


@app.command("show")
def show(name: str, *, project: Project = None) -> None:
    """Print a preset as TOML."""
    say_document(format_preset(choose_preset(name, stores_of(project))))


@app.command("save")
@takes_settings
def save(
    name: str,
    *,
    prompt: PromptsOption = None,
    span: SpansOption = None,
    not_span: NotSpansOption = None,
    base: Annotated[
        str | None, typer.Option("--from", metavar="NAME_OR_FILE", help="Start from this preset.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="One line, shown in lists.")] = None,
    model: ModelOption = None,
    settings: dict[str, Any],
    pin: Annotated[
        bool, typer.Option(help="Record the model's checksum, so that a change is noticed.")
    ] = True,
    project: Project = None,
    in_project: InProject = False,
    overwrite: Overwrite = False,
) -> None:
    """Save prompts and settings as a preset."""
    start = choose_preset(base, stores_of(project)) if base else Preset()
    spans = [parse_span(text, "+") for text in span or ()]
    spans += [parse_span(text, "-") for text in not_span or ()]
    added = [parse_prompt(text) for text in prompt or ()]
    named = [*start.prompts, *added]
    if not named:
        raise InputError("a preset needs a prompt: give --prompt, or --from a preset that has some")
    # Spans may be for prompts of the base as well.
    preset = replace(with_prompts(start, build_prompts(named, spans)), **settings)
    if description is not None:
        preset = replace(preset, description=description)
    if model is not None:
        preset = replace(preset, model=model, model_sha256=None, provider=None)
    if pin:
        preset = _pin_model(preset)
    store = _writable(project, in_project)
    check_new_name(store, name)
    store.save(name, check_preset(preset), overwrite=overwrite)
    note(f"saved {name} ({store.label})")


def _pin_model(preset: Preset) -> Preset:
    from bridge.bundles.bundle import find_bundle, load_manifest

    name = preset.model or "mini"
    return replace(preset, model=name, model_sha256=load_manifest(find_bundle(name)).sha256)


@app.command("rename")
def rename(old: str, new: str, *, project: Project = None, in_project: InProject = False) -> None:
    """Give a preset another name."""
    store = _writable(project, in_project)
    check_new_name(store, new)
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
    file: Annotated[Path, typer.Argument(help="The file to write, ending in .toml.")],
    *,
    project: Project = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a preset to a file."""
    if file.suffix != ".toml":
        raise InputError(f"{file}: expected a name ending in .toml")
    preset = choose_preset(name, stores_of(project))
    FolderStore(file.parent, "exported").save(file.stem, preset, overwrite=overwrite)


@app.command("import")
def import_(
    file: Path,
    *,
    name: Annotated[str | None, typer.Option(help="A name other than the file's.")] = None,
    project: Project = None,
    in_project: InProject = False,
    overwrite: Overwrite = False,
) -> None:
    """Read a preset from a file and save it."""
    if file.suffix != ".toml":
        raise InputError(f"{file}: expected a preset, a file ending in .toml")
    preset = choose_preset(str(file))
    store = _writable(project, in_project)
    check_new_name(store, name or file.stem)
    store.save(name or file.stem, preset, overwrite=overwrite)


@app.command("allow")
def allow(
    plugin: Annotated[
        list[Path], typer.Argument(metavar="PLUGIN...", help="Plug-in files, such as some.vst3.")
    ],
) -> None:
    """Let presets load plug-in files, as they are now. A plug-in is a program: trust its maker."""
    from plugin_host.effects import presets

    for path in plugin:
        say(f"{path}: allowed (sha256 {presets.allow(path)})")


@app.command("diff")
def diff(first: str, second: str, *, project: Project = None) -> None:
    """Show how two presets differ; the exit code is 1 if they do."""
    stores = stores_of(project)
    one, two = (format_preset(choose_preset(name, stores)) for name in (first, second))
    lines = list(
        difflib.unified_diff(one.splitlines(), two.splitlines(), first, second, lineterm="")
    )
    for line in lines:
        say(line)
    if lines:
        raise typer.Exit(1)
