"""Multi-diffusion: one flow over a whole clip from a network that sees a window at a time.

All windows of all prompts are one state. At every evaluation each window predicts its velocity,
and the predictions are merged with soft masks before the solver moves on, so that neighbouring
windows agree at every step instead of being cross-faded at the end (Bar-Tal et al. 2023,
"MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bridge.flow.solver import State, VelocityField
from bridge.flow.windows import WindowPlan, soft_masks


class VelocityNetwork(Protocol):
    """The velocity of a batch of B windows of W frames; see the manifest's role ``velocity``."""

    def __call__(
        self,
        *,
        x: npt.NDArray[np.float32],
        t: npt.NDArray[np.float32],
        latents: npt.NDArray[np.float32],
        text: npt.NDArray[np.float32],
        text_mask: npt.NDArray[np.bool_],
        spans: npt.NDArray[np.int64],
        **more: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """Take (B, W, 2C), (B,), (B, W, C), (B, S, D), (B, S), (B, W); return (B, W, 2C).

        Where there is a video, ``video`` is its features (B, F, W); where the network is told of
        the channel beside, ``beside`` is its latents (B, W, C).
        """
        ...


@dataclass(frozen=True)
class Conditions:
    """What the R rows of a flow are conditioned on, for a clip of T frames.

    A row is one prompt to one of the V signals that are heard.

    Attributes
    ----------
    latents : ndarray of float32, shape (V, T, C)
        Of what is heard.
    views : tuple of int
        For each row which of those it hears.
    texts : tuple of ndarray of float32, shape (S, D)
        One per row; their lengths S may differ.
    spans : ndarray of int64, shape (R, T)
        Span ids per row and frame.
    video : ndarray of float32, shape (F, T), or None
        Visual features, the same for all rows.
    beside : ndarray of float32, shape (V, T, C), or None
        Of the channel beside each that is heard, for a network that is told of it.
    """

    latents: npt.NDArray[np.float32]
    views: tuple[int, ...]
    texts: tuple[npt.NDArray[np.float32], ...]
    spans: npt.NDArray[np.int64]
    video: npt.NDArray[np.float32] | None = None
    beside: npt.NDArray[np.float32] | None = None


def plan_batches(
    texts: Sequence[npt.NDArray[np.float32]], windows: int, batch: int
) -> list[list[tuple[int, int]]]:
    """Group the windows of all rows into batches for the network.

    Only rows with equally many tokens share a batch: no text is ever padded, so one prompt cannot
    change the numbers of another.

    Returns
    -------
    list of list of (row, window)
        Each inner list has at most `batch` items.
    """
    groups: dict[int, list[tuple[int, int]]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(len(text), []).extend((row, window) for window in range(windows))
    return [
        group[first : first + batch]
        for group in groups.values()
        for first in range(0, len(group), batch)
    ]


def merged_velocity(
    network: VelocityNetwork,
    plan: WindowPlan,
    conditions: Conditions,
    batch: int,
    on_batch: Callable[[], None],
) -> VelocityField:
    """Build the velocity field of a whole clip.

    Parameters
    ----------
    network : VelocityNetwork
        Called once per batch.
    plan : WindowPlan
        Windows over the T frames of the clip.
    conditions : Conditions
    batch : int
        Largest number of windows in one call.
    on_batch : callable
        Called after every call of the network: the place to report progress, or to raise.

    Returns
    -------
    callable
        Maps a state (R, T, 2C) and a time to its velocity (R, T, 2C). A frame that only one
        window covers gets that window's prediction unchanged.
    """
    masks = soft_masks(plan)
    batches = plan_batches(conditions.texts, len(plan.starts), batch)

    def velocity(x: State, t: float) -> State:
        merged = np.zeros_like(x)
        for items in batches:
            places = [
                (row, slice(plan.starts[window], plan.starts[window] + plan.length))
                for row, window in items
            ]
            text = np.stack([conditions.texts[row] for row, _ in places])
            heard = [(conditions.views[row], frames) for row, frames in places]
            more = {}
            if conditions.beside is not None:
                more["beside"] = np.stack([conditions.beside[part] for part in heard])
            if conditions.video is not None:
                more["video"] = np.stack([conditions.video[:, frames] for _, frames in places])
            predicted = network(
                x=np.stack([x[row, frames] for row, frames in places]),
                t=np.full(len(items), t, dtype=np.float32),
                latents=np.stack([conditions.latents[part] for part in heard]),
                text=text,
                text_mask=np.ones(text.shape[:2], dtype=np.bool_),
                spans=np.stack([conditions.spans[row, frames] for row, frames in places]),
                **more,
            )
            # A row's windows come in order, so sums never depend on the size of a batch.
            for (row, frames), (_, window), part in zip(places, items, predicted, strict=True):
                merged[row, frames] += masks[window, :, np.newaxis] * part
            on_batch()
        return merged

    return velocity
