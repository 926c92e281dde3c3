"""A job: one call of `Engine.separate`, and what every model does at its start and its end.

At the end come notes for the user: words that are new to the model, and stems that are silent. A
model trained on certain sounds answers other words with whatever it makes of them. Its manifest
lists the phrases it was trained on; a prompt is known by its words if one of those phrases lies in
it, or if most of its own words do in all of them together.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol, cast

import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict, replace

from bridge.bundles.manifest import BundleManifest, Sound
from bridge.errors import ModelError
from bridge.inference.context import Cancellation, Checkpoints, Stage
from bridge.inference.graphs import Graphs
from bridge.request import RESIDUAL, Prompt, ResolvedSettings
from bridge.scratch import DEFAULT, LongArray, Scratch, flat, in_turn, pairwise_sum
from bridge.separation import (
    Levels,
    Note,
    PredictedSpans,
    ProgressCallback,
    Report,
    Selection,
    Separation,
)
from bridge.signal.reconstruct import null_depth_db, plan_masks, remainder, split_by_masks
from bridge.signal.resampling import (
    Gain,
    Views,
    channel_means,
    fill,
    gain_to,
    resample_blocks,
    resampled_length,
    without_rumble,
)
from bridge.video import Video

Array = npt.NDArray[np.float32]

#: Each holds stretches of its own: what a job needs of memory shall not grow with the cores.
_MOST_THREADS: Final = 4


class LoadedModel(Protocol):
    """What a stage of a job needs to know of a model, whatever its family."""

    graphs: Graphs

    @property
    def manifest(self) -> BundleManifest:
        """Its manifest."""
        ...


@dataclass(frozen=True)
class Excerpt:
    """Where in a longer mixture that of a job lies.

    Attributes
    ----------
    first_frame : int
        Latent frame of the longer mixture with which it begins.
    levels : Levels
        Of the longer mixture.
    """

    first_frame: int
    levels: Levels


@dataclass(frozen=True)
class Job:
    """One call of `Engine.separate`, its arguments validated, and how every model ends it.

    The attributes are those arguments; `progress` and `cancellation` are passed to every stage.
    """

    model: LoadedModel
    mixture: LongArray
    sample_rate: int
    prompts: tuple[Prompt, ...]
    settings: ResolvedSettings
    progress: ProgressCallback | None
    cancellation: Cancellation
    checkpoints: Checkpoints
    memory_bytes: int | None = None
    videos: Mapping[str, Video] = field(default_factory=dict)
    scratch: Scratch = DEFAULT
    excerpt: Excerpt | None = None

    @cached_property
    def means(self) -> tuple[float, ...]:
        """Offset of each channel, of all of the mixture that this is an excerpt of."""
        known = None if self.excerpt is None else self.excerpt.levels.means
        return tuple(channel_means(self.mixture)) if known is None else known

    @property
    def threads(self) -> int:
        """How many threads work on arrays between the graphs."""
        return min(self.model.graphs.threads, _MOST_THREADS)

    def each(self, work: Callable[[int], None], count: int) -> None:
        """Call a function with 0, 1 and so on, on several threads at a time."""
        for _ in in_turn(work, count, self.threads, self.cancellation.check):
            pass

    def steady(self) -> LongArray:
        """Take the offset and rumble off the mixture."""
        return without_rumble(
            self.mixture, self.sample_rate, self.scratch, self.means, self.threads
        )

    def levels(self, gains: Sequence[Gain], views: Views) -> Levels | None:
        """Put together what was measured over all of the mixture; None if a video was seen too."""
        if self.videos:
            return None
        return Levels(self.means, tuple(gains[view].power for view in views.of_channel))

    def heard(self, views: Views) -> LongArray:
        """Bring what is heard of the mixture to the model's rate: (V, samples)."""
        rate = self.model.manifest.sample_rate
        there = views.signals.shape[1]
        samples = resampled_length(there, self.sample_rate, rate)
        heard = self.scratch.zeros((len(views.signals), samples))

        def hear(row: int) -> None:
            view = views.signals[row]
            blocks = (view[part] for part in self.scratch.stretches(there))
            fill(heard[row], resample_blocks(blocks, self.sample_rate, rate, samples))

        self.each(hear, len(heard))
        return heard

    def gains(self, heard: LongArray, views: Views) -> list[Gain]:
        """Find for each signal that is heard the gain to the level that the model expects."""
        told = self.model.manifest
        powers: list[float | None] = [None] * len(heard)
        if self.excerpt is not None:
            for channel, view in enumerate(views.of_channel):
                # The power of what was silent elsewhere is that of the excerpt.
                powers[view] = powers[view] or self.excerpt.levels.powers[channel] or None
        return [
            gain_to(signal, told.input_rms_db, told.sample_rate, told.level_s, power)
            for signal, power in zip(heard, powers, strict=True)
        ]

    def to_mixture_rate(
        self, waveforms: Sequence[LongArray], gains: Sequence[Gain] | None = None
    ) -> list[LongArray]:
        """Bring waveforms (V, samples) from the model's rate to the mixture's and its length.

        Gains that they still have are taken off.
        """
        samples = self.mixture.shape[1]
        rate = self.model.manifest.sample_rate
        there = [self.scratch.zeros((len(waves), samples)) for waves in waveforms]
        rows = [(number, view) for number, waves in enumerate(there) for view in range(len(waves))]

        def bring(row: int) -> None:
            number, view = rows[row]
            wave = waveforms[number][view]
            blocks = (
                wave[part] if gains is None else wave[part] / gains[view][part]
                for part in self.scratch.stretches(len(wave))
            )
            fill(there[number][view], resample_blocks(blocks, rate, self.sample_rate, samples))

        self.each(bring, len(rows))
        return there

    def to_channels(self, waves: LongArray, views: Views) -> LongArray:
        """Spread what was found in each view (V, samples) over the channels of the mixture."""
        spread = self.scratch.like(self.mixture)
        for part in self.scratch.stretches(waves.shape[1]):
            spread[:, part] = views.to_channels(waves[:, part])
        return spread

    def reconstruct(
        self, steady: LongArray, waveforms: list[LongArray], views: Views
    ) -> tuple[list[LongArray], LongArray]:
        """Turn targets and residual (V, samples) into stems and their residual.

        Masks split the mixture without its offset and rumble `steady`: those are nobody's, and
        a mask that moves would make them heard. They stay in the residual.
        """
        *targets, rest = waveforms
        mode = self.settings.reconstruct
        sizes = self.model.manifest.reconstruction
        exponent = self.settings.mask_exponent
        if exponent is not None:
            sizes = replace(sizes, exponent=exponent)
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
            stems = [self.scratch.like(self.mixture) for _ in targets]
            split_by_masks(
                steady, targets, rest, views.of_channel, plan, on_block, stems, self.threads
            )
        else:
            stems = [self.to_channels(target, views) for target in targets]
            on_block()
        if mode == "raw":
            return stems, self.to_channels(rest, views)
        residual = remainder(self.mixture, stems, self.scratch.like(self.mixture))
        return stems, residual

    def silence(self, since_s: float) -> Separation:
        """End a job in whose mixture nothing sounds: the stems are exact silence."""
        stems = [self.scratch.like(self.mixture) for _ in self.prompts]
        rest = remainder(self.mixture, [], self.scratch.like(self.mixture))
        levels = Levels(self.means, (0.0,) * len(self.mixture))
        return self.finish(stems, rest, windows=0, nfe=0, since_s=since_s, levels=levels)

    def finish(
        self,
        stems: list[LongArray],
        residual: LongArray,
        *,
        windows: int,
        nfe: int,
        since_s: float,
        watermark: int | None = None,
        selections: tuple[Selection, ...] = (),
        notes: tuple[Note, ...] = (),
        predicted: tuple[PredictedSpans, ...] = (),
        levels: Levels | None = None,
    ) -> Separation:
        """Put the result and its report together."""
        manifest = self.model.manifest
        channels, samples = self.mixture.shape
        names = tuple(prompt.stem for prompt in self.prompts)
        parts = list(self.scratch.stretches(samples))
        # Every graph was asked; between them numbers can still grow without bound.
        for name, wave in zip((*names, RESIDUAL), (*stems, residual), strict=True):
            if not all(np.isfinite(wave[:, part]).all() for part in parts):
                raise ModelError(
                    f"the stem {name!r} would be NaN or infinite: numbers overflowed between the "
                    f"graphs of the model {manifest.name!r}; its manifest or the level of the "
                    "audio may be far off"
                )
        graphs = self.model.graphs
        if graphs.fallback:
            told = f"computed with {graphs.provider}: {graphs.fallback}"
            notes = (*notes, Note("", "device", told))
        depth_db = null_depth_db(self.mixture, stems, residual)
        seconds = time.perf_counter() - since_s
        report = Report(
            **{**asdict(self.settings), "watermark": watermark},
            model=manifest.name,
            model_sha256=manifest.sha256,
            provider=self.model.graphs.provider,
            sample_rate=self.sample_rate,
            channels=channels,
            samples=samples,
            seconds=seconds,
            rtf=seconds * self.sample_rate / samples,
            nfe=nfe,
            windows=windows,
            null_depth_db=depth_db,
            stems=names,
            selections=selections,
            notes=notes,
            predicted=predicted,
        )
        found = cast(dict[str, Array], dict(zip(names, stems, strict=True)))
        return Separation(found, cast(Array, residual), report, levels)


