"""A separation by prompts: its stages in the order of the flow, from encoding to the best stems."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from bridge.bundles.manifest import CLAP_RATE
from bridge.errors import InputError
from bridge.flow.diffusion import (
    Conditions,
    count_evaluations,
    merged_velocity,
    plan_batches,
    scheme_of,
    solve,
)
from bridge.flow.noise import frame_noise, message_bits, number_bits
from bridge.flow.windows import WindowPlan, plan_windows, window_frames
from bridge.inference.budget import count_need, plan_batch
from bridge.inference.context import LATENTS, TEXTS, Stage, fingerprint
from bridge.inference.job import Job, notes_on_prompts, notes_on_stems
from bridge.inference.model import Model, count_chunks, pad_to_frames, predict_frames
from bridge.request import RESIDUAL, Prompt
from bridge.scratch import FileArray, LongArray, flat, pairwise_sum
from bridge.separation import PredictedSpans, Ranker, Scores, Selection, Separation
from bridge.signal.reconstruct import remainder
from bridge.signal.resampling import Gain, Views, count_views, listen_to, resample
from bridge.signal.spans import (
    NULL_ID,
    POSITIVE_ID,
    Frames,
    expected_frames,
    frame_ids,
    overlap,
    sounding_frames,
    spans_of,
)

Array = npt.NDArray[np.float32]

_FRAMES: Final = 256  # noise is drawn for this many at a time

#: Predicted spans in a report, of all stems; a report has to fit in the head of a message.
_MOST_SPANS: Final = 1024


@dataclass(frozen=True)
class PromptedJob(Job):
    """A job for a model that separates what a prompt describes, and its stages."""

    model: Model

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
        message, watermark = choose_message(self)
        if self.settings.judge:
            self.model.check_judge()
        if self.videos:
            self.model.check_vision()
        tokens = [self.model.tokens(prompt.text) for prompt in self.prompts]
        steady = self.steady()
        views = listen_to(steady, self.settings.listen, self.scratch)
        if not len(views.signals):
            # Nothing to claim: exact silence, rather than what a network makes of it.
            return self.silence(started_s)
        heard = self.heard(views)
        gain = self.gains(heard, views)

        def raise_level(view: int) -> None:
            for part in self.scratch.stretches(heard.shape[1]):
                heard[view, part] = heard[view, part] * gain[view][part]

        self.each(raise_level, len(heard))
        latents, beside = self._encode_pairs(heard, gain, views)
        plan = plan_windows(latents.shape[1], window, overlap)
        found = {
            prompt.stem: self._predict_frames(prompt, latents, plan)
            for prompt in self.prompts
            if self._predicts(prompt)
        }
        spans = np.stack([self._span_ids(p, latents, found.get(p.stem)) for p in self.prompts])
        encoded = [self._text_features(ids) for ids in tokens]
        flow = solve_flow(self, latents, beside, plan, batch, encoded, spans)
        preview = partial(show_preview, self, gain, views) if self.checkpoints.previews else None
        waveforms, selections = decode_stems(
            self, flow, spans, heard, latents=latents, plan=plan, message=message, preview=preview
        )
        stems, residual = self.reconstruct(steady, self.to_mixture_rate(waveforms, gain), views)
        nfe = count_evaluations(self.settings.solver, self.settings.steps)
        return self.finish(
            stems,
            residual,
            windows=len(plan.starts),
            nfe=nfe,
            since_s=started_s,
            watermark=watermark,
            levels=self.levels(gain, views),
            selections=selections,
            predicted=tuple(
                PredictedSpans(
                    stem,
                    spans_of(heard_in, manifest.sample_rate, manifest.hop_length)[
                        : _MOST_SPANS // len(found)
                    ],
                )
                for stem, heard_in in found.items()
            ),
            notes=(
                *notes_on_prompts(manifest.name, self.prompts, manifest.sounds, self._phrase),
                *notes_on_stems(self.prompts, stems, steady, self.sample_rate),
            ),
        )

    def _phrase(self, text: str) -> Array:
        """Encode a phrase of the manifest or of a prompt: features (S, D)."""
        return self._text_features(self.model.tokens(text))

    def _plan_batch(self, window: int) -> int:
        """Size the batches of windows, of `window` frames each, by the memory that is allowed."""
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
            scratch=self.scratch,
            answered_in_memory=not isinstance(self.mixture, FileArray),
        )
        return plan_batch(need, self.memory_bytes, self.model.most_windows)

    def _encode_pairs(
        self, heard: LongArray, gain: Sequence[Gain], views: Views
    ) -> tuple[LongArray, LongArray | None]:
        """Encode the views, and the channel beside each for a model that is given it.

        The channel beside a view gets that view's gain, so that their ratio stays as it is.

        Parameters
        ----------
        heard : array of float32, shape (V, samples)
            At the model's rate, multiplied by
        gain : sequence of Gain
        views : Views

        Returns
        -------
        latents, beside : array of float32, shape (V, T, C)
        """
        if not self.model.manifest.hears_beside:
            return self._encode(heard), None
        count = len(heard)
        paired = [view for view in range(count) if views.beside[view] != view]
        other = [views.beside[view] for view in paired]
        both = self.scratch.zeros((count + len(paired), heard.shape[1]))
        for part in self.scratch.stretches(heard.shape[1]):
            both[:count, part] = heard[:, part]
            for row, (view, beyond) in enumerate(zip(paired, other, strict=True), count):
                both[row, part] = heard[beyond, part] * (gain[view][part] / gain[beyond][part])
        coded = list(self._encode(both))
        beside = coded[:count]
        for row, view in enumerate(paired, count):
            beside[view] = coded[row]
        return self.scratch.copy(coded[:count]), self.scratch.copy(beside)

    def _encode(self, heard: LongArray) -> LongArray:
        """Encode what is heard at the model's rate (V, samples): latents (V, T, C)."""
        manifest = self.model.manifest
        padded = pad_to_frames(heard, manifest.hop_length, self.scratch)
        views, samples = padded.shape
        frames = samples // manifest.hop_length
        key = fingerprint(padded, manifest.sha256)
        known = self.checkpoints.recall(LATENTS, key)
        if known is not None and known.shape == (views, frames, manifest.latent_channels):
            return known
        stage = Stage(self.progress, "encode", count_chunks(frames, manifest.codec))
        latents = self.model.encode(padded, self.cancellation, stage.advance, self.scratch)
        self.checkpoints.keep(LATENTS, key, latents)
        return latents

    def _text_features(self, ids: npt.NDArray[np.int64]) -> Array:
        """Encode the tokens (S,) of a prompt: features (S, D)."""
        manifest = self.model.manifest
        key = fingerprint(ids, manifest.sha256)
        known = self.checkpoints.recall(TEXTS, key)
        if known is not None and known.shape == (len(ids), manifest.prompt.text_dim):
            return np.asarray(known)
        features = self.model.text_features(ids, self.cancellation)
        self.checkpoints.keep(TEXTS, key, features)
        return features

    def _predicts(self, prompt: Prompt) -> bool:
        """Whether the model is to find out where a prompt is heard."""
        told = prompt.spans or prompt.stem in self.videos
        predictor = self.model.manifest.span_prediction
        return not told and predictor is not None and self.settings.predict_spans

    def _predict_frames(self, prompt: Prompt, latents: LongArray, plan: WindowPlan) -> Frames:
        """Mark the frames (T,) in which the model hears a prompt in any view (V, T, C)."""
        prediction = self.model.manifest.span_prediction
        threshold = 0.5 if prediction is None else prediction.threshold
        predictor = self.model.span_predictor(prompt.text, self.cancellation)
        heard = [
            predict_frames(
                predictor,
                view,
                threshold=threshold,
                window=plan.length,
                overlap=plan.overlap,
            )
            for view in latents
        ]
        return np.asarray(np.any(heard, axis=0))

    def _span_ids(
        self, prompt: Prompt, latents: LongArray, heard: Frames | None
    ) -> npt.NDArray[np.int64]:
        """Mark the frames (T,) of a prompt's spans, or of those predicted."""
        if heard is not None:
            return np.where(heard, POSITIVE_ID, NULL_ID).astype(np.int64)
        manifest = self.model.manifest
        return frame_ids(
            prompt.spans,
            latents.shape[1],
            manifest.sample_rate,
            manifest.hop_length,
            complete=manifest.spans_complete,
        )


