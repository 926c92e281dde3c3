"""The separation engine: from a mixture and prompts to stems, in this process.

An edit of a mixture or of its spans changes stems that were computed before only in the windows
that it touches. They are separated again, from the noise that their frames have in the whole
mixture and at its levels. Where a window that is computed again overlaps one that is not, the stems
pass from those of before to the new ones; both heard the same there.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict, replace

from bridge.bundles.bundle import find_bundle, load_manifest, paths_of_pair
from bridge.bundles.manifest import BundleManifest, Manifest, NamedStemsManifest, resolve
from bridge.errors import InputError
from bridge.flow.windows import WindowPlan, plan_windows, window_frames
from bridge.inference.context import Cancellation, Checkpoints, Turns
from bridge.inference.graphs import JoinedRuns
from bridge.inference.job import Excerpt
from bridge.inference.model import Model
from bridge.inference.named_stems import NamedStems, NamedStemsJob
from bridge.inference.pipeline import PromptedJob
from bridge.request import (
    RESIDUAL,
    Prompt,
    ResolvedSettings,
    Settings,
    check_mixture,
    check_prompts,
    make_settings,
)
from bridge.scratch import DEFAULT, FileArray, LongArray, Scratch
from bridge.separation import ProgressCallback, Separation
from bridge.signal.reconstruct import null_depth_db, remainder
from bridge.signal.resampling import resampled_length
from bridge.signal.spans import frame_ids
from bridge.video import Video, Videos, check_videos

Array: TypeAlias = npt.NDArray[np.float32]


class Engine:
    """Separates mixtures with one model, or with a pair of them.

    May be shared by threads: calls of `separate` run one after another, since each of them
    uses all cores, unless they run `together`.

    Parameters
    ----------
    model : str or path
        Name of a bundle, or its directory. ``"A+B"`` is a pair: the stems that prompts mean in A, a
        network with a closed list of them, are taken out first. B hears what is left, and gets
        the other prompts. The settings are B's; A takes from them how to reconstruct.
    providers : sequence of str or None
        ONNX Runtime execution providers, best first: ``"cpu"``, ``"cuda"`` or ONNX Runtime's own
        names. None takes CUDA if it works here and the CPU otherwise; the report says which.
    threads : int or None
        Threads for one job on the CPU, four of them at most for what lies between its graphs; None
        takes the physical cores.
    memory_bytes : int or None
        Memory for a job, besides the networks' weights; None takes what is free.
    scratch : Scratch
        Where jobs keep what is too long for memory.
    together : bool
        Let calls from several threads share the evaluations of the network, where batches of
        windows pay: on a GPU. All else they do in turns. For a batch of another size a GPU's
        kernels may sum in another order, so that the last bits of a stem can depend on what was
        separated beside it. On a CPU calls run one after another.

    Raises
    ------
    ModelError
        If the bundle is unknown or damaged.
    ProviderError
        If a requested provider is missing.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "mini",
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        memory_bytes: int | None = None,
        scratch: Scratch = DEFAULT,
        together: bool = False,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._scratch = scratch
        directory = find_bundle(model)
        self._manifest = load_manifest(directory)
        self._first: NamedStems | None = None
        if (pair := paths_of_pair(directory)) is not None:
            known = load_manifest(pair[0])
            assert isinstance(known, NamedStemsManifest)  # of a pair, whose manifest was read
            self._first = NamedStems(pair[0], known, providers=providers, threads=threads)
            directory = pair[1]
        manifest = load_manifest(directory)
        self._model: Model | NamedStems = (
            NamedStems(directory, manifest, providers=providers, threads=threads)
            if isinstance(manifest, NamedStemsManifest)
            else Model(directory, providers=providers, threads=threads)
        )
        self._turns = Turns()
        if together and isinstance(self._model, Model) and self._model.most_windows > 1:
            self._model.joined = JoinedRuns(self._model.graphs, self._turns)

    @property
    def manifest(self) -> BundleManifest:
        """The model's manifest; that of a pair has the defaults of the second."""
        return self._manifest

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self._model.graphs.provider

    @property
    def fallback(self) -> str:
        """Why it computes on another provider than was wanted; empty if it does not."""
        return self._model.graphs.fallback

    @fallback.setter
    def fallback(self, reason: str) -> None:
        self._model.graphs.fallback = reason
        if self._first is not None:
            self._first.graphs.fallback = reason

    @property
    def loaded(self) -> tuple[str, ...]:
        """Roles of the networks that are in memory."""
        first = () if self._first is None else self._first.graphs.loaded
        return (*first, *self._model.graphs.loaded)

    def separate(
        self,
        mixture: npt.ArrayLike | FileArray,
        sample_rate: int,
        prompts: Sequence[Prompt | str],
        settings: Settings | None = None,
        *,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
        checkpoints: Checkpoints | None = None,
        video: Videos | None = None,
        **options: object,
    ) -> Separation:
        """Extract one stem per prompt from a mixture.

        Parameters
        ----------
        mixture : array_like of float32, or FileArray, shape (channels, samples)
            Full scale at 1.0, any number of channels. Where the mixture lies in a file, so do
            the stems.
        sample_rate : int
            In Hz, any.
        prompts : sequence of Prompt or str
            At least one.
        settings : Settings or None
            How to separate; None for the model's defaults.
        progress : callable or None
            Receives a `Progress` after every piece of work, on this thread.
        cancel : threading.Event or None
            Set it from another thread to stop; networks stop while they run.
        checkpoints : Checkpoints or None
            Keep what this job and others can reuse; see `bridge.inference.context`.
        video : Video, dict of str to Video, or None
            Frames in which the object to extract is masked out; needs a model with a vision
            encoder. With several prompts, those of stems by their names.
        **options
            Fields of `Settings`, in place of those in `settings`.

        Returns
        -------
        Separation
            With the mixture's rate, channels and length. The same call with the same seed gives
            the same bits on the same machine.

        Raises
        ------
        InputError
            If the mixture, a prompt or a setting cannot be used.
        Cancelled
            If `cancel` was set.
        ModelError, ProviderError
            If a graph cannot be loaded, or not on the provider it should run on.
        MemoryBudgetError
            If the job cannot fit in memory; raised before it starts, with the numbers.
        """
        resolved = resolve(make_settings(settings, **options), self.manifest)
        audio, rate = check_mixture(mixture, sample_rate)
        checked = check_prompts(prompts, audio.shape[1] / rate)
        seen = check_videos(video, checked)
        return self._run(audio, rate, checked, resolved, progress, cancel, checkpoints, seen)

    def _run(
        self,
        audio: LongArray,
        rate: int,
        prompts: tuple[Prompt, ...],
        settings: ResolvedSettings,
        progress: ProgressCallback | None,
        cancel: threading.Event | None,
        checkpoints: Checkpoints | None = None,
        seen: Mapping[str, Video] | None = None,
        excerpt: Excerpt | None = None,
    ) -> Separation:
        with Cancellation(cancel) as cancellation, self._turns.turn(cancellation.check):

            def run(
                model: Model | NamedStems,
                audio: LongArray,
                prompts: tuple[Prompt, ...],
                settings: ResolvedSettings,
            ) -> Separation:
                job = (
                    audio,
                    rate,
                    prompts,
                    settings,
                    progress,
                    cancellation,
                    checkpoints or Checkpoints(),
                    self._memory_bytes,
                    seen or {},
                    self._scratch,
                    excerpt,
                )
                if isinstance(model, NamedStems):
                    return NamedStemsJob(model, *job).run()
                return PromptedJob(model, *job).run()

            if self._first is None:
                return run(self._model, audio, prompts, settings)
            return self._run_pair(self._first, run, audio, prompts, settings, seen or {})

    def _run_pair(
        self,
        first: NamedStems,
        run: Callable[..., Separation],
        audio: LongArray,
        prompts: tuple[Prompt, ...],
        settings: ResolvedSettings,
        seen: Mapping[str, Video],
    ) -> Separation:
        """Take out the stems that the first of a pair knows, and ask the second for the others."""
        began_s = time.perf_counter()
        known = tuple(p for p in prompts if first.knows(p.text) and p.stem not in seen)
        others = tuple(p for p in prompts if p not in known)
        found = []
        if known:
            own = replace(
                resolve(Settings(), first.manifest),
                seed=settings.seed,
                reconstruct=settings.reconstruct,
            )
            found.append(run(first, audio, known, own))
        if others:
            left = found[0].residual if found else audio
            found.append(run(self._model, left, others, settings))
        reports = [each.report for each in found]
        by_name = {name: stem for each in found for name, stem in each.stems.items()}
        stems = {prompt.stem: by_name[prompt.stem] for prompt in prompts}
        order = ["", *stems]
        notes = {note: None for each in reports for note in each.notes}
        seconds = time.perf_counter() - began_s
        report = replace(
            reports[-1],
            **asdict(settings) | {"watermark": reports[-1].watermark},
            model=self._manifest.name,
            model_sha256=self._manifest.sha256,
            seconds=seconds,
            rtf=seconds * reports[-1].sample_rate / audio.shape[1],
            nfe=max(each.nfe for each in reports),
            windows=max(each.windows for each in reports),
            null_depth_db=null_depth_db(audio, list(stems.values()), found[-1].residual),
            stems=tuple(stems),
            notes=tuple(sorted(notes, key=lambda note: order.index(note.stem))),
        )
        return Separation(stems, found[-1].residual, report)

    def update(
        self,
        earlier: Separation,
        before: npt.ArrayLike | FileArray,
        mixture: npt.ArrayLike | FileArray,
        prompts: Sequence[Prompt | str],
        earlier_prompts: Sequence[Prompt | str] | None = None,
        *,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Separation:
        """Separate a mixture that is an edit of one separated before, where it was edited.

        Windows that hold a changed sample or span are computed again, with the settings, the noise
        and the levels of before. All samples outside of them are those of `earlier` to the bit, and
        the cost is in proportion to what changed.

        Parameters
        ----------
        earlier : Separation
            What this engine, or one with the same model, made of `before`.
        before : array_like of float32, or FileArray, shape (channels, samples)
        mixture : array_like of float32, or FileArray, shape (channels, samples)
            Of the same shape and rate.
        prompts : sequence of Prompt or str
            As then, but for their spans.
        earlier_prompts : sequence of Prompt or str, or None
            Those of then; None if they are the same.
        progress, cancel, checkpoints
            See `separate`; what is kept is of a job that separates all again.

        Returns
        -------
        Separation
            Its report tells `seconds`, `rtf` and `windows` of what was computed, and otherwise of
            the whole. Stems chosen among candidates, or by spans that the model predicts, depend on
            the whole mixture: then all of it is separated again, as where most windows changed.

        Raises
        ------
        InputError
            If shapes, prompts or the model are not those of `earlier`.
        StembridgeError
            As `separate` says.
        """
        report = earlier.report
        rate = report.sample_rate
        old, _ = check_mixture(before, rate)
        new, _ = check_mixture(mixture, rate)
        duration_s = new.shape[1] / rate
        asked = check_prompts(prompts, duration_s)
        known = asked if earlier_prompts is None else check_prompts(earlier_prompts, duration_s)
        self._check_same(earlier, old, new, asked, known)
        if self._first is not None:
            raise InputError(
                f"{self._manifest.name!r} is a pair of models, which has no update; separate anew"
            )
        if (levels := earlier.levels) is None:
            raise InputError(
                "the earlier separation was made by a server or from a video, and does not tell at "
                "which level the model heard it; separate anew"
            )
        settings = resolve(report.settings, self.manifest)
        window, overlap = window_frames(settings, self.manifest)
        hop, model_rate = self.manifest.hop_length, self.manifest.sample_rate
        frames = -(-resampled_length(new.shape[1], rate, model_rate) // hop)
        plan = plan_windows(frames, window, overlap)
        changed = changed_frames(old, new, rate, plan.frames, self.manifest)
        changed |= changed_spans(known, asked, plan.frames, self.manifest)
        todo = list(regions(changed, plan, new.shape[1], rate, self.manifest))
        covered = sum(region.end_frame - region.first_frame for region in todo)
        whole = report.candidates > 1 or report.judge or report.predicted
        if todo and (whole or 2 * covered > plan.frames):
            return self._run(new, rate, asked, settings, progress, cancel, checkpoints)
        began_s = time.perf_counter()
        names = [*report.stems, RESIDUAL]
        sounds: list[LongArray] = [*earlier.stems.values(), earlier.residual]
        patched = [self._scratch.like(new) for _ in sounds]
        for part in self._scratch.stretches(new.shape[1]):
            for sound, out in zip(sounds, patched, strict=True):
                out[:, part] = sound[:, part]
        for region in todo:
            part = slice(region.start, region.end)
            start_s, end_s = region.start / rate, region.end / rate
            excerpt = Excerpt(region.first_frame, levels)
            within = tuple(prompt.within(start_s, end_s) for prompt in asked)
            audio = np.ascontiguousarray(new[:, part])
            found = self._run(audio, rate, within, settings, progress, cancel, excerpt=excerpt)
            again = [*found.stems.values(), found.residual]
            for sound, stem, out in zip(sounds, again, patched, strict=True):
                patch(sound, stem, region, out)
            if report.reconstruct != "raw":
                rest = remainder(audio, [out[:, part] for out in patched[:-1]])
                patched[-1][:, part] = rest[:, :]
        seconds = time.perf_counter() - began_s
        stems = dict(zip(names, patched, strict=True))
        residual = stems.pop(RESIDUAL)
        told = replace(
            report,
            seconds=seconds,
            rtf=seconds / duration_s,
            windows=sum(bool(changed[s : s + plan.length].any()) for s in plan.starts),
            null_depth_db=null_depth_db(new, list(stems.values()), residual),
        )
        return Separation(
            cast(dict[str, Array], stems), cast(Array, residual), told, earlier.levels
        )

    def _check_same(
        self,
        earlier: Separation,
        before: LongArray,
        mixture: LongArray,
        prompts: Sequence[Prompt],
        known: Sequence[Prompt],
    ) -> None:
        """Raise an InputError unless one mixture can be an edit of the other."""
        report = earlier.report
        shape = (report.channels, report.samples)
        if before.shape != shape or mixture.shape != shape:
            raise InputError(
                f"the mixtures have the shapes {before.shape} and {mixture.shape}, but the earlier "
                f"separation {shape}; separate a mixture of another length anew"
            )
        if report.model_sha256 != self.manifest.sha256:
            raise InputError(
                f"the earlier separation is of another model, {report.model!r}; separate anew"
            )
        told = [[(p.text, p.stem) for p in some] for some in (prompts, known)]
        if told[0] != told[1] or tuple(p.stem for p in prompts) != report.stems:
            raise InputError(
                f"the earlier separation has the stems {', '.join(report.stems)}; an update takes "
                "the same prompts in the same order, with other spans at most"
            )

    def close(self) -> None:
        """Free the model's networks. Further use of the engine loads them again."""
        with self._turns.turn():
            self._model.graphs.close()
            if self._first is not None:
                self._first.graphs.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Region:
    """A run of windows that are computed again.

    Attributes
    ----------
    first_frame, end_frame : int
        Latent frames that they cover.
    start, end : int
        Samples of the mixture.
    fade_in, fade_out : int
        Samples at either end over which the stems of before become the new ones.
    """

    first_frame: int
    end_frame: int
    start: int
    end: int
    fade_in: int
    fade_out: int

    def weights(self) -> npt.NDArray[np.float32]:
        """Share of the new stems at each sample, shape (end - start,)."""
        share = np.ones(self.end - self.start, np.float32)
        share[: self.fade_in] = _ramp(self.fade_in)
        share[len(share) - self.fade_out :] *= _ramp(self.fade_out)[::-1]
        return share


def changed_frames(
    before: LongArray,
    after: LongArray,
    sample_rate: int,
    frames: int,
    manifest: BundleManifest,
) -> npt.NDArray[np.bool_]:
    """Mark the latent frames (frames,) that hear something else than before.

    Parameters
    ----------
    before, after : array of float32, shape (channels, samples)
    sample_rate : int
        Of both, in Hz.
    frames : int
    manifest : BundleManifest
    """
    changed = np.zeros(frames, dtype=np.bool_)
    codec = manifest.codec if isinstance(manifest, Manifest) else None
    around = 1 + (codec.encoder_context_frames if codec is not None else 0)
    per_sample = manifest.sample_rate / sample_rate / manifest.hop_length
    for part in DEFAULT.stretches(after.shape[1]):
        differ = np.flatnonzero((before[:, part] != after[:, part]).any(axis=0)) + part.start
        touched = np.unique((differ * per_sample).astype(np.int64))
        for offset in range(-around, around + 1):
            changed[np.clip(touched + offset, 0, frames - 1)] = True
    return changed


def changed_spans(
    before: Sequence[Prompt], after: Sequence[Prompt], frames: int, manifest: BundleManifest
) -> npt.NDArray[np.bool_]:
    """Mark the latent frames (frames,) for which the spans of a prompt say something else."""
    complete = manifest.spans_complete if isinstance(manifest, Manifest) else True
    sizes = (frames, manifest.sample_rate, manifest.hop_length)
    changed = np.zeros(frames, dtype=np.bool_)
    for old, new in zip(before, after, strict=True):
        changed |= frame_ids(old.spans, *sizes, complete=complete) != frame_ids(
            new.spans, *sizes, complete=complete
        )
    return changed


def regions(
    changed: npt.NDArray[np.bool_],
    plan: WindowPlan,
    samples: int,
    sample_rate: int,
    manifest: BundleManifest,
) -> Iterator[Region]:
    """Yield the runs of windows that hold a changed frame.

    Parameters
    ----------
    changed : ndarray of bool, shape (frames,)
    plan : WindowPlan
        Over those frames.
    samples, sample_rate : int
        Of the mixture.
    manifest : BundleManifest
    """
    touched = [changed[start : start + plan.length].any() for start in plan.starts]
    last = len(touched) - 1
    per_frame = manifest.hop_length * sample_rate / manifest.sample_rate
    window = 0
    while window <= last:
        if not touched[window]:
            window += 1
            continue
        first = window
        while window < last and touched[window + 1]:
            window += 1
        first_frame, end_frame = plan.starts[first], plan.starts[window] + plan.length
        before = 0 if first == 0 else plan.starts[first - 1] + plan.length - first_frame
        after = 0 if window == last else end_frame - plan.starts[window + 1]
        start = math.ceil(first_frame * per_frame)
        length = math.floor((end_frame - first_frame) * per_frame)
        yield Region(
            first_frame,
            end_frame,
            start,
            samples if window == last else min(samples, start + length),
            math.floor(before * per_frame),
            math.floor(after * per_frame),
        )
        window += 1


def patch(before: LongArray, new: LongArray, region: Region, out: LongArray) -> None:
    """Write into `out`, a copy of `before`, the new sound of a region (channels, end - start)."""
    weights = region.weights()
    for part in DEFAULT.stretches(new.shape[1]):
        inside = slice(region.start + part.start, region.start + part.stop)
        old = before[:, inside]
        out[:, inside] = np.where(
            weights[part] == 1, new[:, part], old + weights[part] * (new[:, part] - old)
        )


def _ramp(length: int) -> npt.NDArray[np.float32]:
    return np.asarray(
        np.sin((np.arange(length) + 0.5) * (np.pi / (2 * max(length, 1)))) ** 2, np.float32
    )
