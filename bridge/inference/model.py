"""A model bundle as the networks it holds, by their roles, called in bounded memory.

A clip of any length goes through the codec in chunks: each is coded with context on both sides and
only its inside is kept, so the result is the same as for the whole clip at once. Prompts become
token ids, a video features, and spans are predicted window by window.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bridge.bundles.bundle import find_bundle, load_prompted, verify_files
from bridge.bundles.manifest import (
    BESIDE,
    CLAP,
    CLAP_TOKENIZER,
    CODEC_DECODER,
    CODEC_ENCODER,
    JUDGE,
    JUDGE_TOKENIZER,
    SPAN_PREDICTOR,
    TEXT_ENCODER,
    VELOCITY,
    VISION_ENCODER,
    CodecInfo,
)
from bridge.errors import InputError, ModelError
from bridge.flow.windows import plan_windows
from bridge.inference.context import Cancellation
from bridge.inference.graphs import CPU, Graphs, JoinedRuns
from bridge.scratch import DEFAULT, LongArray, Scratch
from bridge.video import Video, resize

Array = npt.NDArray[np.float32]

#: A bundle may allow longer chunks; they would be no faster, and take the memory.
_MOST_FRAMES: Final = 512


def pad_to_frames(wav: LongArray, hop_length: int, scratch: Scratch = DEFAULT) -> LongArray:
    """Extend waveforms (V, n) to whole frames by reflecting their right ends."""
    views, samples = wav.shape
    missing = -samples % hop_length
    if not missing:
        return wav
    padded = scratch.zeros((views, samples + missing))
    for part in scratch.stretches(samples):
        padded[:, part] = wav[:, part]
    end = wav[:, max(0, samples - missing - 1) :]
    # Reflection needs at least two samples.
    mode: Literal["reflect", "edge"] = "reflect" if samples > 1 else "edge"
    padded[:, samples:] = np.pad(end, [(0, 0), (0, missing)], mode=mode)[:, end.shape[1] :]
    return padded


def count_chunks(frames: int, codec: CodecInfo) -> int:
    """Count the calls of the graph that coding a clip takes."""
    return -(-frames // _chunk(codec))


def encode(
    encoder: Callable[[Array], Array],
    wav: LongArray,
    hop_length: int,
    channels: int,
    codec: CodecInfo,
    scratch: Scratch = DEFAULT,
) -> LongArray:
    """Encode waveforms of one length.

    Parameters
    ----------
    encoder : callable
        Maps waveforms (V, 1, N) to latents (V, N / hop_length, C).
    wav : array of float32, shape (V, T * hop_length)
    hop_length, channels : int
        Samples per frame; C.
    codec : CodecInfo
    scratch : Scratch
        Where the result lies.

    Returns
    -------
    array of float32, shape (V, T, C)

    Raises
    ------
    ModelError
        If the graph returns another number of frames than the hop length implies.
    """
    frames = wav.shape[1] // hop_length
    latents = scratch.zeros((len(wav), frames, channels))
    for start, end, low, high in _chunks(frames, _chunk(codec), codec.encoder_context_frames):
        part = encoder(wav[:, low * hop_length : high * hop_length][:, np.newaxis])
        _check_length("encoder", "frames", part.shape[1], high - low)
        latents[:, start:end] = part[:, start - low : end - low]
    return latents


def decode(
    decoder: Callable[[Array], Array],
    latents: LongArray,
    hop_length: int,
    codec: CodecInfo,
    on_part: Callable[[int, Array], None] | None = None,
    *,
    samples: int | None = None,
    channels: slice = slice(None),
    scratch: Scratch = DEFAULT,
) -> LongArray:
    """Decode latents.

    Parameters
    ----------
    decoder : callable
        Maps latents (V, T, C) to waveforms (V, 1, T * hop_length).
    latents : array of float32, shape (V, T, C)
    hop_length : int
    codec : CodecInfo
    on_part : callable or None
        Receives the first sample and the waveforms (V, n) of every part as it is decoded.
    samples : int or None
        Length of the result, at most and by default that of all frames.
    channels : slice
        Which of the latents' channels are decoded.
    scratch : Scratch
        Where the result lies.

    Returns
    -------
    array of float32, shape (V, samples)

    Raises
    ------
    ModelError
        If the graph returns another number of samples than the hop length implies.
    """
    views, frames, _ = latents.shape
    wanted = frames * hop_length if samples is None else samples
    wav = scratch.zeros((views, wanted))
    for start, end, low, high in _chunks(frames, _chunk(codec), codec.decoder_context_frames):
        part = decoder(latents[:, low:high][..., channels])
        _check_length("decoder", "samples", part.shape[2], (high - low) * hop_length)
        first, stop = start * hop_length, min(end * hop_length, wanted)
        inside = part[:, 0, (start - low) * hop_length :][:, : stop - first]
        wav[:, first:stop] = inside
        if on_part is not None:
            on_part(first, inside)
    return wav


def _check_length(part: str, unit: str, got: int, expected: int) -> None:
    if got != expected:
        raise ModelError(
            f"the codec's {part} gives {got} {unit} where hop_length in the manifest leads to "
            f"{expected}; export the model again"
        )


def _chunk(codec: CodecInfo) -> int:
    return min(codec.chunk_frames, _MOST_FRAMES)


def _chunks(frames: int, chunk: int, context: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the inside (start, end) of each chunk, and (low, high) with its context."""
    for start in range(0, frames, chunk):
        end = min(start + chunk, frames)
        yield start, end, max(0, start - context), min(frames, end + context)