#: A stem whose loudest second is this far below the mixture counts as silent.
SILENT_DB: Final = -40.0
#: Below this improvement on recordings, a known sound is hardly separated.
LEAST_IMPROVEMENT_DB: Final = 3.0
_NEAREST: Final = 3
#: Words that say nothing about what is heard.
_EMPTY_WORDS: Final = frozenset(
    {
        *("a", "an", "the", "this", "that", "my", "her", "his", "its", "their", "some", "any"),
        *("of", "in", "on", "at", "to", "by", "for", "from", "with", "and", "or"),
        *("one", "two", "someone", "somebody", "person", "people"),
        *("sound", "noise", "track", "part", "recording", "background", "foreground"),
        *("playing", "played", "play", "making", "being", "loud", "soft", "left", "right"),
    }
)


def words(text: str) -> frozenset[str]:
    """Split a phrase into the words that say what is heard, in the singular."""
    found = re.findall(r"[^\W_]+", text.casefold())
    singular = (
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in found
    )
    return frozenset(singular) - _EMPTY_WORDS


def find_sound(text: str, sounds: Sequence[Sound]) -> Sound | None:
    """Find the sound whose phrase a prompt is, or holds; the longest counts."""
    said, best, longest = words(text), None, 0
    plain = " ".join(text.casefold().split())
    for sound in sounds:
        for phrase in sound.phrases:
            of_phrase = words(phrase)
            if plain == phrase or (of_phrase <= said and len(of_phrase) > longest):
                best, longest = sound, 1000 if plain == phrase else len(of_phrase)
    return best


