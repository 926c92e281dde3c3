"""The roles a bundle's graphs play, and whether a manifest is consistent with them and itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bridge.bundles.manifest import Manifest

TEXT_ENCODER: Final = "text_encoder"
CODEC_ENCODER: Final = "codec_encoder"
CODEC_DECODER: Final = "codec_decoder"
VELOCITY: Final = "velocity"
SPAN_PREDICTOR: Final = "span_predictor"
JUDGE: Final = "judge"
VISION_ENCODER: Final = "vision_encoder"

#: Input of a velocity network that is told of the channel beside the one it hears.
BESIDE: Final = "beside"

#: The judge's own tokenizer, a file of every bundle that has a judge.
JUDGE_TOKENIZER: Final = "judge_tokenizer.json"

# Per role: the inputs that the graph must have, those that it may have, and its output.
_ROLES: Final[dict[str, tuple[frozenset[str], frozenset[str], str]]] = {
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
    VISION_ENCODER: (frozenset({"frames"}), frozenset(), "features"),
}
_OPTIONAL_ROLES: Final = frozenset({SPAN_PREDICTOR, JUDGE, VISION_ENCODER})


def faults(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with a manifest, each with the path of the field."""
    for field, value in {
        "sample_rate": manifest.sample_rate,
        "hop_length": manifest.hop_length,
        "latent_channels": manifest.latent_channels,
        "window_s": manifest.window_s,
        "steps": manifest.steps,
        "prompt.max_tokens": manifest.prompt.max_tokens,
        "prompt.text_dim": manifest.prompt.text_dim,
        "codec.chunk_frames": manifest.codec.chunk_frames,
        "reconstruction.exponent": manifest.reconstruction.exponent,
        "reconstruction.band_hz": manifest.reconstruction.band_hz,
    }.items():
        if value <= 0:
            yield f"$.{field} is {value}, expected a number above 0"
    if not 0 <= manifest.overlap_s < manifest.window_s:
        yield f"$.overlap_s is {manifest.overlap_s}, expected 0 up to below window_s"
    if min(manifest.codec.encoder_context_frames, manifest.codec.decoder_context_frames) < 0:
        yield "$.codec has a negative context"
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
    n_fft, hop = manifest.reconstruction.n_fft, manifest.reconstruction.hop
    if n_fft < 64 or n_fft & (n_fft - 1) or hop < 1 or n_fft % hop or n_fft // hop < 2:
        yield (
            f"$.reconstruction has n_fft {n_fft} and hop {hop}, expected a power of two from 64 "
            "up and a hop that divides it at least twice"
        )
    yield from _file_faults(manifest)
    yield from _role_faults(manifest)


def _role_faults(manifest: Manifest) -> Iterator[str]:
    if (manifest.span_prediction is None) != (SPAN_PREDICTOR not in manifest.graphs):
        yield "$.span_prediction and $.graphs.span_predictor do not come together"
    for role, (required, optional, output) in _ROLES.items():
        if role not in manifest.graphs:
            if role not in _OPTIONAL_ROLES:
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


def _file_faults(manifest: Manifest) -> Iterator[str]:
    for name, info in manifest.files.items():
        path = PurePosixPath(name)
        if (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in name
            or name in ("", "manifest.json")
        ):
            yield f"$.files has {name!r}, expected a relative path inside the bundle"
        if not re.fullmatch(r"[0-9a-f]{64}", info.sha256):
            yield f"$.files[{name!r}].sha256 is not 64 lower-case hex digits"
    wanted = {f"graphs.{role}.file": graph.file for role, graph in manifest.graphs.items()}
    wanted["tokenizer"] = manifest.tokenizer
    if manifest.span_prediction is not None:
        wanted["span_prediction.tokenizer"] = manifest.span_prediction.tokenizer
    if JUDGE in manifest.graphs:
        wanted["graphs.judge's tokenizer"] = JUDGE_TOKENIZER
    for field, name in wanted.items():
        if name not in manifest.files:
            yield f"$.{field} is {name!r}, which $.files does not list"
