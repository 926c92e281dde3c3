"""The manifest of a model bundle: everything the engine knows about a model.

A bundle is a directory with ``manifest.json`` and the files that it lists. The exporter writes
it, the engine reads it; nothing else passes between them. Here are the roles that a bundle's graphs
play, the manifest itself, what makes it inconsistent, and how its defaults fill in settings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from bridge.errors import InputError
from bridge.request import (
    Grid,
    Listening,
    Quality,
    ReconstructionMode,
    ResolvedSettings,
    Settings,
    Solver,
)

TEXT_ENCODER: Final = "text_encoder"
CODEC_ENCODER: Final = "codec_encoder"
CODEC_DECODER: Final = "codec_decoder"
VELOCITY: Final = "velocity"
SPAN_PREDICTOR: Final = "span_predictor"
JUDGE: Final = "judge"
VISION_ENCODER: Final = "vision_encoder"
CLAP: Final = "clap"
#: The one graph of a network with a closed list of stems.
SEPARATOR: Final = "separator"

#: Input of a velocity network that is also given the channel beside the one it hears.
BESIDE: Final = "beside"

#: The judge's own tokenizer, a file of every bundle that has a judge.
JUDGE_TOKENIZER: Final = "judge_tokenizer.json"
#: The same of CLAP, and the rate in Hz of the waveforms that it takes.
CLAP_TOKENIZER: Final = "clap_tokenizer.json"
CLAP_RATE: Final = 48_000

#: Per role: the inputs that the graph must have, those that it may have, and its output.
ROLES: Final[dict[str, tuple[frozenset[str], frozenset[str], str]]] = {
    TEXT_ENCODER: (frozenset({"input_ids", "attention_mask"}), frozenset(), "text"),
    CODEC_ENCODER: (frozenset({"wav"}), frozenset(), "latents"),
    CODEC_DECODER: (frozenset({"latents"}), frozenset({"message"}), "wav"),
    VELOCITY: (
        frozenset({"x", "t", "latents", "text", "text_mask", "spans"}),
        frozenset({"video", BESIDE}),
        "velocity",
    ),
    SPAN_PREDICTOR: (
        frozenset({"latents", "input_ids", "attention_mask"}),
        frozenset(),
        "logits",
    ),
    JUDGE: (
        frozenset({"mixture", "stem", "input_ids", "attention_mask"}),
        frozenset(),
        "scores",
    ),
    CLAP: (frozenset({"wav", "input_ids", "attention_mask"}), frozenset(), "similarity"),
    VISION_ENCODER: (frozenset({"frames"}), frozenset(), "features"),
}
OPTIONAL_ROLES: Final = frozenset({SPAN_PREDICTOR, JUDGE, CLAP, VISION_ENCODER})


#: How the graphs write attention: as standard ONNX products and a softmax, or as the one operator
#: that ONNX Runtime has of its own (``com.microsoft.MultiHeadAttention``), meant for CUDA.
AttentionForm: TypeAlias = Literal["plain", "fused"]

FORMAT: Final = 1
FILE_NAME: Final = "manifest.json"
#: Family of the networks with a closed list of stems.
NAMED_STEMS: Final = "named-stems"


class TensorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Name, element type and shape of a graph's input or output.

    Attributes
    ----------
    name : str
    dtype : str
        NumPy's name of the type: ``"float32"``, ``"int64"``, ``"bool"``.
    dims : tuple of int or str
        A number for a fixed axis, a name for a dynamic one.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]


class GraphSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX graph.

    Attributes
    ----------
    file : str
        Its file, one of the manifest's `files`.
    inputs, outputs : tuple of TensorSpec
    tolerance : float
        Largest absolute difference from the original network that verification accepts.
    """

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: float = 1e-4


class FileInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """Checksum (SHA-256, lower-case hex) and size of a file of the bundle."""

    sha256: str
    size_bytes: int


class PromptLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """What the text encoder takes: tokens per prompt, and the width D of its features."""

    max_tokens: int
    text_dim: int


class CodecInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """How the codec may be run in chunks.

    Attributes
    ----------
    encoder_context_frames, decoder_context_frames : int
        Latent frames that a chunk needs on either side to come out as if the whole clip had been
        coded at once.
    chunk_frames : int
        Latent frames coded at a time, without the context.
    """

    encoder_context_frames: int
    decoder_context_frames: int
    chunk_frames: int


