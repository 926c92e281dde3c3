"""The stages of a separation in the order of the flow, each of them a module of its own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridge.flow.diffusion import Conditions, merged_velocity, plan_batches
from bridge.flow.noise import frame_noise
from bridge.flow.solver import count_evaluations, solve, time_grid
from bridge.flow.windows import WindowPlan, plan_windows, window_frames
from bridge.inference.budget import count_need, plan_batch
from bridge.inference.cancellation import Cancellation
from bridge.inference.codec import count_chunks, pad_to_frames
from bridge.inference.decoding import Decoding, Preview, choose_message
from bridge.inference.journal import LATENTS, TEXTS, Journal, fingerprint
from bridge.inference.model import Model
from bridge.inference.progress import Stage
from bridge.inference.ranking import Ranking
from bridge.inference.span_prediction import predict_frames
from bridge.request import Prompt, ResolvedSettings
from bridge.separation import ProgressCallback, Report, Selection, Separation
from bridge.signal import level
from bridge.signal.reconstruct import (
    copy_to_channels,
    null_depth_db,
    plan_masks,
    remainder,
    split_by_masks,
)
from bridge.signal.resampling import resample
from bridge.signal.spans import NULL_ID, POSITIVE_ID, frame_ids
from bridge.video import Video

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pipeline:
    """One call of `Engine.separate`, its arguments validated.

    The attributes are those arguments; `progress` and `cancellation` are passed to every stage.
    """

    model: Model
    mixture: Array
    sample_rate: int
    prompts: tuple[Prompt, ...]
    settings: ResolvedSettings
    progress: ProgressCallback | None
    cancellation: Cancellation
    journal: Journal
    memory_bytes: int | None = None
    video: Video | None = None

    def run(self) -> Separation:
        """Separate.

        Raises
        ------
        InputError
            If a prompt or the window is too long for the model, or it lacks what was asked for.
        Cancelled, ModelError, ProviderError, MemoryBudgetError
            As `bridge.engine.Engine.separate` says.
        """
        started_s = time.perf_counter()
        manifest = self.model.manifest
        window, overlap = window_frames(self.settings, manifest)
        batch = self._plan_batch(window)
        message, watermark = choose_message(self.model, self.settings)
        if self.settings.judge:
            self.model.check_judge()
        if self.video is not None:
            self.model.check_vision()
        tokens = [self.model.tokens(prompt.text) for prompt in self.prompts]
        mono = level.downmix(self.mixture)
        if level.is_silent(mono):
            # Nothing to claim: exact silence, rather than what a network makes of it.
            silence = [np.zeros_like(self.mixture) for _ in self.prompts]
            return self._finish(silence, self.mixture.copy(), windows=0, nfe=0, since_s=started_s)
        heard = resample(mono, self.sample_rate, manifest.sample_rate)
        gain = level.gain_to(heard, manifest.input_rms_db)
        heard *= np.float32(gain)
        latents = self._encode(heard)
        plan = plan_windows(len(latents), window, overlap)
        spans = np.stack([self._span_ids(prompt, latents, plan) for prompt in self.prompts])
        flow = self._solve(latents, tokens, spans, plan, batch)
        decoding = Decoding(
            self.model,
            self.prompts,
            self.settings,
            self.progress,
            self.cancellation,
            self.journal,
            Ranking(self.model, latents, plan, self.settings.judge, self.cancellation),
            message,
            Preview(self.journal, gain, manifest.sample_rate, self.sample_rate, self.mixture.shape),
        )
        waveforms, selections = decoding.run(flow, spans, heard)
        stems, residual = self._reconstruct(
            [self._to_mixture_rate(wave / np.float32(gain)) for wave in waveforms]
        )
        nfe = count_evaluations(self.settings.solver, self.settings.steps)
        return self._finish(
            stems,
            residual,
            windows=len(plan.starts),
            nfe=nfe,
            since_s=started_s,
            watermark=watermark,
            selections=selections,
        )

    def _plan_batch(self, window: int) -> int:
        """Size the batches of windows (of so many frames) by the memory that is allowed."""
        channels, samples = self.mixture.shape
        need = count_need(
            self.model.manifest,
            channels=channels,
            samples=samples,
            sample_rate=self.sample_rate,
            prompts=len(self.prompts),
            window=window,
            candidates=self.settings.candidates,
        )
        return plan_batch(need, self.memory_bytes, self.model.most_windows)

    def _encode(self, heard: Array) -> Array:
        """Encode the model-rate mixture (samples,): latents (T, C)."""
        manifest = self.model.manifest
        padded = pad_to_frames(heard, manifest.hop_length)
        frames = len(padded) // manifest.hop_length
        key = fingerprint(padded, manifest.sha256)
        known = self.journal.recall(LATENTS, key)
        if known is not None and known.shape == (frames, manifest.latent_channels):
            return known
        stage = Stage(self.progress, "encode", count_chunks(frames, manifest.codec))
        latents = self.model.encode(padded, self.cancellation, stage.advance)
        self.journal.keep(LATENTS, key, latents)
        return latents

    def _text_features(self, ids: npt.NDArray[np.int64]) -> Array:
        """Encode the tokens (S,) of a prompt: features (S, D)."""
        manifest = self.model.manifest
        key = fingerprint(ids, manifest.sha256)
        known = self.journal.recall(TEXTS, key)
        if known is not None and known.shape == (len(ids), manifest.prompt.text_dim):
            return known
        features = self.model.text_features(ids, self.cancellation)
        self.journal.keep(TEXTS, key, features)
        return features

    def _solve(
        self,
        latents: Array,
        tokens: Sequence[npt.NDArray[np.int64]],
        spans: npt.NDArray[np.int64],
        plan: WindowPlan,
        batch: int,
    ) -> Array:
        """Integrate the flow of all prompts: states (P * K, T, 2C) at t = 1.

        The K candidates of a prompt are rows of the one state, each from its own noise.
        """
        frames, channels = latents.shape
        candidates = self.settings.candidates
        encoded = [self._text_features(ids) for ids in tokens]
        texts = tuple(text for text in encoded for _ in range(candidates))
        seen = self.model.visual_features(self.video, frames, self.cancellation)
        nfe = count_evaluations(self.settings.solver, self.settings.steps)
        runs = nfe * len(plan_batches(texts, len(plan.starts), batch))
        first, start = self._beginning((len(texts), frames, 2 * channels))
        steps = self.settings.steps
        stage = Stage(self.progress, "solve", runs, runs // steps * first)
        field = merged_velocity(
            self.model.velocity(self.cancellation),
            plan,
            Conditions(latents, texts, np.repeat(spans, candidates, axis=0), seen),
            batch,
            stage.advance,
        )
        done = itertools.count(first + 1)

        def on_step(state: Array) -> None:
            if (step := next(done)) < steps:
                self.journal.checkpoint(step, state)

        return solve(field, start, time_grid(steps)[first:], self.settings.solver, on_step)

    def _span_ids(self, prompt: Prompt, latents: Array, plan: WindowPlan) -> npt.NDArray[np.int64]:
        """Mark the frames (T,) of a prompt's spans; of none given, of those the model predicts."""
        manifest = self.model.manifest
        prediction = manifest.span_prediction
        told = prompt.spans or self.video is not None
        if told or prediction is None or not self.settings.predict_spans:
            return frame_ids(prompt.spans, len(latents), manifest.sample_rate, manifest.hop_length)
        heard = predict_frames(
            self.model.span_predictor(prompt.text, self.cancellation),
            latents,
            threshold=prediction.threshold,
            window=plan.length,
            overlap=plan.overlap,
        )
        return np.where(heard, POSITIVE_ID, NULL_ID).astype(np.int64)

    def _beginning(self, shape: tuple[int, int, int]) -> tuple[int, Array]:
        """Return the steps made by an earlier attempt and the state (P * K, T, 2C) after them."""
        resumed = self.journal.resume()
        if resumed is not None and resumed[1].shape == shape:
            return resumed
        # The noise is a matter of seed and frame alone, so that another prompt more or less
        # does not change a stem.
        _, frames, channels = shape
        noises = [
            frame_noise(self.settings.seed, 0, frames, channels, candidate)
            for candidate in range(self.settings.candidates)
        ]
        return 0, np.stack(noises * len(self.prompts))

    def _to_mixture_rate(self, waveform: Array) -> Array:
        """Bring a model-rate waveform to the mixture's rate and its exact length."""
        samples = self.mixture.shape[1]
        return resample(waveform, self.model.manifest.sample_rate, self.sample_rate, samples)

    def _reconstruct(self, waveforms: list[Array]) -> tuple[list[Array], Array]:
        """Turn mono targets and residual at the mixture's rate into stems and their residual."""
        *targets, rest = waveforms
        mode = self.settings.reconstruct
        sizes = self.model.manifest.reconstruction
        channels, samples = self.mixture.shape
        spatial = channels if mode == "wiener" else 1
        plan = plan_masks(samples, self.sample_rate, len(targets), sizes, spatial)
        masked = mode in ("mask", "wiener")
        blocks = plan.rounds * len(plan.blocks) if masked else 1
        stage = Stage(self.progress, "reconstruct", blocks)

        def on_block() -> None:
            self.cancellation.check()
            stage.advance()

        if masked:
            stems = split_by_masks(self.mixture, targets, rest, plan, on_block)
            return stems, remainder(self.mixture, stems)
        stems = copy_to_channels(targets, channels)
        residual = (
            copy_to_channels([rest], channels)[0]
            if mode == "raw"
            else remainder(self.mixture, stems)
        )
        on_block()
        return stems, residual

    def _finish(
        self,
        stems: list[Array],
        residual: Array,
        *,
        windows: int,
        nfe: int,
        since_s: float,
        watermark: int | None = None,
        selections: tuple[Selection, ...] = (),
    ) -> Separation:
        """Put the result and its report together."""
        manifest = self.model.manifest
        settings = self.settings
        channels, samples = self.mixture.shape
        names = tuple(prompt.stem for prompt in self.prompts)
        depth_db = null_depth_db(self.mixture, stems, residual)
        seconds = time.perf_counter() - since_s
        report = Report(
            model=manifest.name,
            model_sha256=manifest.sha256,
            sample_rate=self.sample_rate,
            channels=channels,
            samples=samples,
            seconds=seconds,
            rtf=seconds * self.sample_rate / samples,
            nfe=nfe,
            seed=settings.seed,
            steps=settings.steps,
            solver=settings.solver,
            window_s=settings.window_s,
            overlap_s=settings.overlap_s,
            windows=windows,
            reconstruct=settings.reconstruct,
            provider=self.model.graphs.provider,
            null_depth_db=depth_db,
            stems=names,
            predict_spans=settings.predict_spans,
            candidates=settings.candidates,
            watermark=watermark,
            selections=selections,
        )
        return Separation(dict(zip(names, stems, strict=True)), residual, report)
