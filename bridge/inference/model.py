"""A model bundle as the networks it holds, in the terms of `bridge.bundles.manifest`'s roles."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bridge.bundles import manifest
from bridge.bundles.bundle import find_bundle, verify_files
from bridge.bundles.consistency import (
    BESIDE,
    CODEC_DECODER,
    CODEC_ENCODER,
    JUDGE,
    JUDGE_TOKENIZER,
    SPAN_PREDICTOR,
    TEXT_ENCODER,
    VELOCITY,
    VISION_ENCODER,
)
from bridge.errors import InputError, ModelError
from bridge.inference import codec
from bridge.inference.cancellation import Cancellation
from bridge.inference.graphs import Graphs
from bridge.inference.providers import CPU
from bridge.inference.text import load_tokenizer, token_ids
from bridge.inference.vision import visual_features
from bridge.video import Video

Array = npt.NDArray[np.float32]

_GPU_BATCH: Final = 8


class Model:
    """Runs a bundle's networks; what a job does not use is never loaded.

    Parameters
    ----------
    model : str or path
        Name of a bundle, or its directory.
    providers : sequence of str or None
        See `bridge.inference.providers.choose_providers`.
    threads : int or None
        Threads for one network on the CPU; None takes the physical cores.

    Raises
    ------
    ModelError
        If the bundle is unknown or damaged.
    ProviderError
        If a provider asked for is not there.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.directory = find_bundle(model)
        self.manifest = manifest.load(self.directory)
        verify_files(self.directory, self.manifest)
        self._span_tokenizer: Tokenizer | None = None
        self._judge_tokenizer: Tokenizer | None = None
        self.graphs = Graphs(self.directory, self.manifest, providers=providers, threads=threads)

    @property
    def most_windows(self) -> int:
        """Windows that go through the velocity network at a time where memory allows.

        One on the CPU: kernels for matrices choose their order of summing by the shape, so a
        window's numbers would depend on its company, and a batch gains nothing there.
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
        """Make what scores frames: it maps latents (T, C) to logits (T,) of the text being heard.

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

    def check_judge(self) -> None:
        """Raise an InputError if the bundle has no judge."""
        if not self.has_judge:
            raise InputError(
                f"the model {self.manifest.name!r} has no judge; leave judge out, or export the "
                "model with one"
            )

    def judge(self, text: str, cancellation: Cancellation) -> Callable[[Array, Array], Array]:
        """Make what scores a stem.

        It maps latents of mixture and stem, (T, C) each, to scores (4,): overall, recall,
        precision, faithfulness.

        Raises
        ------
        InputError
            If the model has no judge.
        """
        self.check_judge()
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
        """Encode what a video shows at each of T latent frames: features (V, T); None of none.

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

    def encode(self, wav: Array, cancellation: Cancellation, on_chunk: Callable[[], None]) -> Array:
        """Encode waveforms (V, T * hop) in chunks: latents (V, T, C)."""

        def encoder(part: Array) -> Array:
            latents = self.graphs.run(CODEC_ENCODER, {"wav": part}, cancellation)
            on_chunk()
            return latents

        info = self.manifest
        return codec.encode(encoder, wav, info.hop_length, info.latent_channels, info.codec)

    def decode(
        self,
        latents: Array,
        message: Array,
        cancellation: Cancellation,
        on_chunk: Callable[[], None],
        on_part: Callable[[int, Array], None] | None = None,
    ) -> Array:
        """Decode latents (V, T, C) in chunks: (V, T * hop), marked with the message's bits."""

        def decoder(part: Array) -> Array:
            feeds = {"latents": part}
            if self.message_length:
                feeds["message"] = np.repeat(message[np.newaxis], len(part), axis=0)
            wav = self.graphs.run(CODEC_DECODER, feeds, cancellation)
            on_chunk()
            return wav

        return codec.decode(
            decoder, latents, self.manifest.hop_length, self.manifest.codec, on_part
        )

    def velocity(self, cancellation: Cancellation) -> Callable[..., Array]:
        """Make the velocity network as `bridge.flow.diffusion.VelocityNetwork` describes it."""
        inputs = self.manifest.graphs[VELOCITY].inputs
        dims = next((int(spec.dims[1]) for spec in inputs if spec.name == "video"), 0)

        def network(video: Array | None = None, **feeds: npt.NDArray[Any]) -> Array:
            if dims:
                batch, frames = feeds["spans"].shape
                nothing = np.zeros((batch, dims, frames), dtype=np.float32)
                feeds["video"] = nothing if video is None else video
            told = self.graphs.run(VELOCITY, feeds, cancellation)
            guidance = self.manifest.beside_guidance
            if guidance == 1 or np.array_equal(feeds[BESIDE], feeds["latents"]):
                return told
            alone = {**feeds, BESIDE: feeds["latents"]}
            unguided = self.graphs.run(VELOCITY, alone, cancellation)
            guided: Array = unguided + np.float32(guidance) * (told - unguided)
            return guided

        return network
