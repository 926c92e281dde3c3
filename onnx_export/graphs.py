"""What a bundle is made of: one specification per graph drives its export and its check.

A `Graph` names a role's inputs, outputs, dynamic axes and tolerance next to the PyTorch module
that it stands for. The exporter traces the module with inputs sampled from the specification, the
verifier compares both with inputs of other sizes sampled from the same, and the manifest records
it for the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bridge.bundles.consistency import BESIDE
from bridge.bundles.manifest import FORMAT as MANIFEST_FORMAT
from bridge.bundles.manifest import (
    CodecInfo,
    FileInfo,
    GraphSpec,
    Manifest,
    PromptLimits,
    Reconstruction,
    SpanPrediction,
    TensorSpec,
)
from bridge.request import Listening, ReconstructionMode, Solver

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
    """Everything that an export writes: the graphs, and the manifest's numbers and words.

    Attributes are those of `bridge.bundles.manifest.Manifest`, but for the graphs, which still are
    modules, and the tokenizer, which still lies elsewhere. `config` is written beside them as
    ``config.json``: enough to build the modules again, without the weights. `weights` tells
    whether the modules hold the weights of a checkpoint or those of a bundle, perhaps rounded.
    """

    name: str
    sample_rate: int
    hop_length: int
    latent_channels: int
    window_s: float
    overlap_s: float
    solver: Solver
    steps: int
    reconstruct: ReconstructionMode
    reconstruction: Reconstruction
    listen: Listening
    prompt: PromptLimits
    codec: CodecInfo
    licence: str
    provenance: str
    tokenizer: Path
    graphs: tuple[Graph, ...]
    config: Mapping[str, Any]
    family: str = "sam-audio"
    spans_complete: bool = False
    beside_guidance: float = 1.0
    input_rms_db: float | None = None
    max_frames: int | None = None
    weights: Literal["checkpoint", "bundle"] = "checkpoint"
    span_prediction: SpanPrediction | None = None
    span_tokenizer: Path | None = None
    judge_tokenizer: Path | None = None

    def manifest(
        self, files: dict[str, FileInfo], precision: str, tolerances: Mapping[str, float]
    ) -> Manifest:
        """Put the manifest together from what was written."""
        return Manifest(
            format=MANIFEST_FORMAT,
            name=self.name,
            family=self.family,
            sample_rate=self.sample_rate,
            hop_length=self.hop_length,
            latent_channels=self.latent_channels,
            window_s=self.window_s,
            overlap_s=self.overlap_s,
            solver=self.solver,
            steps=self.steps,
            reconstruct=self.reconstruct,
            reconstruction=self.reconstruction,
            listen=self.listen,
            prompt=self.prompt,
            spans_complete=self.spans_complete,
            beside_guidance=self.beside_guidance,
            input_rms_db=self.input_rms_db,
            max_frames=self.max_frames,
            codec=self.codec,
            graphs={graph.role: graph.spec(tolerances[graph.role]) for graph in self.graphs},
            tokenizer=self.tokenizer.name,
            span_prediction=self.span_prediction,
            files=files,
            precision=precision,
            licence=self.licence,
            provenance=self.provenance,
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


def vision_graph(module: nn.Module, image_size: int, dim: int) -> Graph:
    """Specify the vision encoder: video frames to a feature vector each."""
    return Graph(
        "vision_encoder",
        module,
        (TensorSpec("frames", "float32", (BATCH, 3, image_size, image_size)),),
        (TensorSpec("features", "float32", (BATCH, dim)),),
    )
