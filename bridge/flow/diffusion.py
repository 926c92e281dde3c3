"""Multi-diffusion: one flow over a whole clip from a network that sees a window at a time.

All windows of all prompts are one state. At every evaluation each window predicts its velocity,
and the predictions are merged with soft masks before the solver moves on, so that neighbouring
windows agree at every step instead of being cross-faded at the end (Bar-Tal et al. 2023,
"MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from bridge.bundles.manifest import BundleManifest
from bridge.flow.windows import WindowPlan, soft_masks
from bridge.request import Grid, ResolvedSettings, Solver
from bridge.scratch import LongArray

State: TypeAlias = LongArray
VelocityField: TypeAlias = Callable[[State, float], State]

_SEVEN_STEPS: Final = np.array([0, 2, 4, 6, 8, 16, 24, 32]) / 32


def time_grid(steps: int, grid: Grid = "uniform") -> npt.NDArray[np.float64]:
    """Return the boundaries of the steps: ``steps + 1`` times from 0 to 1.

    Parameters
    ----------
    steps : int
        At least 1.
    grid : {"uniform", "sway", "pruned", "cosine"}
        Evenly spaced; denser towards the noise, where the velocity changes most, by the sway of
        Chen et al. 2024 ("F5-TTS", coefficient -1); or the seven steps that Zheng et al. 2025
        (arXiv 2505.19931) kept of 32, four short and three long ones, under that sway. For
        another number of steps the ends are read off between those of the seven. Or as Chebyshev's
        points lie: denser towards both ends, where polynomials through velocities go astray first.
    """
    even = np.linspace(0.0, 1.0, steps + 1)
    if grid == "uniform":
        return even
    if grid == "cosine":
        return (1.0 - np.cos(np.pi * even)) / 2.0
    if grid == "pruned":
        even = np.interp(7 * even, np.arange(8), _SEVEN_STEPS)
    swayed = 1.0 - np.cos(np.pi / 2 * even)
    swayed[-1] = 1.0
    return swayed


def count_evaluations(solver: Solver, steps: int) -> int:
    """Count the evaluations of the velocity field (NFE) that a solver makes."""
    return steps * (2 if solver == "midpoint" else 1)


@dataclass(frozen=True)
class Scheme:
    """A solver on a grid: where it evaluates the velocity, and how it moves on from there.

    Every explicit solver with fixed steps is such a table: after evaluation i of N the state
    moves by ``sum(weights[i][k] * velocity[i - k])``. What holds for one run of `solve` holds for
    all of them.

    Attributes
    ----------
    times : tuple of float
        Of the N evaluations.
    weights : tuple of tuple of float
        N rows: the weight of the evaluation just made, of the one before it, and so on.
    """

    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def memory(self, done: int) -> int:
        """Count the earlier velocities that evaluations after the first `done` still need."""
        rows = enumerate(self.weights[done:])
        return max((len(row) - 1 - ahead for ahead, row in rows), default=0)


def make_scheme(solver: Solver, steps: int, grid: Grid = "uniform") -> Scheme:
    """Build the scheme of a solver on a grid.

    Parameters
    ----------
    solver : {"euler", "midpoint", "ab2", "unipc", "cubic"}
        Not ``"tuned"``, which is the manifest's: see `scheme_of`.
        Explicit Euler (order 1). The explicit midpoint rule (order 2, two evaluations a step).
        Adams and Bashforth's of order 2. The same as a predictor, with each step corrected by
        the velocity that the next one evaluates anyway, as UniPC does (Zhao et al. 2023, arXiv
        2302.04867): order 3 overall. The integral of cubics through the velocities so far, so that
        each evaluation corrects the last two steps, and all while there are no more than four, as
        deferred correction does (Dutt, Greengard & Rokhlin 2000): order 4 where the first step is
        short, and 3 on even steps.
    steps : int
        At least 1.
    grid : {"uniform", "sway", "pruned", "cosine"}
        See `time_grid`.
    """
    if solver == "tuned":
        raise ValueError("a tuned solver is laid out in a manifest")
    ends = time_grid(steps, grid)
    if solver == "midpoint":
        middles = (ends[:-1] + ends[1:]) / 2
        halves = np.diff(ends) / 2
        return Scheme(
            tuple(np.stack([ends[:-1], middles], axis=1).ravel().tolist()),
            tuple(row for half in halves.tolist() for row in ((half,), (2 * half, -half))),
        )
    weights = []
    # How far each velocity has moved the state: at its evaluation, and after the correction.
    point = settled = np.zeros(steps)
    order = {"euler": 1, "ab2": 2, "unipc": 2, "cubic": 3}[solver]
    corrects = solver in ("unipc", "cubic")
    for step in range(steps):
        start, end = ends[step : step + 2]
        if solver == "unipc" and step > 0:
            settled = settled + _quadrature(ends, step, 3, ends[step - 1], start)
        elif solver == "cubic" and step > 2:
            # From now on this step lies in the middle of its cubic.
            latest = max(step - 1, 3)
            settled = settled + _quadrature(ends, latest, 4, *ends[step - 3 : step - 1])
        elif not corrects:
            settled = point
        # The last step gets no correction, and makes up for that by looking further back.
        remembered = order + (corrects and step == steps - 1)
        following = settled + _quadrature(ends, step, remembered, start, end)
        if solver == "cubic":
            for done in range(max(step - 2, 0), step):
                latest = min(step, max(done + 2, 3))
                following = following + _quadrature(ends, latest, 4, *ends[done : done + 2])
        row = (following - point)[max(step - 4, 0) : step + 1]
        weights.append(tuple(np.trim_zeros(row, "f")[::-1].tolist()))
        point = following
    return Scheme(tuple(ends[:-1].tolist()), tuple(weights))


def scheme_of(settings: ResolvedSettings, manifest: BundleManifest) -> Scheme:
    """Lay out the solver that a request asks for."""
    if settings.solver == "tuned" and manifest.tuned is not None:
        return Scheme(manifest.tuned.times, manifest.tuned.weights)
    return make_scheme(settings.solver, settings.steps, settings.grid)


def _quadrature(
    ends: npt.NDArray[np.float64], latest: int, count: int, start: float, end: float
) -> npt.NDArray[np.float64]:
    """Return weights for the values at all `ends` but the last, to integrate from `start` to `end`.

    Polynomials through the `count` values up to the latest are integrated exactly; the other
    values get weight zero.
    """
    first = max(latest + 1 - count, 0)
    nodes = (ends[first : latest + 1] - start) / (end - start)
    powers = np.arange(len(nodes))
    weights = np.zeros(len(ends) - 1)
    weights[first : latest + 1] = (end - start) * np.linalg.solve(
        nodes ** powers[:, np.newaxis], 1 / (powers + 1)
    )
    return weights


def solve(
    velocity: VelocityField,
    x: State,
    scheme: Scheme,
    on_evaluation: Callable[[int, Sequence[State]], None] | None = None,
    resumed: tuple[int, Iterable[State]] | None = None,
) -> State:
    """Integrate ``dx/dt = velocity(x, t)`` from t = 0 to 1.

    Parameters
    ----------
    velocity : callable
        Takes the state and the time, returns an array like the state.
    x : ndarray of float32
        State at t = 0; not modified.
    scheme : Scheme
    on_evaluation : callable or None
        Receives after every evaluation how many were made and everything the rest depends on:
        the state, followed by the velocities still needed, latest first.
    resumed : tuple of int and iterable of ndarray, or None
        What `on_evaluation` received, to continue from there to the same result.

    Returns
    -------
    ndarray of float32
        State at t = 1.
    """
    done, slopes = 0, list[State]()
    if resumed is not None:
        done, (x, *slopes) = resumed
    for index in range(done, len(scheme.times)):
        slopes.insert(0, velocity(x, scheme.times[index]))
        for weight, slope in zip(scheme.weights[index], slopes, strict=False):
            x = x + x.dtype.type(weight) * slope
        del slopes[scheme.memory(index + 1) :]
        if on_evaluation is not None:
            on_evaluation(index + 1, (x, *slopes))
    return x


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

        Where there is a video, ``video`` is its features (B, F, W); where the network is also given
        the other channel, ``beside`` is its latents (B, W, C).
        """
        ...


