"""From noise to the flow's final states, for all prompts, candidates and views of a job at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridge.flow.diffusion import Conditions, merged_velocity, plan_batches
from bridge.flow.noise import frame_noise
from bridge.flow.solver import count_evaluations, solve, time_grid
from bridge.flow.windows import WindowPlan
from bridge.inference.cancellation import Cancellation
from bridge.inference.journal import Journal
from bridge.inference.model import Model
from bridge.inference.progress import Stage
from bridge.request import ResolvedSettings
from bridge.separation import ProgressCallback
from bridge.video import Video

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Solving:
    """The solving stage of one job.

    Attributes
    ----------
    model, settings, progress, cancellation, journal
        Of the job.
    latents : ndarray of float32, shape (V, T, C)
        Of what is heard of the mixture.
    beside : ndarray of float32, shape (V, T, C), or None
        Of the channel beside each, for a model that is told of it.
    plan : WindowPlan
    batch : int
        Most windows that go through the network at a time.
    """

    model: Model
    settings: ResolvedSettings
    progress: ProgressCallback | None
    cancellation: Cancellation
    journal: Journal
    latents: Array
    beside: Array | None
    plan: WindowPlan
    batch: int

    def run(
        self, texts: Sequence[Array], spans: npt.NDArray[np.int64], video: Video | None
    ) -> Array:
        """Integrate the flow.

        All are rows of one state: of each prompt the K candidates, each from its own noise, and
        of each candidate the V views.

        Parameters
        ----------
        texts : sequence of ndarray of float32, shape (S, D)
            One per prompt.
        spans : ndarray of int64, shape (P, T)
            Span ids per prompt.
        video : Video or None

        Returns
        -------
        ndarray of float32, shape (P, K, V, T, 2C)
            The states at t = 1.
        """
        views, frames, channels = self.latents.shape
        prompts, candidates = len(texts), self.settings.candidates
        per_prompt = candidates * views
        conditions = Conditions(
            self.latents,
            tuple(range(views)) * (prompts * candidates),
            tuple(text for text in texts for _ in range(per_prompt)),
            np.repeat(spans, per_prompt, axis=0),
            self.model.visual_features(video, frames, self.cancellation),
            self.beside,
        )
        steps = self.settings.steps
        nfe = count_evaluations(self.settings.solver, steps)
        runs = nfe * len(plan_batches(conditions.texts, len(self.plan.starts), self.batch))
        first, start = self._beginning(prompts)
        stage = Stage(self.progress, "solve", runs, runs // steps * first)
        field = merged_velocity(
            self.model.velocity(self.cancellation),
            self.plan,
            conditions,
            self.batch,
            stage.advance,
        )
        done = itertools.count(first + 1)

        def on_step(state: Array) -> None:
            if (step := next(done)) < steps:
                self.journal.checkpoint(step, state)

        flow = solve(field, start, time_grid(steps)[first:], self.settings.solver, on_step)
        return flow.reshape(prompts, candidates, views, frames, 2 * channels)

    def _beginning(self, prompts: int) -> tuple[int, Array]:
        """Return the steps made by an earlier attempt and the state (rows, T, 2C) after them."""
        views, frames, channels = self.latents.shape
        candidates = self.settings.candidates
        resumed = self.journal.resume()
        if resumed is not None and resumed[1].shape == (
            prompts * candidates * views,
            frames,
            2 * channels,
        ):
            return resumed
        # The noise is a matter of seed and frame alone, so that another prompt more or less
        # does not change a stem. Views share it, so that a sample of one goes with the others'.
        noises = [
            frame_noise(self.settings.seed, 0, frames, 2 * channels, candidate)
            for candidate in range(candidates)
        ]
        return 0, np.tile(np.repeat(np.stack(noises), views, axis=0), (prompts, 1, 1))