def solve_flow(
    job: PromptedJob,
    latents: LongArray,
    beside: LongArray | None,
    plan: WindowPlan,
    batch: int,
    texts: Sequence[Array],
    spans: npt.NDArray[np.int64],
) -> LongArray:
    """Integrate the flow of a job.

    All are rows of one state: of each prompt the K candidates, each from its own noise, and of
    each candidate the V views.

    Parameters
    ----------
    job : PromptedJob
    latents : array of float32, shape (V, T, C)
        Of the views of the mixture.
    beside : array of float32, shape (V, T, C), or None
        Of the other channel of each view, for a model that is given it.
    plan : WindowPlan
    batch : int
        Most windows per call of the network.
    texts : sequence of ndarray of float32, shape (S, D)
        One per prompt.
    spans : ndarray of int64, shape (P, T)
        Span ids per prompt.

    Returns
    -------
    array of float32, shape (P, K, V, T, 2C)
        The states at t = 1.
    """
    views, frames, channels = latents.shape
    prompts, candidates = len(texts), job.settings.candidates
    per_prompt = candidates * views
    seen = [
        job.model.visual_features(job.videos.get(prompt.stem), frames, job.cancellation)
        for prompt in job.prompts
    ]
    conditions = Conditions(
        latents,
        tuple(range(views)) * (prompts * candidates),
        tuple(text for text in texts for _ in range(per_prompt)),
        np.repeat(spans, per_prompt, axis=0),
        tuple(feature for feature in seen for _ in range(per_prompt)),
        beside,
    )
    scheme = scheme_of(job.settings, job.model.manifest)
    nfe = len(scheme.times)
    batches = len(plan_batches(conditions.texts, len(plan.starts), batch))
    start = _noise(job, latents, prompts)
    resumed = job.checkpoints.resume()
    if resumed is not None and resumed[1].shape[1:] != start.shape:
        resumed = None
    made = 0 if resumed is None else resumed[0]
    stage = Stage(job.progress, "solve", nfe * batches, made * batches)
    field = merged_velocity(
        job.model.velocity(job.cancellation),
        plan,
        conditions,
        batch,
        stage.advance,
        job.model.bind_velocity(job.cancellation) if job.model.resident else None,
    )

    def on_evaluation(done: int, state: Sequence[LongArray]) -> None:
        if done < nfe:
            job.checkpoints.checkpoint(done, state)

    with job.model.sharing(batch, job.cancellation):
        flow = solve(field, start, scheme, on_evaluation, resumed)
    return flow.reshape(prompts, candidates, views, frames, 2 * channels)


