"""The manifest of a model bundle: all that the engine knows about a model.

A bundle is a directory with ``manifest.json`` and the files that it lists. The exporter writes
it, the engine reads it; nothing else passes between them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from bridge.bundles.consistency import BESIDE, VELOCITY, faults
from bridge.errors import ModelError
from bridge.request import Listening, ReconstructionMode, Solver

FORMAT: Final = 1
FILE_NAME: Final = "manifest.json"


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

    def has_input(self, name: str) -> bool:
        """Say whether the graph takes an input of that name."""
        return any(spec.name == name for spec in self.inputs)


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
        Latent frames on either side that a chunk needs for its inside to come out as if the
        whole clip had been coded at once.
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
        Window and step of the STFT in samples at 44.1 and 48 kHz; they follow other rates in
        octaves.
    band_hz : float
        Top of the band in which the model's own waveforms mean something.
    """

    exponent: float
    n_fft: int
    hop: int
    band_hz: float


class SpanPrediction(Struct, frozen=True, forbid_unknown_fields=True):
    """How the graph ``span_predictor`` finds where a text prompt is heard.

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


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model bundle.

    Attributes
    ----------
    format : int
        Version of this description, `FORMAT`.
    name, family : str
        The bundle's name, and the architecture it belongs to (``"sam-audio"``).
    sample_rate : int
        The model's rate in Hz; the model is mono.
    hop_length : int
        Samples per latent frame at that rate.
    latent_channels : int
        C, channels of a latent; the solver's state has 2C (target, residual).
    window_s, overlap_s, solver, steps, reconstruct, listen
        Defaults of the settings of the same names.
    reconstruction : Reconstruction
        How masks are made.
    prompt : PromptLimits
    spans_complete : bool
        Whether the velocity network takes a prompt's "+" spans to be all there are, and the rest
        to be "-"; SAM Audio does not.
    beside_guidance : float
        Of a network that is told of the channel beside the one it hears: how far its answer goes
        from what it says of one channel alone (0) towards what it says when told (1), or beyond.
        Unless it is 1, the network runs twice.
    input_rms_db : float or None
        Level in dB relative to full scale to which what the model hears is brought before
        encoding; None leaves it alone.
    max_frames : int or None
        Longest window that the velocity network can take, in latent frames.
    codec : CodecInfo
    graphs : dict of str to GraphSpec
        By role: ``text_encoder``, ``codec_encoder``, ``codec_decoder``, ``velocity``, and where
        the model predicts spans ``span_predictor``.
    tokenizer : str
        File of the prompt tokenizer (Hugging Face ``tokenizer.json``).
    span_prediction : SpanPrediction or None
        Given if, and only if, there is a graph ``span_predictor``.
    files : dict of str to FileInfo
        Every file of the bundle but the manifest itself.
    precision : str
        Of the weights, e.g. ``"fp32"``.
    licence, provenance : str
        Licence of the weights; where they come from.
    """

    format: int
    name: str
    family: str
    sample_rate: int
    hop_length: int
    latent_channels: int
    window_s: float
    overlap_s: float
    solver: Solver
    steps: int
    reconstruct: ReconstructionMode
    listen: Listening = "mean"
    reconstruction: Reconstruction
    prompt: PromptLimits
    spans_complete: bool = False
    beside_guidance: float = 1.0
    input_rms_db: float | None = None
    max_frames: int | None = None
    codec: CodecInfo
    graphs: dict[str, GraphSpec]
    tokenizer: str
    span_prediction: SpanPrediction | None = None
    files: dict[str, FileInfo]
    precision: str
    licence: str
    provenance: str

    @property
    def frame_rate_hz(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def hears_beside(self) -> bool:
        """Whether the velocity network is told of the channel beside the one that it hears."""
        return any(spec.name == BESIDE for spec in self.graphs[VELOCITY].inputs)

    @property
    def sha256(self) -> str:
        """Checksum over all that decides the model's output.

        It covers the checksums of the files and the numbers in the manifest, but not the words
        (name, licence, provenance), which may be corrected without making another model.
        """
        numbers = msgspec.structs.replace(self, name="", licence="", provenance="")
        return hashlib.sha256(msgspec.json.encode(numbers, order="deterministic")).hexdigest()


class _Header(Struct):
    format: int


def load(directory: Path) -> Manifest:
    """Read and validate the manifest of a bundle; its files are not opened.

    Raises
    ------
    ModelError
        If there is no manifest, it cannot be read, is of another format version, has unknown
        or missing fields, or contradicts itself.
    """
    path = directory / FILE_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot read the manifest ({error.strerror or error}); "
            "give the directory of a model bundle"
        ) from error
    try:
        version = msgspec.json.decode(raw, type=_Header).format
        if version != FORMAT:
            raise ModelError(
                f"{path}: format {version}, but this version reads format {FORMAT}; "
                + ("update stembridge" if version > FORMAT else "export the model again")
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}; export or fetch the model again") from error
    for fault in faults(manifest):
        raise ModelError(f"{path}: {fault}; export or fetch the model again")
    return manifest


def write(manifest: Manifest, directory: Path) -> Path:
    """Validate a manifest and write it into a bundle's directory in one step.

    Returns
    -------
    Path
        Of the file written.

    Raises
    ------
    ModelError
        If the manifest contradicts itself; nothing is written then.
    """
    path = directory / FILE_NAME
    for fault in faults(manifest):
        raise ModelError(f"{path} not written: {fault}")
    text = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2)
    partial = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    try:
        partial.write_bytes(text + b"\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def describe_file(path: Path) -> FileInfo:
    """Compute the checksum and the size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileInfo(digest.hexdigest(), file.tell())