def is_known(text: str, sounds: Sequence[Sound]) -> bool:
    """Say whether the words of a prompt are among those that a model was trained on."""
    said = words(text)
    if not said or find_sound(text, sounds) is not None:
        return True
    all_words = frozenset().union(*(words(p) for sound in sounds for p in sound.phrases))
    return 2 * len(said & all_words) > len(said)


def notes_on_prompts(
    model: str,
    prompts: Sequence[Prompt],
    sounds: Sequence[Sound],
    features: Callable[[str], Array],
) -> Iterator[Note]:
    """Return notes on prompts that are far from all that the model was trained on.

    Parameters
    ----------
    model : str
        Its name.
    prompts : sequence of Prompt
    sounds : sequence of Sound
        From its manifest; if empty, every word counts as known.
    features : callable
        The model's text features (S, D) of a phrase, by which the nearest sounds are found.
    """
    if not sounds:
        return
    for prompt in prompts:
        if not is_known(prompt.text, sounds):
            nearest = ", ".join(repr(name) for name in _nearest(prompt.text, sounds, features))
            text = f"{model} was not trained on {prompt.text!r}; nearest: {nearest}"
            yield Note(prompt.stem, "untrained", text)
            continue
        sound = find_sound(prompt.text, sounds)
        gain_db = None if sound is None else sound.improvement_db
        if sound is not None and gain_db is not None and gain_db < LEAST_IMPROVEMENT_DB:
            text = (
                f"{model} hardly separates {sound.name!r}: {gain_db:+.1f} dB on recordings that "
                "it was not trained on"
            )
            yield Note(prompt.stem, "weak", text)


def notes_on_stems(
    prompts: Sequence[Prompt], stems: Sequence[LongArray], mixture: LongArray, sample_rate: int
) -> Iterator[Note]:
    """Return notes on stems that are practically silent though the mixture is not.

    Parameters
    ----------
    prompts : sequence of Prompt
    stems : sequence of array of float32, shape (channels, samples)
        One per prompt.
    mixture : array of float32, shape (channels, samples)
        Without its offset and rumble, which no stem has.
    sample_rate : int
    """
    all_samples = flat(mixture)
    power = (
        pairwise_sum(lambda a, b: np.square(all_samples[a:b], dtype=np.float64), mixture.size)
        / mixture.size
    )
    if power == 0.0:
        return
    for prompt, stem in zip(prompts, stems, strict=True):
        if any(span.polarity == "-" for span in prompt.spans):
            continue  # its spans may have said so
        below_db = 10 * np.log10(max(_loudest_second(stem, sample_rate), 1e-30) / power)
        if below_db < SILENT_DB:
            what = prompt.text or prompt.stem
            depth = f"{-below_db:.0f} dB below the mixture" if below_db > -120 else "silence"
            yield Note(prompt.stem, "silent", f"no {what!r} was heard: {depth}")


def _loudest_second(stem: LongArray, sample_rate: int) -> float:
    """Return the mean power of the loudest second of a stem (channels, samples)."""
    samples = stem.shape[1]
    size = min(sample_rate, samples)
    sums = (
        np.square(stem[:, start : start + size]).mean(axis=0, dtype=np.float64).sum()
        for start in range(0, samples, size)
    )
    return float(max(sums) / size)


def _nearest(text: str, sounds: Sequence[Sound], features: Callable[[str], Array]) -> list[str]:
    """Return the names of the sounds whose first phrases are nearest to a prompt in the model."""

    def direction(phrase: str) -> Array:
        mean = features(phrase).mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)

    wanted = direction(text)
    likeness = [float(direction(sound.phrases[0]) @ wanted) for sound in sounds]
    order = np.argsort(likeness)[::-1][:_NEAREST]
    return [sounds[place].phrases[0] for place in order]
