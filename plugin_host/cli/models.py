"""``stembridge models``: list, show, verify, export and fetch model bundles."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bridge.bundles import manifest as manifests
from bridge.bundles.bundle import bundle_directories, find_bundle, list_bundles, verify_files
from bridge.bundles.consistency import JUDGE, VISION_ENCODER
from bridge.errors import InputError, ModelError

app = typer.Typer(no_args_is_help=True, help="List, check and export model bundles.")

_EXTRA = "pip install 'stembridge[export]'"
_JUDGE = "facebook/sam-audio-judge"
_PARTS = ("spans", "judge", "vision")
_Precision = Literal["fp32", "fp16", "fp16-weights"]

TextEncoder = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        metavar="DIR_OR_ID",
        help="T5 encoder with tokenizer.json: a transformers directory or a hub id. By default "
        "the one that the checkpoint's configuration names.",
    ),
]
With = Annotated[
    str,
    typer.Option(
        "--with",
        metavar="PARTS",
        help="Parts beyond the model itself, separated by commas: spans (predicts where a text "
        "prompt is heard; from the hub, unless --span-predictor is given), judge (scores stems; "
        "from the hub, unless --judge is given), vision (takes prompts that a video shows).",
    ),
]
SpanPredictor = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_ID", help="PE-A-Frame in transformers' format; implies --with spans."
    ),
]
Judge = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_ID",
        help="SAM Audio Judge in transformers' format; implies --with judge.",
    ),
]
PrecisionOption = Annotated[
    _Precision,
    typer.Option(
        help="fp16 halves weights and arithmetic (for GPUs), fp16-weights only what is stored."
    ),
]


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the bundles that --model finds by name."""
    rows = []
    for name, directory in list_bundles().items():
        manifest = manifests.load(directory)
        size_bytes = sum(info.size_bytes for info in manifest.files.values())
        rows.append((name, manifest, size_bytes, directory))
    if as_json:
        found = [
            {"name": name, "size_bytes": size, "directory": os.fspath(directory)}
            for name, _, size, directory in rows
        ]
        print(json.dumps(found, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "rate", "precision", "size", "licence", "directory"):
        table.add_column(column, overflow="fold")
    for name, manifest, size, directory in rows:
        table.add_row(
            name,
            f"{manifest.sample_rate} Hz",
            manifest.precision,
            f"{size / 1e6:.0f} MB",
            manifest.licence,
            os.fspath(directory),
        )
    Console().print(table)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Name or directory of a bundle.")],
) -> None:
    """Print a bundle's manifest."""
    manifest = manifests.load(find_bundle(model))
    print(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode())


@app.command()
def verify(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="Name or directory of a bundle.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="DIR_OR_ID",
            help="Compare with this checkpoint's weights, not with those in the bundle.",
        ),
    ] = None,
    text_encoder: TextEncoder = None,
    span_predictor: SpanPredictor = None,
    judge: Judge = None,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Check the checksums only; needs no extra.")
    ] = False,
) -> None:
    """Check a bundle's files, and each graph against PyTorch at several sizes."""
    directory = find_bundle(model)
    manifest = manifests.load(directory)
    verify_files(directory, manifest)
    print(f"{manifest.name}: {len(manifest.files)} files have their checksums")
    if files_only:
        return
    with _exporter():
        from onnx_export import rebuild_blueprint, verify_bundle
        from onnx_export.verify import table, worst

        if checkpoint is None:
            blueprint = rebuild_blueprint(directory)
        else:
            from onnx_export import checkpoint_blueprint

            has_spans = manifest.span_prediction is not None
            blueprint = checkpoint_blueprint(
                checkpoint,
                text_encoder=text_encoder,
                span_predictor=(span_predictor or True) if has_spans else None,
                judge=(judge or _JUDGE) if JUDGE in manifest.graphs else None,
                vision=VISION_ENCODER in manifest.graphs,
                name=manifest.name,
            )
        differences = verify_bundle(directory, blueprint)
    print(table(differences))
    failed = [difference.role for difference in differences if not difference.passed]
    if failed:
        raise ModelError(
            f"{directory}: {', '.join(failed)} differs from PyTorch by more than its tolerance; "
            "export the model again"
        )
    print(f"worst difference {worst(differences):.2e} ({manifest.precision}): within tolerance")


@app.command()
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Directory with config.json and checkpoint.pt, or a hub id such as "
            "facebook/sam-audio-base."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Directory to make.")],
    precision: PrecisionOption = "fp32",
    text_encoder: TextEncoder = None,
    parts: With = "",
    span_predictor: SpanPredictor = None,
    judge: Judge = None,
) -> None:
    """Turn an official SAM Audio checkpoint into a bundle."""
    _export(checkpoint, out, precision, text_encoder, _parts(parts, span_predictor, judge))


@app.command()
def fetch(
    checkpoint: Annotated[str, typer.Argument(help="Hub id, such as facebook/sam-audio-base.")],
    name: Annotated[
        str | None, typer.Option(help="Name for --model; by default the repository's.")
    ] = None,
    precision: PrecisionOption = "fp32",
    text_encoder: TextEncoder = None,
    parts: With = "",
    span_predictor: SpanPredictor = None,
    judge: Judge = None,
) -> None:
    """Download a checkpoint with your own token and install it for --model NAME."""
    name = name or checkpoint.rstrip("/").rsplit("/", 1)[-1]
    if name in list_bundles():
        raise InputError(f"a model {name!r} is already installed; give another --name")
    wanted = _parts(parts, span_predictor, judge)
    _export(checkpoint, bundle_directories()[-1] / name, precision, text_encoder, wanted)


@dataclass(frozen=True)
class _Parts:
    """What is exported beyond the model, and from where."""

    span_predictor: str | Literal[True] | None
    judge: str | None
    vision: bool


def _parts(listed: str, span_predictor: str | None, judge: str | None) -> _Parts:
    """Read --with and the options that imply it."""
    asked = {part.strip() for part in listed.split(",") if part.strip()}
    if unknown := sorted(asked - set(_PARTS)):
        raise InputError(f"--with {unknown[0]}: unknown part; expected {', '.join(_PARTS)}")
    return _Parts(
        span_predictor or ("spans" in asked or None),
        judge or (_JUDGE if "judge" in asked else None),
        "vision" in asked,
    )


def _export(
    checkpoint: str,
    out: Path,
    precision: _Precision,
    text_encoder: str | None,
    parts: _Parts,
) -> None:
    with _exporter():
        from onnx_export import export_checkpoint

        directory = export_checkpoint(
            checkpoint,
            out,
            precision=precision,
            text_encoder=text_encoder,
            span_predictor=parts.span_predictor,
            judge=parts.judge,
            vision=parts.vision,
            progress=print,
        )
    print(f"{directory}: done; use it with --model {directory}")


@contextmanager
def _exporter() -> Iterator[None]:
    """Name the extra to install where the exporter's packages are absent."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("bridge", "onnx_export", "plugin_host"):
            raise
        raise InputError(
            f"this needs the package {error.name}, which comes with: {_EXTRA}"
        ) from error
