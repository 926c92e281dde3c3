"""An official checkpoint to a bundle, in one call: find, load, export."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from bridge.errors import InputError, ModelError
from onnx_export.checkpoint import WEIGHTS_FILE, load_checkpoint, read_tensors
from onnx_export.configuration import read_config
from onnx_export.export import CONFIG_FILE, Progress, export_bundle
from onnx_export.graphs import Blueprint
from onnx_export.hub import CHECKPOINT_FILES, TEXT_ENCODER_FILES, locate
from onnx_export.judge import load_judge
from onnx_export.precision import Precision
from onnx_export.recipes import (
    Provenance,
    sam_audio_blueprint,
    with_judge,
    with_span_predictor,
    with_vision,
)
from onnx_export.sam_audio import SamAudioConfig
from onnx_export.span_predictor import load_span_predictor
from onnx_export.text_encoder import TOKENIZER_FILE, load_text_encoder
from onnx_export.vision_checkpoint import load_vision_encoder

LICENCE = "SAM License"


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    precision: Precision = "fp32",
    text_encoder: str | Path | None = None,
    span_predictor: str | Path | Literal[True] | None = None,
    judge: str | Path | None = None,
    vision: bool = False,
    progress: Progress = lambda _line: None,
) -> Path:
    """Turn an official SAM Audio checkpoint into a bundle.

    Parameters
    ----------
    checkpoint : str or Path
        Directory with ``config.json`` and ``checkpoint.pt``, or a hub id.
    out : str or Path
        Directory to make; its name becomes the model's.
    precision : {"fp32", "fp16", "fp16-weights"}
        See `onnx_export.export_bundle`.
    text_encoder : str or Path, optional
        Directory or hub id of the T5 encoder; by default the one that the configuration names.
    span_predictor : str or Path or True, optional
        Directory or hub id of PE-A-Frame, to have spans predicted for text prompts; True takes
        the one that the configuration names.
    judge : str or Path, optional
        Directory or hub id of the judge of stems, in transformers' format.
    vision : bool
        Whether to export the checkpoint's vision encoder, for prompts that a video shows.
    progress : callable
        Called with a line of text at each step.

    Returns
    -------
    Path
        The bundle's directory.

    Raises
    ------
    ModelError
        If the checkpoint or the text encoder can't be found, is damaged, or they don't fit.
    InputError
        If `out` exists or can't be written.
    """
    blueprint = checkpoint_blueprint(
        checkpoint,
        text_encoder=text_encoder,
        span_predictor=span_predictor,
        judge=judge,
        vision=vision,
        name=Path(out).name,
        progress=progress,
    )
    return export_bundle(blueprint, out, precision=precision, progress=progress)


def checkpoint_blueprint(
    checkpoint: str | Path,
    *,
    text_encoder: str | Path | None = None,
    span_predictor: str | Path | Literal[True] | None = None,
    judge: str | Path | None = None,
    vision: bool = False,
    name: str,
    progress: Progress = lambda _line: None,
) -> Blueprint:
    """Load a checkpoint and what belongs to it, and describe their bundle.

    Parameters and errors are those of `export_checkpoint`.
    """
    directory = locate(checkpoint, CHECKPOINT_FILES, "a SAM Audio checkpoint")
    config = read_config(directory / CONFIG_FILE)
    t5_source = text_encoder or config.text_encoder
    t5_directory = locate(t5_source, TEXT_ENCODER_FILES, "the text encoder")
    span_source = _span_source(span_predictor, config)
    span_directory = (
        None
        if span_source is None
        else locate(span_source, TEXT_ENCODER_FILES, "the span predictor")
    )
    judge_directory = None if judge is None else locate(judge, TEXT_ENCODER_FILES, "the judge")
    progress("loading weights")
    encoder = load_text_encoder(t5_directory)
    if encoder.dim != config.text_dim:
        raise ModelError(
            f"{t5_directory}: a text encoder of width {encoder.dim}, but the checkpoint expects "
            f"{config.text_dim}; give the one it was trained with ({config.text_encoder})"
        )
    model = load_checkpoint(directory)
    with (directory / WEIGHTS_FILE).open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    source = (
        f"{_label(checkpoint)} ({WEIGHTS_FILE} sha256 {checksum}); "
        f"text encoder {_label(t5_source)}; exported by stembridge"
    )
    if span_source is not None:
        source += f"; span predictor {_label(span_source)}"
    if judge is not None:
        source += f"; judge {_label(judge)}"
    blueprint = sam_audio_blueprint(
        model, encoder, t5_directory / TOKENIZER_FILE, Provenance(name, LICENCE, source)
    )
    if span_directory is not None:
        predictor = load_span_predictor(span_directory)
        blueprint = with_span_predictor(blueprint, predictor, span_directory / TOKENIZER_FILE)
    if judge_directory is not None:
        loaded = load_judge(judge_directory)
        blueprint = with_judge(blueprint, loaded, judge_directory / TOKENIZER_FILE)
    if vision:
        weights = directory / WEIGHTS_FILE
        settings = config.raw.get("vision_encoder") or {}
        tower = load_vision_encoder(read_tensors(weights), settings, str(weights))
        blueprint = with_vision(blueprint, tower)
    return blueprint


def _span_source(
    asked: str | Path | Literal[True] | None, config: SamAudioConfig
) -> str | Path | None:
    """Tell where the span predictor comes from, None if it isn't wanted."""
    if asked is not True:
        return asked
    named = config.raw.get("span_predictor")
    if not isinstance(named, str) or not named:
        raise InputError(
            "the checkpoint's configuration names no span_predictor; give one with "
            "--span-predictor DIR_OR_ID"
        )
    return named if "/" in named else f"facebook/{named}"


def _label(source: str | Path) -> str:
    """Name a source without telling where on this machine it lies."""
    path = Path(source)
    return path.resolve().name if path.is_dir() else str(source)
