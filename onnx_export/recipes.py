"""From models to blueprints: which graphs a model becomes, and the numbers of its manifest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bridge.bundles.manifest import CodecInfo, PromptLimits, Reconstruction, SpanPrediction
from bridge.errors import ModelError
from onnx_export.dacvae import CodecConfig
from onnx_export.graphs import (
    Blueprint,
    decoder_graph,
    encoder_graph,
    judge_graph,
    span_graph,
    text_graph,
    velocity_graph,
    vision_graph,
)
from onnx_export.judge import Judge
from onnx_export.lapped import LappedCodec
from onnx_export.mini import MiniModel
from onnx_export.sam_audio import SamAudio
from onnx_export.span_predictor import SpanPredictor
from onnx_export.text_encoder import TextEncoder
from onnx_export.vision_encoder import VisionEncoder
from onnx_export.watermark import MESSAGE_BITS

#: Dilations of a residual unit's convolutions of width 7: how far three units look to each side.
_UNITS_REACH = 3 * (1 + 3 + 9)
#: The watermark's LSTM remembers without end. With the reference weights, starting it this many
#: frames (48 of its steps) early leaves a difference of 5e-6 in the waveform; 6 frames leave 5e-5.
_WATERMARK_MEMORY_FRAMES = 8
#: Official clips are up to about 10 s long; longer windows degrade.
_WINDOW_S, _OVERLAP_S = 10.0, 2.5
_STEPS = 16
#: Decoding a chunk of this length takes 0.45 GB beside the weights; 4 s would take 0.7 GB.
_CHUNK_S = 2.8
#: The level of training mixtures, see `onnx_export.training.mixing.MIXTURE_RMS`.
_MINI_RMS_DB = -20.0
#: Best mean and worst case of 1, 1.5 and 2 on 16 of the test mixtures (MINI.md): while the model is
#: uncertain, a softer mask loses less.
_MINI_EXPONENT = 1.0
#: Nearer to the crops of training (4.35 s) than 8 s: songs gain a little for the same cost.
_MINI_WINDOW_S = 6.4
#: Told of both channels the model takes a place whole, be it the wrong one; alone it takes a little
#: of each. Half way between is better than either (MINI.md).
_MINI_BESIDE_GUIDANCE = 0.5
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
    """Words for a manifest: the bundle's name, the weights' licence, and where they come from."""

    name: str
    licence: str
    source: str


def sam_audio_blueprint(
    model: SamAudio, text_encoder: TextEncoder, tokenizer: Path, provenance: Provenance
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
    """
    config = model.config
    channels, hop = config.channels, config.codec.hop_length
    frame_rate = config.codec.sample_rate / hop
    return Blueprint(
        name=provenance.name,
        sample_rate=config.codec.sample_rate,
        hop_length=hop,
        latent_channels=channels,
        window_s=_WINDOW_S,
        overlap_s=_OVERLAP_S,
        solver="midpoint",
        steps=_STEPS,
        reconstruct="wiener",
        reconstruction=Reconstruction(
            exponent=2.0, n_fft=2048, hop=512, band_hz=0.45 * config.codec.sample_rate
        ),
        listen="mean",  # a network of this size costs too much to run it once per channel unasked
        prompt=PromptLimits(max_tokens=config.max_tokens, text_dim=config.text_dim),
        codec=CodecInfo(
            encoder_context_frames=encoder_reach_frames(config.codec),
            decoder_context_frames=decoder_reach_frames(config.codec) + _WATERMARK_MEMORY_FRAMES,
            chunk_frames=round(_CHUNK_S * frame_rate),
        ),
        licence=provenance.licence,
        provenance=provenance.source,
        tokenizer=tokenizer,
        config={"kind": "sam-audio", "model": config.raw, "t5": _t5_config(text_encoder)},
        graphs=(
            text_graph(text_encoder, config.text_dim, text_encoder.vocab_size),
            encoder_graph(model.codec.encoder, channels, hop),
            decoder_graph(model.codec.decoder, channels, hop, MESSAGE_BITS),
            velocity_graph(model.velocity_network, channels, config.text_dim, config.video_dim),
        ),
        max_frames=config.transformer.max_positions,
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
    return replace(
        blueprint,
        graphs=(*blueprint.graphs, graph),
        span_prediction=SpanPrediction(
            tokenizer=_SPAN_TOKENIZER, max_tokens=predictor.max_tokens, threshold=_SPAN_THRESHOLD
        ),
        span_tokenizer=tokenizer,
        config={**blueprint.config, "span_predictor": predictor.config},
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
    return replace(
        blueprint,
        graphs=(*blueprint.graphs, graph),
        judge_tokenizer=tokenizer,
        config={**blueprint.config, "judge": judge.config},
    )


def _check_channels(what: str, channels: int, blueprint: Blueprint) -> None:
    if channels != blueprint.latent_channels:
        raise ModelError(
            f"{what} for {channels} latent channels, but the model has "
            f"{blueprint.latent_channels}; give the one its configuration names"
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
    return replace(
        blueprint,
        graphs=(*blueprint.graphs, vision_graph(encoder, sizes.image_size, sizes.dim)),
        config={**blueprint.config, "vision_encoder": asdict(sizes)},
    )


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
        spans_complete=True,
        beside_guidance=_MINI_BESIDE_GUIDANCE if config.stereo else 1.0,
        input_rms_db=_MINI_RMS_DB,
        prompt=PromptLimits(max_tokens=config.text.max_tokens, text_dim=config.text.dim),
        codec=CodecInfo(encoder_context_frames=1, decoder_context_frames=1, chunk_frames=2048),
        licence=provenance.licence,
        provenance=provenance.source,
        tokenizer=tokenizer,
        config={"kind": "mini", "model": asdict(config), "t5": _t5_config(text_encoder)},
        graphs=(
            text_graph(text_encoder, config.text.dim, config.text.vocab_size),
            encoder_graph(Encode(model.codec), channels, hop),
            decoder_graph(Decode(model.codec), channels, hop, 0),
            velocity_graph(model.velocity, channels, config.text.dim, 0, stereo=config.stereo),
        ),
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
