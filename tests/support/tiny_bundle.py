"""A model bundle small enough to reason about: every network in it is a formula.

The codec cuts the waveform into frames, so it loses nothing. The velocity leads every state
straight to ``target = share * mixture`` and ``residual = mixture - target``, where the share is
written in the prompt ("everything", "half", "nothing") and overruled by spans. Any solver with any
number of steps therefore lands on the answer exactly, and what is wrong afterwards is the
engine's doing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from bridge.bundles.bundle import describe_file, write_manifest
from bridge.bundles.manifest import (
    BESIDE,
    CLAP,
    CLAP_TOKENIZER,
    CODEC_DECODER,
    CODEC_ENCODER,
    FORMAT,
    JUDGE,
    JUDGE_TOKENIZER,
    TEXT_ENCODER,
    VELOCITY,
    VISION_ENCODER,
    CodecInfo,
    GraphSpec,
    Manifest,
    PromptLimits,
    Reconstruction,
    Sound,
    TensorSpec,
)

SAMPLE_RATE = 16_000
HOP = 64
MESSAGE_BITS = 16
VIDEO_DIM = 8
IMAGE_SIZE = 4
CLAP_SAMPLES = 48_000
SHARES = {"[UNK]": 0.25, "everything": 1.0, "half": 0.5, "nothing": 0.0}

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


@dataclass(frozen=True)
class Tiny:
    """What may differ between bundles."""

    blurred: bool = False  # a codec that looks at a frame of context on either side
    message: bool = False  # a decoder that adds its message's mean to the waveform
    video: bool = False  # video features raise the share by their mean; frames are theirs
    stereo: bool = False  # the target is that share of the channel beside the one that is heard
    beside_guidance: float = 1.0
    still: bool = False  # a velocity of zero: what comes out is the noise that went in
    judge: bool = False  # scores a stem by the mean of its latents, whatever was said
    clap: bool = False  # finds a stem the more alike to any text the softer it is
    chunk_frames: int = 400
    input_rms_db: float | None = -20.0
    level_s: float | None = None
    sounds: tuple[Sound, ...] = ()
    max_frames: int | None = None


def build(directory: Path, options: Tiny | None = None) -> Path:
    """Write a bundle into a new directory and return it."""
    options = options or Tiny()
    directory.mkdir(parents=True)
    graphs = {
        TEXT_ENCODER: _text_encoder(directory),
        CODEC_ENCODER: _codec_encoder(directory, options),
        CODEC_DECODER: _codec_decoder(directory, options),
        VELOCITY: _velocity(directory, options),
    }
    if options.judge:
        graphs[JUDGE] = _judge(directory)
    if options.clap:
        graphs[CLAP] = _clap(directory)
    if options.video:
        graphs[VISION_ENCODER] = _vision_encoder(directory)
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(SHARES)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    names = [*(graph.file for graph in graphs.values()), "tokenizer.json"]
    if options.judge:
        tokenizer.save(str(directory / JUDGE_TOKENIZER))
        names.append(JUDGE_TOKENIZER)
    if options.clap:
        tokenizer.save(str(directory / CLAP_TOKENIZER))
        names.append(CLAP_TOKENIZER)
    context = 1 if options.blurred else 0
    manifest = Manifest(
        format=FORMAT,
        name=directory.name,
        family="sam-audio",
        sample_rate=SAMPLE_RATE,
        hop_length=HOP,
        latent_channels=HOP,
        window_s=1.0,
        overlap_s=0.25,
        solver="euler",
        steps=2,
        reconstruct="mask",
        reconstruction=Reconstruction(exponent=1.0, n_fft=2048, hop=512, band_hz=7000.0),
        prompt=PromptLimits(max_tokens=6, text_dim=1),
        beside_guidance=options.beside_guidance,
        input_rms_db=options.input_rms_db,
        level_s=options.level_s,
        sounds=options.sounds,
        max_frames=options.max_frames,
        codec=CodecInfo(context, context, options.chunk_frames),
        graphs=graphs,
        tokenizer="tokenizer.json",
        files={name: describe_file(directory / name) for name in names},
        precision="fp32",
        licence="GPL-3.0-or-later",
        provenance="formulas for tests",
    )
    write_manifest(manifest, directory)
    return directory


def _text_encoder(directory: Path) -> GraphSpec:
    table = np.array(list(SHARES.values()), np.float32)[:, np.newaxis]
    return _save(
        directory,
        TEXT_ENCODER,
        inputs=[("input_ids", "int64", ("B", "S")), ("attention_mask", "bool", ("B", "S"))],
        outputs=[("text", "float32", ("B", "S", 1))],
        nodes=[helper.make_node("Gather", ["table", "input_ids"], ["text"])],
        constants={"table": table},
    )


def _codec_encoder(directory: Path, options: Tiny) -> GraphSpec:
    blur, source = _blur("wav") if options.blurred else ([], "wav")
    return _save(
        directory,
        CODEC_ENCODER,
        inputs=[("wav", "float32", ("B", 1, "N"))],
        outputs=[("latents", "float32", ("B", "T", HOP))],
        nodes=[*blur, helper.make_node("Reshape", [source, "shape"], ["latents"])],
        constants={"shape": np.array([0, -1, HOP]), **_blur_kernel(options)},
    )


def _codec_decoder(directory: Path, options: Tiny) -> GraphSpec:
    inputs = [("latents", "float32", ("B", "T", HOP))]
    nodes = [helper.make_node("Reshape", ["latents", "shape"], ["plain"])]
    blur, source = _blur("plain") if options.blurred else ([], "plain")
    nodes += blur
    if options.message:
        inputs.append(("message", "float32", ("B", MESSAGE_BITS)))
        nodes += [
            helper.make_node("ReduceMean", ["message", "last"], ["mean"], keepdims=1),
            helper.make_node("Unsqueeze", ["mean", "last"], ["mark"]),
            helper.make_node("Add", [source, "mark"], ["wav"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", [source], ["wav"]))
    return _save(
        directory,
        CODEC_DECODER,
        inputs=inputs,
        outputs=[("wav", "float32", ("B", 1, "N"))],
        nodes=nodes,
        constants={
            "shape": np.array([0, 1, -1]),
            "last": np.array([-1]),
            **_blur_kernel(options),
        },
    )


def _velocity(directory: Path, options: Tiny) -> GraphSpec:
    inputs = [
        ("x", "float32", ("B", "T", 2 * HOP)),
        ("t", "float32", ("B",)),
        ("latents", "float32", ("B", "T", HOP)),
        ("text", "float32", ("B", "S", 1)),
        ("text_mask", "bool", ("B", "S")),
        ("spans", "int64", ("B", "T")),
    ]
    if options.video:
        inputs.append(("video", "float32", ("B", VIDEO_DIM, "T")))
    if options.stereo:
        inputs.append((BESIDE, "float32", ("B", "T", HOP)))
    node = helper.make_node
    said = node("ReduceMean", ["text", "token_axis"], ["said"], keepdims=1)
    nodes = [
        said,
        node("Equal", ["spans", "positive"], ["is_positive"]),
        node("Equal", ["spans", "negative"], ["is_negative"]),
        node("Unsqueeze", ["is_positive", "last"], ["with_it"]),
        node("Unsqueeze", ["is_negative", "last"], ["without_it"]),
        node("Where", ["with_it", "one", "said"], ["raised"]),
        node("Where", ["without_it", "zero", "raised"], ["share"]),
        node("Mul", [BESIDE if options.stereo else "latents", "share"], ["target"]),
        node("Sub", ["latents", "target"], ["residual"]),
        node("Concat", ["target", "residual"], ["data"], axis=-1),
        node("Sub", ["data", "x"], ["way"]),
        node("Sub", ["one", "t"], ["left"]),
        node("Unsqueeze", ["left", "frame_axes"], ["time_left"]),
        node("Div", ["way", "time_left"], ["moving"]),
        node("Mul", ["moving", "speed"], ["velocity"]),
    ]
    if options.video:
        nodes[:0] = [
            node("ReduceMean", ["video", "token_axis"], ["seen"], keepdims=0),
            node("Unsqueeze", ["seen", "last"], ["seen_frames"]),
        ]
        nodes[nodes.index(said)] = node("Add", ["told", "seen_frames"], ["said"])
        nodes.insert(0, node("ReduceMean", ["text", "token_axis"], ["told"], keepdims=1))
    constants = {
        "token_axis": np.array([1]),
        "last": np.array([-1]),
        "frame_axes": np.array([1, 2]),
        "positive": np.array(1),
        "negative": np.array(2),
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.float32),
        "speed": np.array(0 if options.still else 1, np.float32),
    }
    outputs = [("velocity", "float32", ("B", "T", 2 * HOP))]
    return _save(
        directory, VELOCITY, inputs=inputs, outputs=outputs, nodes=nodes, constants=constants
    )


def _judge(directory: Path) -> GraphSpec:
    node = helper.make_node
    return _save(
        directory,
        JUDGE,
        inputs=[
            ("mixture", "float32", ("B", "T", HOP)),
            ("stem", "float32", ("B", "T", HOP)),
            ("input_ids", "int64", ("B", "S")),
            ("attention_mask", "bool", ("B", "S")),
        ],
        outputs=[("scores", "float32", ("B", 4))],
        nodes=[
            node("ReduceMean", ["stem", "all"], ["mean"], keepdims=0),
            node("Unsqueeze", ["mean", "last"], ["score"]),
            node("Mul", ["score", "each"], ["scores"]),
        ],
        constants={
            "all": np.array([1, 2]),
            "last": np.array([-1]),
            "each": np.array([[1, 2, 3, 4]], np.float32),
        },
    )


def _clap(directory: Path) -> GraphSpec:
    node = helper.make_node
    return _save(
        directory,
        CLAP,
        inputs=[
            ("wav", "float32", ("B", CLAP_SAMPLES)),
            ("input_ids", "int64", ("B", "S")),
            ("attention_mask", "bool", ("B", "S")),
        ],
        outputs=[("similarity", "float32", ("B",))],
        nodes=[
            node("Abs", ["wav"], ["rectified"]),
            node("ReduceMean", ["rectified", "last"], ["level"], keepdims=0),
            node("Sub", ["one", "level"], ["similarity"]),
        ],
        constants={"last": np.array([-1]), "one": np.array(1, np.float32)},
    )


def _vision_encoder(directory: Path) -> GraphSpec:
    """Features that are all the mean of the frame."""
    node = helper.make_node
    return _save(
        directory,
        VISION_ENCODER,
        inputs=[("frames", "float32", ("B", 3, IMAGE_SIZE, IMAGE_SIZE))],
        outputs=[("features", "float32", ("B", VIDEO_DIM))],
        nodes=[
            node("ReduceMean", ["frames", "all"], ["mean"], keepdims=0),
            node("Unsqueeze", ["mean", "last"], ["level"]),
            node("Mul", ["level", "each"], ["features"]),
        ],
        constants={
            "all": np.array([1, 2, 3]),
            "last": np.array([-1]),
            "each": np.ones((1, VIDEO_DIM), np.float32),
        },
    )


def _blur(source: str) -> tuple[list[onnx.NodeProto], str]:
    node = helper.make_node("Conv", [source, "kernel"], ["blurred"], pads=[HOP, HOP])
    return [node], "blurred"


def _blur_kernel(options: Tiny) -> dict[str, np.ndarray]:
    if not options.blurred:
        return {}
    kernel = np.random.default_rng(1).normal(size=(1, 1, 2 * HOP + 1)) / HOP
    return {"kernel": kernel.astype(np.float32)}


def _save(
    directory: Path,
    role: str,
    *,
    inputs: list[tuple],
    outputs: list[tuple],
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
) -> GraphSpec:
    graph = helper.make_graph(
        nodes,
        role,
        [helper.make_tensor_value_info(n, _TYPES[kind], list(dims)) for n, kind, dims in inputs],
        [helper.make_tensor_value_info(n, _TYPES[kind], list(dims)) for n, kind, dims in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, directory / f"{role}.onnx")
    return GraphSpec(
        f"{role}.onnx",
        tuple(TensorSpec(*spec) for spec in inputs),
        tuple(TensorSpec(*spec) for spec in outputs),
    )