class Reconstruction(Struct, frozen=True, forbid_unknown_fields=True):
    """How masks are made from the model's waveforms.

    Attributes
    ----------
    exponent : float
        Power of the magnitudes in the ratio mask.
    n_fft, hop : int
        Window and step of the STFT in samples at 44.1 and 48 kHz; at other rates they scale in
        octaves.
    band_hz : float
        Top of the band in which the model's own waveforms are meaningful.
    """

    exponent: float
    n_fft: int
    hop: int
    band_hz: float


class SpanPrediction(Struct, frozen=True, forbid_unknown_fields=True):
    """How the graph ``span_predictor`` finds where a prompt is heard.

    Attributes
    ----------
    tokenizer : str
        File of its own tokenizer.
    max_tokens : int
        Tokens per prompt that it takes.
    threshold : float
        Probability above which a frame counts as heard.
    """

    tokenizer: str
    max_tokens: int
    threshold: float = 0.3


class Level(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a bundle means by a quality; None stands for the manifest's own default.

    Attributes
    ----------
    solver, steps, grid, listen, reconstruct, mask_exponent
        Of the settings of the same names.
    candidates : int or None
        Noises for each stem, where the settings do not ask for several themselves.
    """

    solver: Solver | None = None
    steps: int | None = None
    grid: Grid | None = None
    listen: Listening | None = None
    reconstruct: ReconstructionMode | None = None
    mask_exponent: float | None = None
    candidates: int | None = None


class Tuned(Struct, frozen=True, forbid_unknown_fields=True):
    """A solver fitted to the velocity network; see `bridge.flow.diffusion.Scheme`.

    Attributes
    ----------
    times : tuple of float
        Of the evaluations.
    weights : tuple of tuple of float
        For each evaluation.
    error, error_before : float
        Difference from a fine solution relative to its size, the median over flows that were not
        fitted: of this solver, and of the one that it was fitted from.
    """

    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    error: float
    error_before: float


class Sound(Struct, frozen=True, forbid_unknown_fields=True):
    """A sound that a model knows.

    Attributes
    ----------
    name : str
        What it is called: a stem of a model with a closed list, otherwise a family of sounds.
    phrases : tuple of str
        What it may be called, in lower case.
    improvement_db : float or None
        Median improvement in SI-SDR over the mixture on recordings that training never saw;
        None where it was not measured.
    """

    name: str
    phrases: tuple[str, ...]
    improvement_db: float | None = None


class BundleManifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all model bundles have.

    Attributes
    ----------
    format : int
        Version of this description, `FORMAT`.
    name, family : str
        The bundle's name, and the architecture it belongs to.
    sample_rate : int
        The model's rate in Hz.
    hop_length : int
        Samples per frame at that rate.
    window_s, overlap_s, solver, steps, grid, reconstruct, listen
        Defaults of the settings of the same names.
    reconstruction : Reconstruction
        How masks are made.
    qualities : dict of str to Level
        What ``"draft"``, ``"good"`` and ``"best"`` mean; one that is missing means the default.
    tuned : Tuned or None
        The solver of that name.
    input_rms_db : float or None
        Level of the model's input in dB relative to full scale; None leaves it as it is.
    level_s : float or None
        Length of the stretch over which that level is measured, so that soft passages reach it
        too; None measures the whole clip.
    max_frames : int or None
        Longest window that the network can take, in frames.
    graphs : dict of str to GraphSpec
        By role.
    sounds : tuple of Sound
        What the model was trained on; empty for one that takes any words.
    files : dict of str to FileInfo
        Every file of the bundle but the manifest itself.
    precision : str
        Of the weights, e.g. ``"fp32"``.
    attention : {"plain", "fused"}
        How the graphs write it.
    licence, provenance : str
        Licence of the weights; where they come from.
    after : str
        Of a pair of bundles, see `bridge.bundles.bundle.find_bundle`: checksum of the one that is
        asked first. Empty in a bundle's own manifest.
    """

    format: int
    name: str
    family: str
    sample_rate: int
    hop_length: int
    window_s: float
    overlap_s: float
    solver: Solver
    steps: int
    grid: Grid = "uniform"
    reconstruct: ReconstructionMode
    listen: Listening = "mean"
    reconstruction: Reconstruction
    qualities: dict[Quality, Level] = {}
    tuned: Tuned | None = None
    input_rms_db: float | None = None
    level_s: float | None = None
    max_frames: int | None = None
    graphs: dict[str, GraphSpec]
    sounds: tuple[Sound, ...] = ()
    files: dict[str, FileInfo]
    precision: str
    attention: AttentionForm = "plain"
    licence: str
    provenance: str
    after: str = ""

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def sha256(self) -> str:
        """Checksum over everything that determines the model's output.

        It covers the checksums of the files and the numbers in the manifest, but not the words
        (name, sounds, licence, provenance), which may be corrected without making another model.
        """
        return _digest(replace(self, name="", sounds=(), licence="", provenance=""))


class Manifest(BundleManifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that separates what a prompt describes (family ``"sam-audio"``). It is mono.

    Attributes
    ----------
    latent_channels : int
        C, channels of a latent; the solver's state has 2C (target, residual).
    prompt : PromptLimits
    spans_complete : bool
        Whether the velocity network takes a prompt's "+" spans as complete, and the rest as "-";
        SAM Audio does not.
    beside_guidance : float
        For a network that is also given the other channel: how far to go from its answer without
        that channel (0) to its answer with it (1), or beyond. Unless it is 1, the network runs
        twice.
    codec : CodecInfo
    graphs : dict of str to GraphSpec
        By role: ``text_encoder``, ``codec_encoder``, ``codec_decoder``, ``velocity``, and where
        the model predicts spans ``span_predictor``.
    tokenizer : str
        File of the prompt tokenizer (Hugging Face ``tokenizer.json``).
    span_prediction : SpanPrediction or None
        Given if, and only if, there is a graph ``span_predictor``.
    """

    latent_channels: int
    prompt: PromptLimits
    spans_complete: bool = False
    beside_guidance: float = 1.0
    codec: CodecInfo
    tokenizer: str
    span_prediction: SpanPrediction | None = None

    @property
    def hears_beside(self) -> bool:
        """Whether the velocity network is also given the channel beside the one it hears."""
        return any(spec.name == BESIDE for spec in self.graphs[VELOCITY].inputs)


class NamedStemsManifest(BundleManifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network with a closed list of stems (family `NAMED_STEMS`).

    Its one graph, ``separator``, maps windows of a stereo mixture (batch, 2, samples) to stems
    (batch, stems, 2, samples). Windows are of one length, ``window_s``, which is whole frames.
    The stems are `sounds`, in the order of the graph's output.
    """

    @property
    def sha256(self) -> str:
        """Checksum over everything that determines the output, phrases of the stems included."""
        return _digest(replace(self, name="", licence="", provenance=""))


def _digest(manifest: BundleManifest) -> str:
    """Compute a checksum of a manifest that does not change when a later version adds a field."""
    numbers = msgspec.to_builtins(manifest)
    for name, before in (
        ("grid", "uniform"),
        ("qualities", {}),
        ("tuned", None),
        ("after", ""),
        ("attention", "plain"),
    ):
        if numbers[name] == before:
            del numbers[name]
    return hashlib.sha256(msgspec.json.encode(numbers, order="deterministic")).hexdigest()


FIXED: Final = "a number"
"""Stands for a size that must be a number, whichever it is."""

_LARGEST_N_FFT: Final = 1 << 17
_LARGEST_SIZE: Final = 1 << 24


def faults(manifest: Manifest | NamedStemsManifest) -> Iterator[str]:
    """Yield what is wrong with a manifest, each with the path of the field."""
    if isinstance(manifest, NamedStemsManifest):
        return _named_stems_faults(manifest)
    return _prompted_faults(manifest)


def _prompted_faults(manifest: Manifest) -> Iterator[str]:
    yield from _out_of_bounds(
        ("latent_channels", manifest.latent_channels, 1 << 16),
        ("prompt.max_tokens", manifest.prompt.max_tokens, 1 << 16),
        ("prompt.text_dim", manifest.prompt.text_dim, 1 << 16),
        ("codec.chunk_frames", manifest.codec.chunk_frames, 1 << 24),
    )
    yield from _common_faults(manifest)
    for context in (manifest.codec.encoder_context_frames, manifest.codec.decoder_context_frames):
        if not 0 <= context <= 1 << 20:
            yield f"$.codec has a context of {context} frames, expected 0 to {1 << 20}"
    if not abs(manifest.beside_guidance) <= 100:
        yield f"$.beside_guidance is {manifest.beside_guidance}, expected -100 to 100"
    if manifest.max_frames is not None and manifest.max_frames < 1:
        yield f"$.max_frames is {manifest.max_frames}, expected at least 1"
    elif manifest.max_frames and manifest.window_s * manifest.frame_rate_hz > manifest.max_frames:
        yield (
            f"$.window_s is {manifest.window_s}, but $.max_frames holds "
            f"{manifest.max_frames / manifest.frame_rate_hz:g} s"
        )
    if manifest.beside_guidance != 1 and not manifest.hears_beside:
        yield (
            f"$.beside_guidance is {manifest.beside_guidance}, but the velocity graph has no input "
            f"{BESIDE!r}"
        )
    wanted = {"tokenizer": manifest.tokenizer}
    if manifest.span_prediction is not None:
        wanted["span_prediction.tokenizer"] = manifest.span_prediction.tokenizer
    if JUDGE in manifest.graphs:
        wanted["graphs.judge's tokenizer"] = JUDGE_TOKENIZER
    if CLAP in manifest.graphs:
        wanted["graphs.clap's tokenizer"] = CLAP_TOKENIZER
    yield from _file_faults(manifest, wanted)
    yield from _role_faults(manifest)
    yield from _shape_faults(manifest)


def _named_stems_faults(manifest: NamedStemsManifest) -> Iterator[str]:
    """Yield what is wrong with the manifest of a network with a closed list of stems."""
    yield from _common_faults(manifest)
    yield from _file_faults(manifest, {})
    graph = manifest.graphs.get(SEPARATOR)
    if graph is None:
        yield f"$.graphs lacks the role {SEPARATOR!r}"
        return
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        yield f"$.graphs.{SEPARATOR} has {len(graph.inputs)} inputs, expected one, and one output"
        return
    samples = round(manifest.window_s * manifest.frame_rate_hz) * manifest.hop_length
    for field, spec, dims in (
        ("inputs", graph.inputs[0], (2, samples)),
        ("outputs", graph.outputs[0], (len(manifest.sounds), 2, samples)),
    ):
        if spec.dims[1:] != dims:
            yield f"$.graphs.{SEPARATOR}.{field} has the axes {spec.dims}, expected batch, {dims}"
    phrases = [phrase for sound in manifest.sounds for phrase in sound.phrases]
    if len(set(phrases)) < len(phrases) or any(not sound.phrases for sound in manifest.sounds):
        yield "$.sounds has a stem without a phrase, or a phrase that means two"


def _out_of_bounds(*fields: tuple[str, float, float]) -> Iterator[str]:
    """Yield fields that are not above 0, or above a bound that no real model reaches."""
    for field, value, most in fields:
        if not 0 < value <= most:  # rejects NaN as well
            yield f"$.{field} is {value}, expected a number above 0 and up to {most}"


def _tuned_faults(manifest: BundleManifest) -> Iterator[str]:
    tuned = manifest.tuned
    if tuned is None:
        if manifest.solver == "tuned":
            yield "$.solver is tuned, but there is no $.tuned"
        return
    times, weights = tuned.times, tuned.weights
    if not 0 < len(times) == len(weights):
        yield f"$.tuned has {len(times)} times and {len(weights)} rows of weights, expected as many"
    if any(not 0 <= time < 1 for time in times) or list(times) != sorted(set(times)):
        yield "$.tuned.times do not go forward from 0 to below 1"
    if any(not 0 < len(row) <= place for place, row in enumerate(weights, 1)):
        yield "$.tuned.weights has a row for no velocity, or for one not evaluated yet"
    if not all(abs(weight) <= 100 for row in weights for weight in row):
        yield "$.tuned.weights holds a number beyond -100 to 100"
    if manifest.solver == "tuned" and manifest.steps != len(times):
        yield f"$.steps is {manifest.steps}, but $.tuned makes {len(times)}"


def _common_faults(manifest: BundleManifest) -> Iterator[str]:
    if manifest.after:
        yield "$.after is set, which only a pair of bundles has"
    yield from _out_of_bounds(
        ("sample_rate", manifest.sample_rate, 1_000_000),
        ("hop_length", manifest.hop_length, 1 << 20),
        ("window_s", manifest.window_s, 3600),
        ("steps", manifest.steps, 1000),
        ("reconstruction.exponent", manifest.reconstruction.exponent, 16),
        ("reconstruction.band_hz", manifest.reconstruction.band_hz, 1_000_000),
    )
    yield from _tuned_faults(manifest)
    for name, level in manifest.qualities.items():
        for field, value, most in (
            ("steps", level.steps, 1000),
            ("candidates", level.candidates, 64),
            ("mask_exponent", level.mask_exponent, 16),
        ):
            if value is not None and not 0 < value <= most:
                yield f"$.qualities.{name}.{field} is {value}, expected above 0 to {most}"
    if manifest.input_rms_db is not None and not -200 <= manifest.input_rms_db <= 100:
        yield f"$.input_rms_db is {manifest.input_rms_db}, expected -200 to 100"
    for role, graph in manifest.graphs.items():
        for spec in (*graph.inputs, *graph.outputs):
            if any(isinstance(d, int) and not 0 < d <= _LARGEST_SIZE for d in spec.dims):
                yield (
                    f"$.graphs.{role}: {spec.name!r} has the dims {list(spec.dims)}, expected "
                    f"sizes from 1 to {_LARGEST_SIZE}"
                )
    if not 0 <= manifest.overlap_s < manifest.window_s:
        yield f"$.overlap_s is {manifest.overlap_s}, expected 0 up to below window_s"
    if manifest.level_s is not None and (
        not 0 < manifest.level_s <= 3600 or manifest.input_rms_db is None
    ):
        yield f"$.level_s is {manifest.level_s}, expected a number above 0 beside $.input_rms_db"
    n_fft, hop = manifest.reconstruction.n_fft, manifest.reconstruction.hop
    good = 64 <= n_fft <= _LARGEST_N_FFT and not n_fft & (n_fft - 1)
    if not good or hop < 1 or n_fft % hop or n_fft // hop < 2:
        yield (
            f"$.reconstruction has n_fft {n_fft} and hop {hop}, expected a power of two from 64 "
            f"to {_LARGEST_N_FFT} and a hop that divides it at least twice"
        )


def _role_faults(manifest: Manifest) -> Iterator[str]:
    if (manifest.span_prediction is None) != (SPAN_PREDICTOR not in manifest.graphs):
        yield "$.span_prediction and $.graphs.span_predictor do not come together"
    for role, (required, optional, output) in ROLES.items():
        if role not in manifest.graphs:
            if role not in OPTIONAL_ROLES:
                yield f"$.graphs lacks the role {role!r}"
            continue
        graph = manifest.graphs[role]
        inputs = {spec.name for spec in graph.inputs}
        if missing := sorted(required - inputs):
            yield f"$.graphs.{role}.inputs lacks {missing[0]!r}"
        if surplus := sorted(inputs - required - optional):
            yield f"$.graphs.{role}.inputs has {surplus[0]!r}, which the engine cannot feed"
        if output not in {spec.name for spec in graph.outputs}:
            yield f"$.graphs.{role}.outputs lacks {output!r}"


def _shape_faults(manifest: Manifest) -> Iterator[str]:
    for role, tensors in _shapes(manifest).items():
        if role not in manifest.graphs:
            continue
        graph = manifest.graphs[role]
        for spec in (*graph.inputs, *graph.outputs):
            path = f"$.graphs.{role}: {spec.name!r} has the dims {list(spec.dims)}"
            if (expected := tensors.get(spec.name)) is None:
                continue
            elif len(spec.dims) != len(expected):
                yield f"{path}, expected {len(expected)} of them"
            else:
                for size, wanted in zip(spec.dims, expected, strict=True):
                    if wanted == FIXED and not isinstance(size, int):
                        yield f"{path}, expected a number in place of {size!r}"
                    elif isinstance(wanted, int) and isinstance(size, int) and size != wanted:
                        yield f"{path}, expected {wanted} in place of {size}"


def _shapes(manifest: Manifest) -> dict[str, dict[str, tuple[int | str, ...]]]:
    """Return the sizes by role and tensor: a number, `FIXED` for any number, or a name."""
    latents = ("B", "T", manifest.latent_channels)
    state = ("B", "T", 2 * manifest.latent_channels)
    text = ("B", "S", manifest.prompt.text_dim)
    tokens, frames, wav = ("B", "S"), ("B", "T"), ("B", 1, "N")
    words_in = {"input_ids": tokens, "attention_mask": tokens}
    return {
        TEXT_ENCODER: {**words_in, "text": text},
        CODEC_ENCODER: {"wav": wav, "latents": latents},
        CODEC_DECODER: {"latents": latents, "message": ("B", FIXED), "wav": wav},
        VELOCITY: {
            "x": state,
            "t": ("B",),
            "latents": latents,
            "text": text,
            "text_mask": tokens,
            "spans": frames,
            "video": ("B", FIXED, "T"),
            BESIDE: latents,
            "velocity": state,
        },
        SPAN_PREDICTOR: {**words_in, "latents": latents, "logits": frames},
        JUDGE: {**words_in, "mixture": latents, "stem": latents, "scores": ("B", 4)},
        CLAP: {**words_in, "wav": ("B", FIXED), "similarity": ("B",)},
        VISION_ENCODER: {"frames": ("B", 3, FIXED, FIXED), "features": ("B", FIXED)},
    }


def _file_faults(manifest: BundleManifest, more: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the files; `more` holds other fields that name files."""
    for name, info in manifest.files.items():
        path = PurePosixPath(name)
        if (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in name
            or name in ("", "manifest.json")
        ):
            yield f"$.files has {name!r}, expected a relative path inside the bundle"
        if not 0 <= info.size_bytes <= 1 << 40:
            yield f"$.files[{name!r}].size_bytes is {info.size_bytes}, expected 0 to {1 << 40}"
        if not re.fullmatch(r"[0-9a-f]{64}", info.sha256):
            yield f"$.files[{name!r}].sha256 is not 64 lower-case hex digits"
    wanted = {f"graphs.{role}.file": graph.file for role, graph in manifest.graphs.items()} | more
    for field, name in wanted.items():
        if name not in manifest.files:
            yield f"$.{field} is {name!r}, which $.files does not list"


#: What the qualities of a SAM Audio model mean. The best is what Meta published it with; good, the
#: default, has no more error with 12 evaluations than that with 32, and with seeded weights a draft
#: with 4 has less than that with 8 (`tests/benchmark/RESULTS.md`).
SAM_AUDIO_QUALITY: Final[dict[Quality, Level]] = {
    "draft": Level(solver="cubic", steps=4, grid="cosine"),
    "good": Level(solver="unipc", steps=12, grid="uniform"),
    "best": Level(solver="midpoint", steps=16, grid="uniform"),
}


def resolve(settings: Settings, manifest: BundleManifest) -> ResolvedSettings:
    """Fill in the model's defaults where nothing was set.

    A setting that may be None takes what the manifest says of the quality that is asked for, else
    the manifest's field of the same name, if there is one. The quality itself is resolved by
    that: what comes back has none.

    Raises
    ------
    InputError
        If the overlap does not fit the window, or the bundle has no tuned solver.
    """
    values: dict[str, Any] = asdict(settings)
    if settings.quality is not None:
        values["quality"] = None
        levels = default_qualities(manifest)
        for name, chosen in asdict(levels.get(settings.quality, Level())).items():
            if values[name] is None or (name == "candidates" and settings.candidates == 1):
                values[name] = chosen or values[name]
    if settings.overlap_s is None and settings.window_s is not None:
        values["overlap_s"] = manifest.overlap_s * (settings.window_s / manifest.window_s)
    if values["solver"] == "tuned":
        values["steps"] = _tuned_steps(values["steps"], manifest)
    if values["mask_exponent"] is None:
        values["mask_exponent"] = manifest.reconstruction.exponent
    for name, value in values.items():
        if value is None:
            values[name] = getattr(manifest, name, None)
    resolved = ResolvedSettings(**values)
    if resolved.overlap_s >= resolved.window_s:
        raise InputError(
            f"overlap of {resolved.overlap_s:g} s does not fit a window of "
            f"{resolved.window_s:g} s; give an overlap shorter than the window"
        )
    return resolved


def default_qualities(manifest: BundleManifest) -> dict[Quality, Level]:
    """Return what the qualities mean, also of a SAM Audio exported before bundles had them."""
    if not manifest.qualities and (manifest.solver, manifest.steps) == ("midpoint", 16):
        return SAM_AUDIO_QUALITY
    return manifest.qualities


def _tuned_steps(steps: int | None, manifest: BundleManifest) -> int:
    if manifest.tuned is None:
        raise InputError(
            f"the model {manifest.name!r} has no tuned solver; make one with `stembridge models "
            "tune`, or choose another"
        )
    made = len(manifest.tuned.times)
    if steps not in (None, made):
        raise InputError(
            f"steps is {steps}, but the tuned solver of the model {manifest.name!r} makes {made}; "
            "leave steps out"
        )
    return made