@dataclass(frozen=True)
class Conditions:
    """What the R rows of a flow are conditioned on, for a clip of T frames.

    A row is one prompt to one of the V signals that are heard.

    Attributes
    ----------
    latents : array of float32, shape (V, T, C)
        Of what is heard.
    views : tuple of int
        For each row, the index of the signal it hears.
    texts : tuple of ndarray of float32, shape (S, D)
        One per row; their lengths S may differ.
    spans : ndarray of int64, shape (R, T)
        Span ids per row and frame.
    videos : tuple of ndarray of float32, shape (F, T), or None
        Visual features, one per row; empty where no row has any.
    beside : array of float32, shape (V, T, C), or None
        Latents of the other channel of each signal, for a network that is given it.
    """

    latents: LongArray
    views: tuple[int, ...]
    texts: tuple[npt.NDArray[np.float32], ...]
    spans: npt.NDArray[np.int64]
    videos: tuple[npt.NDArray[np.float32] | None, ...] = ()
    beside: LongArray | None = None


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


def _seen(
    videos: tuple[npt.NDArray[np.float32] | None, ...], places: Sequence[tuple[int, slice]]
) -> npt.NDArray[np.float32] | None:
    """Cut the visual features (B, F, W) of places, zeros for a row without; None if none has."""
    found = [(videos[row] if videos else None, frames) for row, frames in places]
    width = next((len(video) for video, _ in found if video is not None), None)
    if width is None:
        return None
    return np.stack(
        [
            np.zeros((width, frames.stop - frames.start), np.float32)
            if video is None
            else video[:, frames]
            for video, frames in found
        ]
    )


