"""The stages of a separation in the order of the flow, each of them a module of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridge.flow.solver import count_evaluations
from bridge.flow.windows import WindowPlan, plan_windows, window_frames
from bridge.inference.budget import count_need, plan_batch
from bridge.inference.cancellation import Cancellation
from bridge.inference.codec import count_chunks, pad_to_frames
from bridge.inference.decoding import Decoding, Preview, choose_message
from bridge.inference.journal import LATENTS, TEXTS, Journal, fingerprint
from bridge.inference.model import Model
from bridge.inference.progress import Stage
from bridge.inference.ranking import Ranking
from bridge.inference.solving import Solving
from bridge.inference.span_prediction import predict_frames
from bridge.request import Prompt, ResolvedSettings
from bridge.separation import ProgressCallback, Report, Selection, Separation
from bridge.signal import level
from bridge.signal.reconstruct import null_depth_db, plan_masks, remainder, split_by_masks
from bridge.signal.resampling import resample
from bridge.signal.spans import NULL_ID, POSITIVE_ID, frame_ids
from bridge.signal.views import Views, count_views, listen_to
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
        views = listen_to(self.mixture, self.settings.listen)
        if not len(views.signals):
            # Nothing to claim: exact silence, rather than what a network makes of it.
            silence = [np.zeros_like(self.mixture) for _ in self.prompts]
            return self._finish(silence, self.mixture.copy(), windows=0, nfe=0, since_s=started_s)
        rate = manifest.sample_rate
        heard = np.stack([resample(view, self.sample_rate, rate) for view in views.signals])
        gains = [level.gain_to(view, manifest.input_rms_db) for view in heard]
        gain = np.asarray(gains, dtype=np.float32)[:, np.newaxis]
        heard *= gain
        latents, beside = self._encode_pairs(heard, gain, views)
        plan = plan_windows(latents.shape[1], window, overlap)
        spans = np.stack([self._span_ids(prompt, latents, plan) for prompt in self.prompts])
        solving = Solving(
            self.model,
            self.settings,
            self.progress,
            self.cancellation,
            self.journal,
            latents,
            beside,
            plan,
            batch,
        )
        encoded = [self._text_features(ids) for ids in tokens]
        flow = solving.run(encoded, spans, self.video)
        decoding = Decoding(
            self.model,
            self.prompts,
            self.settings,
            self.progress,
            self.cancellation,
            self.journal,
            Ranking(self.model, latents, plan, self.settings.judge, self.cancellation),
            message,
            Preview(self.journal, gain, rate, self.sample_rate, views),
        )
        waveforms, selections = decoding.run(flow, spans, heard)
        stems, residual = self._reconstruct(
            [self._to_mixture_rate(wave / gain) for wave in waveforms], views
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
            views=count_views(channels, self.settings.listen),
        )
        return plan_batch(need, self.memory_bytes, self.model.most_windows)

    def _encode_pairs(self, heard: Array, gain: Array, views: Views) -> tuple[Array, Array | None]:
        """Encode what is heard, and for a model that is told of it, what is beside that.

        What is beside a signal gets that signal's gain, so that their ratio stays what it is.

        Parameters
        ----------
        heard : ndarray of float32, shape (V, samples)
            At the model's rate, multiplied by
        gain : ndarray of float32, shape (V, 1)
        views : Views

        Returns
        -------
        latents, beside : ndarray of float32, shape (V, T, C)
        """
        if not self.model.manifest.hears_beside:
            return self._encode(heard), None
        count = len(heard)
        paired = [view for view in range(count) if views.beside[view] != view]
        other = [views.beside[view] for view in paired]
        others = heard[other] * (gain[paired] / gain[other])
        coded = self._encode(np.concatenate([heard, others]))
        beside = coded[:count].copy()
        beside[paired] = coded[count:]
        return coded[:count], beside

    def _encode(self, heard: Array) -> Array:
        """Encode what is heard at the model's rate (V, samples): latents (V, T, C)."""
        manifest = self.model.manifest
        padded = pad_to_frames(heard, manifest.hop_length)
        views, samples = padded.shape
        frames = samples // manifest.hop_length
        key = fingerprint(padded, manifest.sha256)
        known = self.journal.recall(LATENTS, key)
        if known is not None and known.shape == (views, frames, manifest.latent_channels):
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

    def _span_ids(self, prompt: Prompt, latents: Array, plan: WindowPlan) -> npt.NDArray[np.int64]:
        """Mark the frames (T,) of a prompt's spans; of none given, of those the model predicts."""
        manifest = self.model.manifest
        prediction = manifest.span_prediction
        told = prompt.spans or self.video is not None
        if told or prediction is None or not self.settings.predict_spans:
            frames = latents.shape[1]
            return frame_ids(
                prompt.spans,
                frames,
                manifest.sample_rate,
                manifest.hop_length,
                complete=manifest.spans_complete,
            )
        predictor = self.model.span_predictor(prompt.text, self.cancellation)
        heard = np.any(
            [
                predict_frames(
                    predictor,
                    view,
                    threshold=prediction.threshold,
                    window=plan.length,
                    overlap=plan.overlap,
                )
                for view in latents
            ],
            axis=0,
        )
        return np.where(heard, POSITIVE_ID, NULL_ID).astype(np.int64)

    def _to_mixture_rate(self, waves: Array) -> Array:
        """Bring waveforms (V, samples) from the model's rate to the mixture's and its length."""
        samples = self.mixture.shape[1]
        rate = self.model.manifest.sample_rate
        return np.stack([resample(wave, rate, self.sample_rate, samples) for wave in waves])

    def _reconstruct(self, waveforms: list[Array], views: Views) -> tuple[list[Array], Array]:
        """Turn targets and residual (V, samples) into stems and their residual."""
        *targets, rest = waveforms
        mode = self.settings.reconstruct
        sizes = self.model.manifest.reconstruction
        channels, samples = self.mixture.shape
        spatial = channels if mode == "wiener" else 1
        masks = len(targets) * len(views.signals)
        plan = plan_masks(samples, self.sample_rate, masks, sizes, spatial)
        masked = mode in ("mask", "wiener")
        blocks = plan.rounds * len(plan.blocks) if masked else 1
        stage = Stage(self.progress, "reconstruct", blocks)

        def on_block() -> None:
            self.cancellation.check()
            stage.advance()

        if masked:
            stems = split_by_masks(self.mixture, targets, rest, views.of_channel, plan, on_block)
            return stems, remainder(self.mixture, stems)
        stems = [views.to_channels(target) for target in targets]
        residual = views.to_channels(rest) if mode == "raw" else remainder(self.mixture, stems)
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
            listen=settings.listen,
            provider=self.model.graphs.provider,
            null_depth_db=depth_db,
            stems=names,
            predict_spans=settings.predict_spans,
            candidates=settings.candidates,
            watermark=watermark,
            selections=selections,
        )
        return Separation(dict(zip(names, stems, strict=True)), residual, report)
