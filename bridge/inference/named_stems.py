"""Networks with a closed list of stems: from windows of a stereo mixture to waveforms of all stems.

They run window by window, two channels at a time, and their output is cross-faded. From there on
stems are reconstructed as those of any other model.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bridge.bundles.bundle import verify_files
from bridge.bundles.manifest import SEPARATOR, NamedStemsManifest
from bridge.errors import InputError
from bridge.flow.windows import WindowPlan, plan_windows, soft_masks, window_frames
from bridge.inference.budget import Need, plan_batch
from bridge.inference.context import Stage
from bridge.inference.graphs import Graphs
from bridge.inference.job import Job, notes_on_stems
from bridge.request import Prompt
from bridge.scratch import LongArray
from bridge.separation import Separation
from bridge.signal.reconstruct import remainder
from bridge.signal.resampling import Gain, Views, listen_to
from bridge.signal.spans import NEGATIVE_ID, frame_ids

Array = npt.NDArray[np.float32]

_FLOAT_BYTES: Final = 4
#: Floats that a network needs per sample of its window, fitted to Spleeter's on the CPU.
_FLOATS_PER_SAMPLE: Final = 120


class NamedStems:
    """Runs the graph of a bundle with a closed list of stems.

    Parameters
    ----------
    directory : Path
        Of the bundle.
    manifest : NamedStemsManifest
    providers, threads
        See `bridge.inference.graphs.Graphs`.

    Raises
    ------
    ModelError, ProviderError, InputError
        If a file is damaged, a provider is missing, or `threads` is below 1.
    """

    def __init__(
        self,
        directory: Path,
        manifest: NamedStemsManifest,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        verify_files(directory, manifest)
        self.manifest = manifest
        self.graphs = Graphs(directory, manifest, providers=providers, threads=threads)

    def knows(self, text: str) -> bool:
        """Whether a prompt means one of its stems."""
        said = _plain(text)
        return any(said in map(_plain, sound.phrases) for sound in self.manifest.sounds)

    def stem_number(self, text: str) -> int:
        """Find the stem that a prompt means.

        Raises
        ------
        InputError
            If there is none, with the list of all.
        """
        said = _plain(text)
        for number, sound in enumerate(self.manifest.sounds):
            if said in map(_plain, sound.phrases):
                return number
        known = "; ".join(", ".join(sound.phrases) for sound in self.manifest.sounds)
        raise InputError(
            f"the model {self.manifest.name!r} has no stem {text!r}; it knows: {known}"
        )


def _plain(phrase: str) -> str:
    """Write a phrase in lower case, with single spaces and without an article."""
    return re.sub(r"^(the|a|an) ", "", " ".join(phrase.casefold().split()))


@dataclass(frozen=True)
class NamedStemsJob(Job):
    """A job for a network with a closed list of stems."""

    model: NamedStems

    def run(self) -> Separation:
        """Separate.

        Raises
        ------
        InputError
            If a prompt means no stem of the model, or the same as another prompt, or a setting
            asks for what the model does not have.
        Cancelled, ModelError, ProviderError, MemoryBudgetError
            As `bridge.engine.Engine.separate` says.
        """
        started_s = time.perf_counter()
        numbers = self._stem_numbers()
        plan = self._plan_windows()
        steady = self.steady()
        views = listen_to(steady, self.settings.listen, self.scratch)
        if not len(views.signals):
            return self.silence(started_s)
        heard = self.heard(views)
        gains = self.gains(heard, views)
        targets = list(self._stems(heard, gains, views, numbers, plan))
        waveforms = [*targets, remainder(heard, targets, self.scratch.zeros(heard.shape))]
        stems, residual = self.reconstruct(steady, self.to_mixture_rate(waveforms), views)
        return self.finish(
            stems,
            residual,
            windows=len(plan.starts),
            nfe=1,
            since_s=started_s,
            levels=self.levels(gains, views),
            notes=tuple(notes_on_stems(self.prompts, stems, steady, self.sample_rate)),
        )

    def _stem_numbers(self) -> list[int]:
        name = self.model.manifest.name
        if self.videos:
            raise InputError(f"the model {name!r} takes no video; leave it out")
        if self.settings.judge:
            raise InputError(f"the model {name!r} has no judge and no CLAP; leave judge out")
        if self.settings.watermark is not None:
            raise InputError(f"the model {name!r} writes no watermark; leave it out")
        numbers = [self.model.stem_number(prompt.text) for prompt in self.prompts]
        for place, number in enumerate(numbers):
            if number in numbers[:place]:
                first, second = self.prompts[numbers.index(number)], self.prompts[place]
                raise InputError(
                    f"{first.text!r} and {second.text!r} mean the same stem of the model "
                    f"{name!r}; give one of them"
                )
        return numbers

    def _plan_windows(self) -> WindowPlan:
        """Cover the clip with windows of the network's length, and check that memory suffices."""
        manifest = self.model.manifest
        if self.settings.window_s != manifest.window_s:
            raise InputError(
                f"the windows of the model {manifest.name!r} are {manifest.window_s:g} s long, "
                f"not {self.settings.window_s:g} s; leave window_s out"
            )
        window, overlap = window_frames(self.settings, manifest)
        channels, samples = self.mixture.shape
        heard = -(-samples * manifest.sample_rate // self.sample_rate)
        frames = -(-heard // manifest.hop_length)
        stems = len(self.prompts) + 1
        floats = channels * ((2 + stems) * samples + (3 + 2 * stems) * heard)
        held = _FLOATS_PER_SAMPLE * window * manifest.hop_length
        need = Need(_FLOAT_BYTES * floats, _FLOAT_BYTES * held)
        plan_batch(need, self.memory_bytes, 1)
        return plan_windows(max(frames, window), window, overlap)

    def _stems(
        self,
        heard: LongArray,
        gains: Sequence[Gain],
        views: Views,
        numbers: Sequence[int],
        plan: WindowPlan,
    ) -> LongArray:
        """Run the network over what is heard (V, samples): stems (len(numbers), V, samples)."""
        hop = self.model.manifest.hop_length
        samples = heard.shape[1]
        found = self.scratch.zeros((len(numbers), *heard.shape))
        # Weights are interpolated linearly between the centres of frames.
        weights = self.scratch.zeros((samples,))
        middles = (np.arange(plan.length) + 0.5) * hop
        moments = np.arange(plan.length * hop) + 0.5
        pairs = {tuple(sorted((view, other))) for view, other in enumerate(views.beside)}
        stage = Stage(self.progress, "solve", len(pairs) * len(plan.starts))

        def loud(view: int, part: slice) -> Array:
            # One gain for both channels of a pair, since the network hears the stereo field.
            return np.minimum(gains[view][part], gains[views.beside[view]][part])

        for mask, start in zip(soft_masks(plan), plan.starts, strict=True):
            weight = np.interp(moments, middles, mask).astype(np.float32)
            part = slice(start * hop, min((start + plan.length) * hop, samples))
            there = part.stop - part.start
            weights[part] = weights[part] + weight[:there]
            for first, second in sorted(pairs):
                pair = np.zeros((1, 2, plan.length * hop), np.float32)
                for channel, view in enumerate((first, second)):
                    pair[0, channel, :there] = heard[view, part] * loud(view, part)
                stems = self.model.graphs.run(SEPARATOR, {self._input: pair}, self.cancellation)
                for place, number in enumerate(numbers):
                    for channel, view in enumerate(dict.fromkeys((first, second))):
                        more = weight[:there] * stems[0, number, channel, :there]
                        found[place, view, part] = found[place, view, part] + more
                stage.advance()
        for place, prompt in enumerate(self.prompts):
            gate = self._gate(prompt, samples)
            for view in range(len(heard)):
                for part in self.scratch.stretches(samples):
                    wave = found[place, view, part] / weights[part] / loud(view, part)
                    found[place, view, part] = wave * gate(part)
        return found

    @property
    def _input(self) -> str:
        return self.model.manifest.graphs[SEPARATOR].inputs[0].name

    def _gate(self, prompt: Prompt, samples: int) -> Callable[[slice], Array]:
        """Silence a stem where its spans say that it is absent; "+" spans are taken as complete."""
        manifest = self.model.manifest
        frames = -(-samples // manifest.hop_length)
        ids = frame_ids(
            prompt.spans, frames, manifest.sample_rate, manifest.hop_length, complete=True
        )
        edges = (np.arange(frames) + 0.5) * manifest.hop_length

        def gate(part: slice) -> Array:
            open_ = np.interp(np.arange(part.start, part.stop), edges, ids != NEGATIVE_ID)
            return np.asarray(open_, dtype=np.float32)

        return gate
