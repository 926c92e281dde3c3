"""What a bundle is made of: from models to blueprints, and one specification per graph.

A `Graph` names a role's inputs, outputs, dynamic axes and tolerance next to the PyTorch module
that it stands for. The exporter traces the module with inputs sampled from the specification, the
verifier compares both with inputs of other sizes sampled from the same, and the manifest records
it for the engine. A `Blueprint` says which graphs a model becomes, and the numbers of its manifest.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from bridge.bundles.manifest import (
    BESIDE,
    CLAP_TOKENIZER,
    FORMAT,
    JUDGE_TOKENIZER,
    SAM_AUDIO_QUALITY,
    CodecInfo,
    FileInfo,
    GraphSpec,
    Level,
    Manifest,
    PromptLimits,
    Reconstruction,
    Sound,
    SpanPrediction,
    TensorSpec,
)
from bridge.errors import ModelError
from onnx_export.networks.dacvae import MESSAGE_BITS, CodecConfig
from onnx_export.networks.judge import Judge
from onnx_export.networks.lapped import LappedCodec
from onnx_export.networks.mini import MiniModel
from onnx_export.networks.phrases import Clap, SpanPredictor, TextEncoder
from onnx_export.networks.sam_audio import SamAudio
from onnx_export.networks.vision_encoder import VisionEncoder

BATCH, FRAMES, TOKENS, SAMPLES = "batch", "frames", "tokens", "samples"

#: Names of inputs whose values aren't standard normal numbers: times, bits, waveforms.
_UNIFORM = ("t",)
_BITS = ("message",)
_WAVEFORMS = ("wav",)
_WAVEFORM_LEVEL = 0.1


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle and the module it is exported from.

    Attributes
    ----------
    role : str
        A key of the manifest's ``graphs``.
    module : nn.Module
        Takes the inputs in order and returns the output.
    weights : mapping of str to callable, or None
        If `module` is on the meta device, what reads each of its parameters, so that no more than
        one of them need be in memory. None: `module` holds its own.
    inputs, outputs : tuple of TensorSpec
        A dimension that is a name is dynamic; the same name is the same size everywhere, and
        ``samples`` is ``frames`` times `hop_length`.
    tolerance : float
        Largest absolute difference from the module that the check accepts, in fp32.
    hop_length : int
        Samples per latent frame.
    integer_limits : dict of str to int
        For each integer input, how many values it has, from 0.
    """

    role: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: float = 1e-4
    hop_length: int = 1
    integer_limits: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, Callable[[], Tensor]] | None = None

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and values of the module's state, each read as it comes."""
        if self.weights is None:
            yield from self.module.state_dict().items()
        else:
            yield from ((name, read()) for name, read in self.weights.items())

    def loaded(self) -> nn.Module:
        """Return the module with its weights."""
        if self.weights is None:
            return self.module
        module = copy.deepcopy(self.module)
        module.load_state_dict(dict(self.state()), assign=True)
        return module

    @property
    def file(self) -> str:
        """File name of the graph in a bundle."""
        return f"{self.role}.onnx"

    def spec(self, tolerance: float) -> GraphSpec:
        """Describe the graph for the manifest."""
        return GraphSpec(
            file=self.file, inputs=self.inputs, outputs=self.outputs, tolerance=tolerance
        )

    def axes(self) -> tuple[str, ...]:
        """Names of the dynamic axes, ``samples`` counted as ``frames``."""
        names = [d for spec in self.inputs for d in spec.dims if isinstance(d, str)]
        return tuple(dict.fromkeys(FRAMES if name == SAMPLES else name for name in names))

    def sample(self, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
        """Draw inputs of the given sizes, the same for the same seed.

        Parameters
        ----------
        sizes : mapping of str to int
            Size of each of `axes`.
        seed : int
        """
        generator = torch.Generator().manual_seed(seed)
        sizes = {**sizes, SAMPLES: sizes.get(FRAMES, 0) * self.hop_length}

        def draw(spec: TensorSpec) -> Tensor:
            shape = [sizes[d] if isinstance(d, str) else d for d in spec.dims]
            if spec.dtype == "int64":
                return torch.randint(self.integer_limits[spec.name], shape, generator=generator)
            if spec.dtype == "bool":  # padding on the right, never of everything
                ends = torch.randint(1, shape[1] + 1, (shape[0], 1), generator=generator)
                ends[0] = shape[1]
                return torch.arange(shape[1]) < ends
            if spec.name in _UNIFORM:
                return torch.rand(shape, generator=generator)
            if spec.name in _BITS:
                return torch.randint(2, shape, generator=generator).float()
            normal = torch.randn(shape, generator=generator)
            return _WAVEFORM_LEVEL * normal if spec.name in _WAVEFORMS else normal

        return tuple(draw(spec) for spec in self.inputs)


@dataclass(frozen=True)
class Blueprint:
    """Everything that an export writes.

    Attributes
    ----------
    draft : Manifest
        The manifest, but for the graphs and files, which are known when they are written.
    graphs : tuple of Graph
    files : mapping of str to Path
        What is copied into the bundle, such as tokenizers: name there, and where it is now.
    config : mapping
        Written as ``config.json``: enough to build the modules again, without the weights.
    weights : {"checkpoint", "bundle"}
        Whether the modules hold the weights of a checkpoint or those of a bundle, perhaps rounded.
    """

    draft: Manifest
    graphs: tuple[Graph, ...]
    files: Mapping[str, Path]
    config: Mapping[str, Any]
    weights: Literal["checkpoint", "bundle"] = "checkpoint"

    def manifest(
        self, files: dict[str, FileInfo], precision: str, tolerances: Mapping[str, float]
    ) -> Manifest:
        """Complete the manifest with what was written."""
        graphs = {graph.role: graph.spec(tolerances[graph.role]) for graph in self.graphs}
        return msgspec.structs.replace(self.draft, graphs=graphs, files=files, precision=precision)

    def extended(
        self, graph: Graph, sizes: Any, files: Mapping[str, Path] | None = None, **entries: Any
    ) -> Blueprint:
        """Return the blueprint with one graph more.

        Parameters
        ----------
        graph : Graph
        sizes : object
            What ``config.json`` says of it, under its role.
        files : mapping of str to Path, optional
            What it brings.
        **entries
            Fields of the manifest that come with it.
        """
        return replace(
            self,
            draft=msgspec.structs.replace(self.draft, **entries),
            graphs=(*self.graphs, graph),
            files={**self.files, **(files or {})},
            config={**self.config, graph.role: sizes},
        )


def text_graph(module: nn.Module, text_dim: int, vocab_size: int) -> Graph:
    """Specify the text encoder: token ids and mask to features."""
    return Graph(
        "text_encoder",
        module,
        (
            TensorSpec("input_ids", "int64", (BATCH, TOKENS)),
            TensorSpec("attention_mask", "bool", (BATCH, TOKENS)),
        ),
        (TensorSpec("text", "float32", (BATCH, TOKENS, text_dim)),),
        integer_limits={"input_ids": vocab_size},
    )


def encoder_graph(module: nn.Module, channels: int, hop_length: int) -> Graph:
    """Specify the codec's encoder: waveform of whole frames to latents."""
    return Graph(
        "codec_encoder",
        module,
        (TensorSpec("wav", "float32", (BATCH, 1, SAMPLES)),),
        (TensorSpec("latents", "float32", (BATCH, FRAMES, channels)),),
        hop_length=hop_length,
    )


def decoder_graph(module: nn.Module, channels: int, hop_length: int, message_bits: int) -> Graph:
    """Specify the codec's decoder: latents, and the bits of a watermark if any, to waveform."""
    latents = TensorSpec("latents", "float32", (BATCH, FRAMES, channels))
    message = (TensorSpec("message", "float32", (BATCH, message_bits)),) if message_bits else ()
    return Graph(
        "codec_decoder",
        module,
        (latents, *message),
        (TensorSpec("wav", "float32", (BATCH, 1, SAMPLES)),),
        hop_length=hop_length,
    )


def velocity_graph(
    module: nn.Module, channels: int, text_dim: int, video_dim: int, *, stereo: bool = False
) -> Graph:
    """Specify the velocity network; without video if `video_dim` is 0.

    If it is `stereo`, it is told of the channel beside the one that it hears.
    """
    latents = ("float32", (BATCH, FRAMES, channels))
    beside = (TensorSpec(BESIDE, *latents),) if stereo else ()
    video = (TensorSpec("video", "float32", (BATCH, video_dim, FRAMES)),) if video_dim else ()
    return Graph(
        "velocity",
        module,
        (
            TensorSpec("x", "float32", (BATCH, FRAMES, 2 * channels)),
            TensorSpec("t", "float32", (BATCH,)),
            TensorSpec("latents", *latents),
            TensorSpec("text", "float32", (BATCH, TOKENS, text_dim)),
            TensorSpec("text_mask", "bool", (BATCH, TOKENS)),
            TensorSpec("spans", "int64", (BATCH, FRAMES)),
            *beside,
            *video,
        ),
        (TensorSpec("velocity", "float32", (BATCH, FRAMES, 2 * channels)),),
        integer_limits={"spans": 3},
    )


def span_graph(module: nn.Module, channels: int, vocab_size: int) -> Graph:
    """Specify the span predictor: mixture latents and a text to a logit per frame."""
    return Graph(
        "span_predictor",
        module,
        (
            TensorSpec("latents", "float32", (BATCH, FRAMES, channels)),
            TensorSpec("input_ids", "int64", (BATCH, TOKENS)),
            TensorSpec("attention_mask", "bool", (BATCH, TOKENS)),
        ),
        (TensorSpec("logits", "float32", (BATCH, FRAMES)),),
        integer_limits={"input_ids": vocab_size},
    )


def judge_graph(module: nn.Module, channels: int, vocab_size: int) -> Graph:
    """Specify the judge: latents of mixture and stem, and a text, to four scores."""
    return Graph(
        "judge",
        module,
        (
            TensorSpec("mixture", "float32", (BATCH, FRAMES, channels)),
            TensorSpec("stem", "float32", (BATCH, FRAMES, channels)),
            TensorSpec("input_ids", "int64", (BATCH, TOKENS)),
            TensorSpec("attention_mask", "bool", (BATCH, TOKENS)),
        ),
        (TensorSpec("scores", "float32", (BATCH, 4)),),
        integer_limits={"input_ids": vocab_size},
    )


def clap_graph(module: nn.Module, samples: int, vocab_size: int) -> Graph:
    """Specify CLAP: waveforms of a fixed length, and a text each, to their similarity."""
    return Graph(
        "clap",
        module,
        (
            TensorSpec("wav", "float32", (BATCH, samples)),
            TensorSpec("input_ids", "int64", (BATCH, TOKENS)),
            TensorSpec("attention_mask", "bool", (BATCH, TOKENS)),
        ),
        (TensorSpec("similarity", "float32", (BATCH,)),),
        integer_limits={"input_ids": vocab_size},
    )


def vision_graph(module: nn.Module, image_size: int, dim: int) -> Graph:
    """Specify the vision encoder: video frames to a feature vector each."""
    return Graph(
        "vision_encoder",
        module,
        (TensorSpec("frames", "float32", (BATCH, 3, image_size, image_size)),),
        (TensorSpec("features", "float32", (BATCH, dim)),),
    )


#: Dilations of a residual unit's convolutions of width 7: how far three units look to each side.
_UNITS_REACH = 3 * (1 + 3 + 9)
#: The watermark's LSTM remembers without end. With the reference weights, starting it this many
#: frames (48 of its steps) early leaves a difference of 5e-6 in the waveform; 6 frames leave 5e-5.
_WATERMARK_MEMORY_FRAMES = 8
#: Official clips are up to about 10 s long; longer windows degrade.
_WINDOW_S, _OVERLAP_S = 10.0, 2.5
_STEPS = 12  # as in `SAM_AUDIO_QUALITY`'s "good"
#: Decoding a chunk of this length takes 0.45 GB beside the weights; 4 s would take 0.7 GB.
_CHUNK_S = 2.8
#: The level of training mixtures, see `onnx_export.training.mixing.MIXTURE_RMS`.
_MINI_RMS_DB = -20.0
#: Of 2, 4 and 6.4 s and the whole clip, where a passage 26 dB softer loses least (NOTEBOOK.md).
_MINI_LEVEL_S = 2.0
#: Of 1, 1.25, 1.5 and 2 the best compromise on the development singers and the tuning set
#: (NOTEBOOK.md): a harder mask helps the good cases and their accompaniment, and costs the worst.
_MINI_EXPONENT = 1.5
#: Nearer to the crops of training (4.35 s) than 8 s: songs gain a little for the same cost.
_MINI_WINDOW_S = 6.4
#: What the network says when it is told of both channels, and no more: half way to what it says of
#: one alone gained less on real singers and costs a second run (NOTEBOOK.md).
_MINI_BESIDE_GUIDANCE = 1.0
#: The official threshold on a frame's probability.
_SPAN_THRESHOLD = 0.3
_SPAN_TOKENIZER = "span_tokenizer.json"


class Encode(nn.Module):
    """The lapped codec's encoder as a module of its own."""

    def __init__(self, codec: LappedCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, wav: Tensor) -> Tensor:
        """Map a waveform (B, 1, T * hop) to latents (B, T, C)."""
        return self.codec.encode(wav)


class Decode(nn.Module):
    """The lapped codec's decoder as a module of its own."""

    def __init__(self, codec: LappedCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (B, T, C) to a waveform (B, 1, T * hop)."""
        return self.codec.decode(latents)


@dataclass(frozen=True)
class Provenance:
    """Words for a manifest.

    Attributes
    ----------
    name, licence, source : str
        The bundle's name, the weights' licence, and where they come from.
    sounds : tuple of Sound
        What the model was trained on; none for one that takes any words.
    """

    name: str
    licence: str
    source: str
    sounds: tuple[Sound, ...] = ()


def sam_audio_blueprint(
    model: SamAudio,
    text_encoder: TextEncoder,
    tokenizer: Path,
    provenance: Provenance,
    weights: Mapping[str, Callable[[], Tensor]] | None = None,
) -> Blueprint:
    """Describe the bundle of a SAM Audio model.

    Parameters
    ----------
    model : SamAudio
    text_encoder : TextEncoder
        Its width must be what the model expects.
    tokenizer : Path
        The text encoder's ``tokenizer.json``.
    provenance : Provenance
    weights : mapping of str to callable, optional
        Of a model on the meta device, see `Graph`; None if it has its own.
    """

    def part(graph: Graph, prefix: str) -> Graph:
        if weights is None:
            return graph
        own = {n.removeprefix(prefix): read for n, read in weights.items() if n.startswith(prefix)}
        return replace(graph, weights=own)

    config = model.config
    channels, hop = config.channels, config.codec.hop_length
    frame_rate = config.codec.sample_rate / hop
    return Blueprint(
        draft=Manifest(
            format=FORMAT,
            family="sam-audio",
            name=provenance.name,
            sample_rate=config.codec.sample_rate,
            hop_length=hop,
            latent_channels=channels,
            window_s=_WINDOW_S,
            overlap_s=_OVERLAP_S,
            solver="unipc",
            steps=_STEPS,
            qualities=SAM_AUDIO_QUALITY,
            reconstruct="wiener",
            reconstruction=Reconstruction(
                exponent=2.0, n_fft=2048, hop=512, band_hz=0.45 * config.codec.sample_rate
            ),
            listen="mean",  # a network of this size is too slow to run once per channel unasked
            prompt=PromptLimits(max_tokens=config.max_tokens, text_dim=config.text_dim),
            codec=CodecInfo(
                encoder_context_frames=encoder_reach_frames(config.codec),
                decoder_context_frames=decoder_reach_frames(config.codec)
                + _WATERMARK_MEMORY_FRAMES,
                chunk_frames=round(_CHUNK_S * frame_rate),
            ),
            licence=provenance.licence,
            provenance=provenance.source,
            max_frames=config.transformer.max_positions,
            tokenizer=tokenizer.name,
            graphs={},
            files={},
            precision="",
        ),
        config={"kind": "sam-audio", "model": config.raw, "t5": _t5_config(text_encoder)},
        graphs=(
            text_graph(text_encoder, config.text_dim, text_encoder.vocab_size),
            part(encoder_graph(model.codec.encoder, channels, hop), "codec.encoder."),
            part(decoder_graph(model.codec.decoder, channels, hop, MESSAGE_BITS), "codec.decoder."),
            part(
                velocity_graph(model.velocity_network, channels, config.text_dim, config.video_dim),
                "velocity_network.",
            ),
        ),
        files={tokenizer.name: tokenizer},
    )


def with_span_predictor(
    blueprint: Blueprint, predictor: SpanPredictor, tokenizer: Path
) -> Blueprint:
    """Add PE-A-Frame to a blueprint.

    Parameters
    ----------
    blueprint : Blueprint
    predictor : SpanPredictor
    tokenizer : Path
        Its own ``tokenizer.json``.

    Raises
    ------
    ModelError
        If it takes other latents than the model has.
    """
    _check_channels("a span predictor", predictor.channels, blueprint)
    graph = span_graph(predictor, predictor.channels, predictor.vocab_size)
    prediction = SpanPrediction(
        tokenizer=_SPAN_TOKENIZER, max_tokens=predictor.max_tokens, threshold=_SPAN_THRESHOLD
    )
    return blueprint.extended(
        graph, predictor.config, {_SPAN_TOKENIZER: tokenizer}, span_prediction=prediction
    )


def with_judge(blueprint: Blueprint, judge: Judge, tokenizer: Path) -> Blueprint:
    """Add the judge to a blueprint.

    Parameters
    ----------
    blueprint : Blueprint
    judge : Judge
    tokenizer : Path
        Its own ``tokenizer.json``.

    Raises
    ------
    ModelError
        If it takes other latents than the model has.
    """
    _check_channels("a judge", judge.channels, blueprint)
    graph = judge_graph(judge, judge.channels, judge.vocab_size)
    return blueprint.extended(graph, judge.config, {JUDGE_TOKENIZER: tokenizer})


def with_clap(blueprint: Blueprint, clap: Clap, tokenizer: Path) -> Blueprint:
    """Add CLAP to a blueprint.

    Parameters
    ----------
    blueprint : Blueprint
    clap : Clap
    tokenizer : Path
        Its own ``tokenizer.json``.
    """
    graph = clap_graph(clap, clap.mel.samples, clap.vocab_size)
    return blueprint.extended(graph, clap.config, {CLAP_TOKENIZER: tokenizer})


def _check_channels(what: str, channels: int, blueprint: Blueprint) -> None:
    if channels != blueprint.draft.latent_channels:
        raise ModelError(
            f"{what} for {channels} latent channels, but the model has "
            f"{blueprint.draft.latent_channels}; give the one its configuration names"
        )


def with_vision(blueprint: Blueprint, encoder: VisionEncoder) -> Blueprint:
    """Add the vision encoder to a blueprint.

    Raises
    ------
    ModelError
        If its features are not as wide as the velocity network's ``video``.
    """
    sizes = encoder.config
    wide = [
        spec.dims[1]
        for graph in blueprint.graphs
        for spec in graph.inputs
        if graph.role == "velocity" and spec.name == "video"
    ]
    if wide != [sizes.dim]:
        raise ModelError(
            f"a vision encoder of width {sizes.dim}, but the model takes {wide[0] if wide else 0}"
        )
    graph = vision_graph(encoder, sizes.image_size, sizes.dim)
    return blueprint.extended(graph, asdict(sizes))


def mini_blueprint(model: MiniModel, tokenizer: Path, provenance: Provenance) -> Blueprint:
    """Describe the bundle of a model like the bundled one.

    Parameters
    ----------
    model : MiniModel
    tokenizer : Path
        ``tokenizer.json``.
    provenance : Provenance
    """
    config = model.config
    text_encoder = TextEncoder(model.text_encoder)
    channels, hop = config.latent_channels, config.hop_length
    nyquist_hz = config.sample_rate / 2
    return Blueprint(
        draft=Manifest(
            format=FORMAT,
            family="sam-audio",
            name=provenance.name,
            sample_rate=config.sample_rate,
            hop_length=hop,
            latent_channels=channels,
            window_s=_MINI_WINDOW_S,
            overlap_s=_MINI_WINDOW_S / 4,
            solver="euler",
            steps=1,
            reconstruct="wiener",
            reconstruction=Reconstruction(
                exponent=_MINI_EXPONENT, n_fft=2048, hop=512, band_hz=nyquist_hz * channels / hop
            ),
            listen="channels",
            qualities={"draft": Level(listen="mean")},  # the flow is one step at any quality
            spans_complete=True,
            beside_guidance=_MINI_BESIDE_GUIDANCE if config.stereo else 1.0,
            input_rms_db=_MINI_RMS_DB,
            level_s=_MINI_LEVEL_S,
            sounds=provenance.sounds,
            prompt=PromptLimits(max_tokens=config.text.max_tokens, text_dim=config.text.dim),
            codec=CodecInfo(encoder_context_frames=1, decoder_context_frames=1, chunk_frames=2048),
            licence=provenance.licence,
            provenance=provenance.source,
            tokenizer=tokenizer.name,
            graphs={},
            files={},
            precision="",
        ),
        config={"kind": "mini", "model": asdict(config), "t5": _t5_config(text_encoder)},
        graphs=(
            text_graph(text_encoder, config.text.dim, config.text.vocab_size),
            encoder_graph(Encode(model.codec), channels, hop),
            decoder_graph(Decode(model.codec), channels, hop, 0),
            velocity_graph(model.velocity, channels, config.text.dim, 0, stereo=config.stereo),
        ),
        files={tokenizer.name: tokenizer},
    )


def encoder_reach_frames(config: CodecConfig) -> int:
    """How many latent frames to each side the encoder looks."""
    reach, step = 3, 1  # samples, and samples per position
    for rate in config.encoder_rates:
        reach += (_UNITS_REACH + math.ceil(rate / 2)) * step
        step *= rate
    return math.ceil(reach / step) + 1  # the last convolution is three frames wide


def decoder_reach_frames(config: CodecConfig) -> int:
    """How many latent frames to each side the decoder looks, its watermark aside."""
    step = config.hop_length
    reach = 3 * step
    for rate in config.decoder_rates:
        reach += step
        step //= rate
        reach += _UNITS_REACH * step
    return math.ceil((reach + 3) / config.hop_length)


def _t5_config(text_encoder: TextEncoder) -> dict[str, Any]:
    config: dict[str, Any] = text_encoder.t5.config.to_diff_dict()
    return config