#: Maps latents (t, C) to logits (t,).
FramePredictor = Callable[[Array], Array]

#: Pictures per call of a vision encoder.
_BATCH: Final = 8


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``, and switch off padding and silent truncation.

    Raises
    ------
    ModelError
        If the file is not a tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # the library raises nothing more specific
        raise ModelError(f"{path}: not a tokenizer ({error}); fetch the model again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def token_ids(tokenizer: Tokenizer, text: str, max_tokens: int) -> npt.NDArray[np.int64]:
    """Tokenize a prompt.

    Returns
    -------
    ndarray of int64, shape (S,)
        S is 1 to `max_tokens`.

    Raises
    ------
    InputError
        If the prompt is too long for the model.
    """
    ids = tokenizer.encode(text.lower().strip()).ids
    if len(ids) > max_tokens:
        raise InputError(
            f"the prompt {text[:40] + '...' if len(text) > 40 else text!r} has {len(ids)} tokens; "
            f"this model takes at most {max_tokens} (prompt.max_tokens): use fewer words"
        )
    if not ids:
        raise InputError(f"the prompt {text!r} has no words that this model knows; rephrase it")
    return np.asarray(ids, dtype=np.int64)


def predict_frames(
    predictor: FramePredictor,
    latents: LongArray,
    *,
    threshold: float,
    window: int,
    overlap: int,
) -> npt.NDArray[np.bool_]:
    """Find the frames in which a text is heard.

    Long mixtures are scored in windows like those of the flow: the predictor was trained on
    clips, and its memory grows with the square of their length. Where windows overlap the larger
    logit counts, since a sound cut off by the edge of one is heard better in the other.

    Parameters
    ----------
    predictor : callable
        Maps latents (t, C) to logits (t,).
    latents : array of float32, shape (T, C)
        The mixture.
    threshold : float
        Probability above which a frame counts as heard, 0 to 1.
    window, overlap : int
        In frames.

    Returns
    -------
    ndarray of bool, shape (T,)
        Runs of true frames are the positive spans.
    """
    plan = plan_windows(len(latents), window, overlap)
    logits = np.full(len(latents), -np.inf, dtype=np.float32)
    for start in plan.starts:
        part = slice(start, start + plan.length)
        logits[part] = np.maximum(logits[part], predictor(latents[part]))
    heard: npt.NDArray[np.bool_] = logits > math.log(threshold / (1 - threshold))
    return heard


def visual_features(
    encoder: Callable[[Array], Array], side: int, video: Video, frames: int, frame_rate_hz: float
) -> Array:
    """Encode the video frames that are shown at each latent frame.

    Parameters
    ----------
    encoder : callable
        Maps pictures (B, 3, side, side) in [0, 1] to features (B, D).
    side : int
        Pixels.
    video : Video
    frames : int
        Latent frames T.
    frame_rate_hz : float
        Latent frames per second.

    Returns
    -------
    ndarray of float32, shape (D, T)
        A video frame that is shown at several latent frames is encoded once.
    """
    needed, places = np.unique(video.shown(frames, frame_rate_hz), return_inverse=True)
    parts = [
        encoder(np.stack([resize(video.frames[index], side) for index in batch]))
        for batch in np.split(needed, range(_BATCH, len(needed), _BATCH))
    ]
    return np.ascontiguousarray(np.concatenate(parts)[places].T)


_GPU_BATCH: Final = 8
#: The longest text that CLAP was trained on.
_CLAP_TOKENS: Final = 77


class Model:
    """Runs a bundle's networks; those that no job uses are never loaded.

    Parameters
    ----------
    model : str or path
        Name of a bundle, or its directory.
    providers : sequence of str or None
        See `bridge.inference.graphs.choose_providers`.
    threads : int or None
        Threads for one network on the CPU; None takes the physical cores.

    Raises
    ------
    ModelError
        If the bundle is unknown or damaged.
    ProviderError
        If a requested provider is missing.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.directory = find_bundle(model)
        self.manifest = load_prompted(self.directory)
        verify_files(self.directory, self.manifest)
        self._span_tokenizer: Tokenizer | None = None
        self._judge_tokenizer: Tokenizer | None = None
        self._clap_tokenizer: Tokenizer | None = None
        self.graphs = Graphs(self.directory, self.manifest, providers=providers, threads=threads)
        #: Where the evaluations of several jobs are shared.
        self.joined: JoinedRuns | None = None

    @property
    def most_windows(self) -> int:
        """Windows per call of the velocity network, if memory allows.

        One on the CPU: matrix kernels choose their order of summation by the shape, so a window's
        numbers would depend on the rest of its batch, and a batch gains nothing there.
        """
        return 1 if self.graphs.provider == CPU else _GPU_BATCH

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.directory / self.manifest.tokenizer)

    @property
    def message_length(self) -> int:
        """Bits of the watermark that the decoder writes; 0 if it writes none."""
        for spec in self.manifest.graphs[CODEC_DECODER].inputs:
            if spec.name == "message":
                return int(spec.dims[-1])
        return 0

    def tokens(self, text: str) -> npt.NDArray[np.int64]:
        """Tokenize a prompt: ids (S,).

        Raises
        ------
        InputError
            If it has more tokens than the model takes.
        """
        return token_ids(self._tokenizer, text, self.manifest.prompt.max_tokens)

    def text_features(self, ids: npt.NDArray[np.int64], cancellation: Cancellation) -> Array:
        """Encode the tokens (S,) of a prompt: features (S, D)."""
        feeds = {
            "input_ids": ids[np.newaxis],
            "attention_mask": np.ones((1, len(ids)), dtype=np.bool_),
        }
        features = self.graphs.run(TEXT_ENCODER, feeds, cancellation)
        return np.asarray(features[0], dtype=np.float32)

    def span_predictor(self, text: str, cancellation: Cancellation) -> Callable[[Array], Array]:
        """Return a function from latents (T, C) to logits (T,) of the text being heard.

        Raises
        ------
        InputError
            If the text has more tokens than the predictor takes.
        """
        prediction = self.manifest.span_prediction
        if prediction is None:
            raise ModelError(f"the model {self.manifest.name!r} has no span predictor")
        if self._span_tokenizer is None:
            self._span_tokenizer = load_tokenizer(self.directory / prediction.tokenizer)
        ids = token_ids(self._span_tokenizer, text, prediction.max_tokens)[np.newaxis]
        mask = np.ones(ids.shape, dtype=np.bool_)

        def predictor(latents: Array) -> Array:
            feeds: dict[str, npt.NDArray[Any]] = {
                "latents": latents[np.newaxis],
                "input_ids": ids,
                "attention_mask": mask,
            }
            logits: Array = self.graphs.run(SPAN_PREDICTOR, feeds, cancellation)[0]
            return logits

        return predictor

    @property
    def has_judge(self) -> bool:
        """Whether the bundle holds a judge of stems."""
        return JUDGE in self.manifest.graphs

    @property
    def has_clap(self) -> bool:
        """Whether the bundle holds CLAP."""
        return CLAP in self.manifest.graphs

    def check_judge(self) -> None:
        """Raise an InputError if the bundle has nothing that scores stems."""
        if not self.has_judge and not self.has_clap:
            raise InputError(
                f"the model {self.manifest.name!r} has no judge and no CLAP; leave judge out, or "
                "export the model with one of them"
            )

    def judge(self, text: str, cancellation: Cancellation) -> Callable[[Array, Array], Array]:
        """Return a function that scores a stem.

        It maps latents of mixture and stem, (T, C) each, to scores (4,): overall, recall,
        precision, faithfulness.

        The model has to have one, see `has_judge`.
        """
        if self._judge_tokenizer is None:
            self._judge_tokenizer = load_tokenizer(self.directory / JUDGE_TOKENIZER)
        ids = self._judge_tokenizer.encode(text).ids
        tokens = np.asarray([ids], dtype=np.int64)
        mask = np.ones(tokens.shape, dtype=np.bool_)

        def judge(mixture: Array, stem: Array) -> Array:
            feeds: dict[str, npt.NDArray[Any]] = {
                "mixture": mixture[np.newaxis],
                "stem": stem[np.newaxis],
                "input_ids": tokens,
                "attention_mask": mask,
            }
            scores: Array = self.graphs.run(JUDGE, feeds, cancellation)[0]
            return scores

        return judge

    def clap(self, text: str, cancellation: Cancellation) -> tuple[Callable[[Array], float], int]:
        """Return a function that tells how alike a sound is to a text, and samples that it takes.

        It maps that many samples at `bridge.bundles.manifest.CLAP_RATE` to the cosine of the angle
        between two embeddings, -1 to 1. The model has to have CLAP, see `has_clap`.
        """
        if self._clap_tokenizer is None:
            self._clap_tokenizer = load_tokenizer(self.directory / CLAP_TOKENIZER)
            self._clap_tokenizer.enable_truncation(_CLAP_TOKENS)
        tokens = np.asarray([self._clap_tokenizer.encode(text).ids], dtype=np.int64)
        wav = next(spec for spec in self.manifest.graphs[CLAP].inputs if spec.name == "wav")

        def similarity(sound: Array) -> float:
            feeds: dict[str, npt.NDArray[Any]] = {
                "wav": sound[np.newaxis],
                "input_ids": tokens,
                "attention_mask": np.ones(tokens.shape, dtype=np.bool_),
            }
            return float(self.graphs.run(CLAP, feeds, cancellation)[0])

        return similarity, int(wav.dims[1])

    def check_vision(self) -> None:
        """Raise an InputError if the bundle has no vision encoder."""
        if VISION_ENCODER not in self.manifest.graphs:
            raise InputError(
                f"the model {self.manifest.name!r} has no vision encoder; leave the video out, or "
                "export the model with one"
            )

    def visual_features(
        self, video: Video | None, frames: int, cancellation: Cancellation
    ) -> Array | None:
        """Encode what a video shows at each of T latent frames: features (V, T); None for no video.

        Raises
        ------
        InputError
            If the model has no vision encoder.
        """
        if video is None:
            return None
        self.check_vision()
        (pictures,) = self.manifest.graphs[VISION_ENCODER].inputs

        def encoder(batch: Array) -> Array:
            return self.graphs.run(VISION_ENCODER, {"frames": batch}, cancellation)

        rate_hz = self.manifest.frame_rate_hz
        return visual_features(encoder, int(pictures.dims[-1]), video, frames, rate_hz)

    def encode(
        self,
        wav: LongArray,
        cancellation: Cancellation,
        on_chunk: Callable[[], None],
        scratch: Scratch = DEFAULT,
    ) -> LongArray:
        """Encode waveforms (V, T * hop) in chunks: latents (V, T, C)."""

        def encoder(part: Array) -> Array:
            latents = self.graphs.run(CODEC_ENCODER, {"wav": part}, cancellation)
            on_chunk()
            return latents

        info = self.manifest
        return encode(encoder, wav, info.hop_length, info.latent_channels, info.codec, scratch)

    def decode(
        self,
        latents: LongArray,
        message: Array,
        cancellation: Cancellation,
        on_chunk: Callable[[], None],
        on_part: Callable[[int, Array], None] | None = None,
        *,
        samples: int | None = None,
        channels: slice = slice(None),
        scratch: Scratch = DEFAULT,
    ) -> LongArray:
        """Decode latents (V, T, C) in chunks: (V, samples), marked with the message's bits.

        The options are those of `bridge.inference.model.decode`.
        """

        def decoder(part: Array) -> Array:
            feeds = {"latents": part}
            if self.message_length:
                feeds["message"] = np.repeat(message[np.newaxis], len(part), axis=0)
            wav = self.graphs.run(CODEC_DECODER, feeds, cancellation)
            on_chunk()
            return wav

        return decode(
            decoder,
            latents,
            self.manifest.hop_length,
            self.manifest.codec,
            on_part,
            samples=samples,
            channels=channels,
            scratch=scratch,
        )

    @property
    def resident(self) -> bool:
        """Whether what a window is conditioned on stays on the device between evaluations.

        On the CPU it would lie in memory for all windows of a job at once.
        """
        return self.graphs.provider != CPU or self.joined is not None

    def velocity(self, cancellation: Cancellation) -> Callable[..., Array]:
        """Return the velocity network as a `bridge.flow.diffusion.VelocityNetwork`."""

        def network(**feeds: npt.NDArray[Any]) -> Array:
            told, alone = self._conditioned(feeds)
            with_other = self.graphs.run(VELOCITY, told, cancellation)
            if alone is None:
                return with_other
            return self._guided(with_other, self.graphs.run(VELOCITY, alone, cancellation))

        return network

    def bind_velocity(self, cancellation: Cancellation) -> Callable[..., Callable[..., Array]]:
        """Return what puts the inputs of a batch on the device: see `merged_velocity`'s `bind`."""

        def bind(**feeds: npt.NDArray[Any]) -> Callable[..., Array]:
            told, alone = self._conditioned(feeds)
            runs = self.joined or self.graphs
            first = runs.bind(VELOCITY, told)
            second = None if alone is None else runs.bind(VELOCITY, alone)

            def network(x: Array, t: Array) -> Array:
                with_other = first.run({"x": x, "t": t}, cancellation)
                if second is None:
                    return with_other
                return self._guided(with_other, second.run({"x": x, "t": t}, cancellation))

            return network

        return bind

    def sharing(self, batch: int, cancellation: Cancellation) -> AbstractContextManager[None]:
        """Share the evaluations in a block with other jobs, where the engine lets jobs do so."""
        if self.joined is None:
            return nullcontext()
        return self.joined.taking_part(batch, cancellation)

    def _conditioned(
        self, feeds: dict[str, npt.NDArray[Any]]
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]] | None]:
        """Complete the inputs of a batch; also those without the other channel, for guidance."""
        inputs = self.manifest.graphs[VELOCITY].inputs
        dims = next((int(spec.dims[1]) for spec in inputs if spec.name == "video"), 0)
        if dims and feeds.get("video") is None:
            batch, frames = feeds["spans"].shape
            feeds["video"] = np.zeros((batch, dims, frames), dtype=np.float32)
        unguided = self.manifest.beside_guidance == 1
        if unguided or np.array_equal(feeds[BESIDE], feeds["latents"]):
            return feeds, None
        return feeds, {**feeds, BESIDE: feeds["latents"]}

    def _guided(self, with_other: Array, alone: Array) -> Array:
        guided: Array = alone + np.float32(self.manifest.beside_guidance) * (with_other - alone)
        return guided