def merged_velocity(
    network: VelocityNetwork,
    plan: WindowPlan,
    conditions: Conditions,
    batch: int,
    on_batch: Callable[[], None],
    bind: Callable[..., Callable[[State, State], npt.NDArray[np.float32]]] | None = None,
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
        Called after every call of the network, to report progress or to raise.
    bind : callable or None
        Takes all inputs of the network for a batch, once, and returns what maps new ``x`` and
        ``t`` to velocities: for devices that keep the rest between evaluations. None calls
        `network` with all of them every time.

    Returns
    -------
    callable
        Maps a state (R, T, 2C) and a time to its velocity (R, T, 2C). A frame that only one
        window covers gets that window's prediction unchanged.
    """
    masks = soft_masks(plan)
    batches = plan_batches(conditions.texts, len(plan.starts), batch)

    bound: dict[int, Callable[[State, State], npt.NDArray[np.float32]]] = {}

    def predict(
        number: int, places: Sequence[tuple[int, slice]], x: State, t: float
    ) -> npt.NDArray[np.float32]:
        states = np.stack([x[row, frames] for row, frames in places])
        times = np.full(len(places), t, dtype=np.float32)
        if number not in bound:
            text = np.stack([conditions.texts[row] for row, _ in places])
            heard = [(conditions.views[row], frames) for row, frames in places]
            more = {}
            if conditions.beside is not None:
                more["beside"] = np.stack([conditions.beside[part] for part in heard])
            if (seen := _seen(conditions.videos, places)) is not None:
                more["video"] = seen
            feeds: dict[str, Any] = dict(
                latents=np.stack([conditions.latents[part] for part in heard]),
                text=text,
                text_mask=np.ones(text.shape[:2], dtype=np.bool_),
                spans=np.stack([conditions.spans[row, frames] for row, frames in places]),
                **more,
            )
            if bind is None:
                return network(x=states, t=times, **feeds)
            bound[number] = bind(x=states, t=times, **feeds)
        return bound[number](states, times)

    def velocity(x: State, t: float) -> State:
        merged = np.zeros_like(x)
        for number, items in enumerate(batches):
            places = [
                (row, slice(plan.starts[window], plan.starts[window] + plan.length))
                for row, window in items
            ]
            predicted = predict(number, places, x, t)
            # The windows of a row come in order, so sums never depend on the batch size.
            for (row, frames), (_, window), part in zip(places, items, predicted, strict=True):
                merged[row, frames] = merged[row, frames] + masks[window, :, np.newaxis] * part
            on_batch()
        return merged

    return velocity