def _noise(job: PromptedJob, latents: LongArray, prompts: int) -> LongArray:
    """Draw the states (rows, T, 2C) at t = 0."""
    views, frames, channels = latents.shape
    candidates = job.settings.candidates
    origin = 0 if job.excerpt is None else job.excerpt.first_frame
    states = job.scratch.zeros((prompts * candidates * views, frames, 2 * channels))

    # The noise depends on seed and frame alone, so that adding a prompt does not change the
    # other stems. Views share it, so that their samples stay coherent.
    def draw(stretch: int) -> None:
        first = stretch * _FRAMES
        count = min(_FRAMES, frames - first)
        for candidate in range(candidates):
            noise = frame_noise(job.settings.seed, origin + first, count, 2 * channels, candidate)
            for row in range(len(states)):
                if row // views % candidates == candidate:
                    states[row, first : first + count] = noise

    job.each(draw, -(-frames // _FRAMES))
    return states


Judge = Callable[[Array, Array], Array]

#: What a point of similarity is worth against one of the judge's overall score, in the ensemble
#: with which SAM Audio was published.
_CLAP_WEIGHT: Final = 5.0


def choose(
    job: PromptedJob,
    prompt: Prompt,
    ids: npt.NDArray[np.int64],
    waves: Sequence[LongArray],
    latents: LongArray,
    plan: WindowPlan,
) -> Selection:
    """Choose among the candidates of a stem.

    Parameters
    ----------
    job : PromptedJob
    prompt : Prompt
        Of the stem.
    ids : ndarray of int64, shape (T,)
        Its span ids.
    waves : sequence of array of float32, shape (V, samples)
        The candidates at the model's rate, at least one.
    latents : array of float32, shape (V, T, C)
        Of the views of the mixture.
    plan : WindowPlan
        The judge hears a window at a time: like the flow, it was trained on clips.
    """
    several = len(waves) > 1
    model = job.model
    if (job.settings.judge or several) and (model.has_judge or model.has_clap):
        judged: list[Scores | None] = [None] * len(waves)
        alike: list[float | None] = [None] * len(waves)
        if model.has_judge:
            judge = model.judge(prompt.text, job.cancellation)
            judged = [_scores(job, judge, wave, latents, plan) for wave in waves]
        if model.has_clap:
            alike = [_similarity(job, prompt.text, wave) for wave in waves]
        totals = [
            (one.overall if one else 0.0) + _CLAP_WEIGHT * (other or 0.0)
            for one, other in zip(judged, alike, strict=True)
        ]
        best = int(np.argmax(totals))
        ranker: Ranker = "judge" if model.has_judge else "clap"
        if model.has_judge and model.has_clap:
            ranker = "ensemble"
        return Selection(prompt.stem, best, ranker if several else None, judged[best], alike[best])
    if not several:
        return Selection(prompt.stem, 0)
    expected = expected_frames(ids)
    if expected is None:
        return Selection(prompt.stem, int(np.argmax(agreement(waves))), "agreement")
    manifest = job.model.manifest
    sizes = (manifest.hop_length, manifest.sample_rate)
    heard = [np.any([sounding_frames(v, *sizes) for v in wave], axis=0) for wave in waves]
    best = int(np.argmax([overlap(frames, expected) for frames in heard]))
    return Selection(prompt.stem, best, "spans")


def _scores(
    job: PromptedJob, judge: Judge, wave: LongArray, latents: LongArray, plan: WindowPlan
) -> Scores:
    """Average the judge's scores of a candidate over its windows."""
    padded = pad_to_frames(wave, job.model.manifest.hop_length, job.scratch)
    coded = job.model.encode(padded, job.cancellation, lambda: None, job.scratch)
    parts = [slice(start, start + plan.length) for start in plan.starts]
    scores = np.mean(
        [
            judge(mixture[part], stem[part])
            for mixture, stem in zip(latents, coded, strict=True)
            for part in parts
        ],
        axis=0,
    )
    return Scores(*(float(score) for score in scores))


def _similarity(job: PromptedJob, text: str, wave: LongArray) -> float:
    """Compare a candidate (V, samples), the mean of its views, with a text.

    CLAP hears pieces of the length that it was trained on; a shorter one is repeated to fill it,
    as in training. Their similarities are averaged by how much of each sounds, for of silence
    CLAP says something too.
    """
    similarity, length = job.model.clap(text, job.cancellation)
    rate, hop = job.model.manifest.sample_rate, job.model.manifest.hop_length
    sounds = np.any([sounding_frames(view, hop, rate) for view in wave], axis=0)
    piece = -(-length * rate // CLAP_RATE)
    found, weights = [], []
    for start in range(0, wave.shape[1], piece):
        part = np.mean(wave[:, start : start + piece], axis=0, dtype=np.float32)
        sound = resample(np.atleast_1d(part), rate, CLAP_RATE)[:length]
        filled = np.zeros(length, np.float32)
        repeated = np.tile(sound, length // len(sound))
        filled[: len(repeated)] = repeated
        frames = slice(start // hop, (start + piece) // hop)
        found.append(similarity(filled))
        weights.append(np.count_nonzero(sounds[frames]))
    return float(np.average(found, weights=weights if any(weights) else None))


def agreement(waves: Sequence[LongArray]) -> list[float]:
    """Measure how close each waveform is to the others.

    Parameters
    ----------
    waves : sequence of array of float32, any one shape

    Returns
    -------
    list of float
        Minus the summed energy of its differences from the others, 0 being the best.
    """

    def apart(one: LongArray, other: LongArray) -> float:
        first, second = flat(one), flat(other)
        return pairwise_sum(
            lambda a, b: np.square(first[a:b] - second[a:b], dtype=np.float64), one.size
        )

    return [-sum(apart(wave, other) for other in waves) for wave in waves]


def choose_message(job: PromptedJob) -> tuple[Array, int | None]:
    """Choose the message of the decoder's watermark.

    Returns
    -------
    bits : ndarray of float32, shape (message length,)
    number : int or None
        The same as a number, first bit highest; None for a model without a watermark.

    Raises
    ------
    InputError
        If a message was asked for that the model cannot write.
    """
    length = job.model.message_length
    asked = job.settings.watermark
    if asked is None:
        bits = message_bits(job.settings.seed, length)
    elif asked < 1 << length:
        bits = number_bits(asked, length)
    else:
        raise InputError(
            f"watermark is {asked}, but the model {job.model.manifest.name!r} "
            + (f"writes {length} bits; give a smaller number" if length else "writes none")
        )
    number = int("".join(str(int(bit)) for bit in bits), 2) if length else None
    return bits, number


def show_preview(
    job: PromptedJob, gains: Sequence[Gain], views: Views, stem: str, start: int, part: Array
) -> None:
    """Show a stretch of a stem as it is decoded, at the mixture's rate.

    Parameters
    ----------
    job : PromptedJob
        Its `checkpoints` pass the stretch on.
    gains : sequence of Gain
        What each view was multiplied by for the model, at its rate.
    views : Views
        Of the mixture.
    stem : str
    start : int
        First sample of the stretch, at the model's rate.
    part : ndarray of float32, shape (V, samples)
    """
    model_rate = job.model.manifest.sample_rate
    first = start * job.sample_rate // model_rate
    inside = slice(start, start + part.shape[1])
    waves = np.stack(
        [
            resample(view / gain[inside], model_rate, job.sample_rate)
            for view, gain in zip(part, gains, strict=True)
        ]
    )
    waves = waves[:, : views.signals.shape[1] - first]
    if waves.size:
        job.checkpoints.preview(stem, first, views.to_channels(waves))


def decode_stems(
    job: PromptedJob,
    flow: LongArray,
    spans: npt.NDArray[np.int64],
    heard: LongArray,
    *,
    latents: LongArray,
    plan: WindowPlan,
    message: Array,
    preview: Callable[[str, int, Array], None] | None,
) -> tuple[list[LongArray], tuple[Selection, ...]]:
    """Decode the final states of a job, and choose among its candidates.

    With one prompt the residual is the model's own, where the reconstruction uses one. With
    several, no residual of the model is what all of them leave: it is the mixture without the
    targets.

    Parameters
    ----------
    job : PromptedJob
    flow : array of float32, shape (P, K, V, T, 2C)
        Final states of the K candidates of P prompts to V views.
    spans : ndarray of int64, shape (P, T)
        Span ids per prompt.
    heard : array of float32, shape (V, samples)
        The views of the mixture at the model's rate.
    latents, plan
        See `choose`.
    message : ndarray of float32
        Bits of the watermark.
    preview : callable or None
        Takes the name of a stem, a first sample and a stretch of it; see `show_preview`.

    Returns
    -------
    waveforms : list of array of float32, shape (V, samples)
        The targets, followed by the residual.
    selections : tuple of Selection
        One per prompt; empty where there was nothing to choose or to judge.
    """
    channels = job.model.manifest.latent_channels
    prompts, candidates, _, frames, _ = flow.shape
    own_rest = prompts == 1 and job.settings.reconstruct != "null"
    chunks = count_chunks(frames, job.model.manifest.codec)
    stage = Stage(job.progress, "decode", chunks * (prompts * candidates + own_rest))

    def decode(state: LongArray, half: slice, shown_as: str | None) -> LongArray:
        return job.model.decode(
            state,
            message,
            job.cancellation,
            stage.advance,
            None if preview is None or shown_as is None else partial(preview, shown_as),
            samples=heard.shape[1],
            channels=half,
            scratch=job.scratch,
        )

    target, residual = slice(channels), slice(channels, None)

    waveforms, selections = [], []
    for number, prompt in enumerate(job.prompts):
        # Among several candidates it is not known yet which becomes the stem.
        shown_as = prompt.stem if candidates == 1 else None
        waves = [decode(state, target, shown_as) for state in flow[number]]
        chosen = choose(job, prompt, spans[number], waves, latents, plan)
        waveforms.append(waves[chosen.candidate])
        selections.append(chosen)
    if own_rest:
        state = flow[0][selections[0].candidate]
        waveforms.append(decode(state, residual, RESIDUAL))
    else:
        rest = job.scratch.zeros(heard.shape)
        waveforms.append(remainder(heard, waveforms, rest))
    telling = candidates > 1 or job.settings.judge
    return waveforms, tuple(selections) if telling else ()
