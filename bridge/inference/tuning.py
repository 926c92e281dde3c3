"""Solvers fitted to a bundle: grid and weights that follow its own network's trajectories.

Bespoke non-stationary solvers (Shaul et al. 2024, arXiv 2403.01329): every evaluation has a time
and weights of its own, fitted to where a fine solution of the same flows ends; the network is
never touched. There is no gradient of an exported network, so the few numbers are fitted by
Gauss and Newton's method with differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from bridge.bundles.manifest import Tuned
from bridge.flow.diffusion import (
    Conditions,
    Scheme,
    State,
    VelocityField,
    make_scheme,
    merged_velocity,
    solve,
)
from bridge.flow.noise import frame_noise
from bridge.flow.windows import plan_windows
from bridge.inference.context import Cancellation
from bridge.inference.model import Model
from bridge.request import Grid, Solver
from bridge.signal.resampling import gain_to, resample

Array: TypeAlias = npt.NDArray[np.float32]
Numbers: TypeAlias = npt.NDArray[np.float64]

_STARTS: Final[tuple[Solver, ...]] = ("unipc", "cubic")
_REMEMBERED: Final = 5  # as many as these use at most
_NUDGE: Final = 1e-3
# From bold to careful, as Levenberg and Marquardt damp such steps.
_DAMPINGS: Final = (1e-3, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Flows:
    """One window each of R sounds, on their way from noise.

    Attributes
    ----------
    field : callable
        Their velocity.
    noise : ndarray of float32, shape (R, T, 2C)
    """

    field: VelocityField
    noise: Array

    def end(self, scheme: Scheme) -> Array:
        """Solve: the states at t = 1."""
        return np.asarray(solve(self.field, self.noise, scheme), np.float32)


def flows_of(
    model: Model,
    sounds: Sequence[tuple[Array, int, str]],
    frames: int,
    seed: int,
) -> Flows:
    """Start the flow of the first window of some sounds.

    Parameters
    ----------
    model : Model
    sounds : sequence of (ndarray of float32 of shape (samples,), int, str)
        Mono audio, its sample rate in Hz, and a prompt; at least `frames` long.
    frames : int
        T, latent frames of the window.
    seed : int
        Of the noise.
    """
    manifest, cancellation = model.manifest, Cancellation(None)
    rate = manifest.sample_rate
    heard = []
    for mono, sample_rate, _ in sounds:
        part = resample(mono, sample_rate, rate)[: frames * manifest.hop_length]
        heard.append(part * gain_to(part, manifest.input_rms_db, rate, manifest.level_s)[:])
    latents = model.encode(np.stack(heard), cancellation, lambda: None)
    conditions = Conditions(
        latents,
        tuple(range(len(sounds))),
        tuple(model.text_features(model.tokens(text), cancellation) for _, _, text in sounds),
        np.zeros(latents.shape[:2], np.int64),
        beside=latents if manifest.hears_beside else None,
    )
    network = model.velocity(cancellation)
    field = merged_velocity(
        network, plan_windows(frames, frames, 0), conditions, len(sounds), lambda: None
    )
    noise = frame_noise(seed, 0, frames, 2 * manifest.latent_channels)
    return Flows(field, np.repeat(noise[np.newaxis], len(sounds), axis=0))


def errors(found: Array, wanted: Array) -> npt.NDArray[np.float64]:
    """Size of the difference of states (R, T, 2C) relative to that of what is wanted: (R,)."""
    power = np.square(wanted, dtype=np.float64).sum(axis=(1, 2))
    left = np.square(found - wanted, dtype=np.float64).sum(axis=(1, 2))
    relative: npt.NDArray[np.float64] = np.sqrt(left / power)
    return relative


def tune(flows: Flows, evaluations: int, fine: int = 64, rounds: int = 4) -> Tuned:
    """Fit a solver of so many evaluations to flows.

    Parameters
    ----------
    flows : Flows
        Two thirds are fitted, the others measured; at least three.
    evaluations : int
        N, at least 2. A round takes about 2 N^2 evaluations of all flows.
    fine : int
        Midpoint steps of the solution that it is to follow.
    rounds : int
        Of the fit; it ends earlier where nothing is gained.

    Returns
    -------
    Tuned
        Its `error` and `error_before` are medians over what is measured, the latter of the solver
        and the grid that were best on what is fitted, from which the fit started.
    """
    wanted = flows.end(make_scheme("midpoint", fine))
    fitted = np.arange(len(wanted)) % 3 != 2
    starts = [
        make_scheme(solver, evaluations, grid) for solver in _STARTS for grid in get_args(Grid)
    ]
    ends = [flows.end(start) for start in starts]
    cost, begin = min((_cost(end, wanted, fitted), place) for place, end in enumerate(ends))
    before = errors(ends[begin], wanted)
    numbers = _numbers(starts[begin])
    error = before
    for _ in range(rounds):
        change, curvature = _linearise(flows, numbers, evaluations, wanted, fitted)
        gained = False
        for damping in _DAMPINGS:
            step = np.linalg.solve(
                curvature + damping * np.diag(np.diag(curvature) + 1e-12), change
            )
            tried = numbers + step
            if not _goes_forward(tried, evaluations):
                continue
            end = flows.end(_scheme(tried, evaluations))
            if (now := _cost(end, wanted, fitted)) < cost:
                gained = now < 0.95 * cost
                cost, numbers, error = now, tried, errors(end, wanted)
                break
        if not gained:
            break
    scheme = _scheme(numbers, evaluations)
    return Tuned(
        scheme.times,
        scheme.weights,
        float(np.median(error[~fitted])),
        float(np.median(before[~fitted])),
    )


def _numbers(scheme: Scheme) -> Numbers:
    """Lay the times but the first, and the weights, out in a row."""
    rows = [np.zeros(length) for length in _lengths(len(scheme.times))]
    for row, weights in zip(rows, scheme.weights, strict=True):
        row[: len(weights)] = weights
    return np.concatenate([scheme.times[1:], *rows])


def _scheme(numbers: Numbers, evaluations: int) -> Scheme:
    """Read times and weights from a row of numbers."""
    weights = np.split(numbers[evaluations - 1 :], np.cumsum(_lengths(evaluations - 1)))
    times = (0.0, *numbers[: evaluations - 1].tolist())
    return Scheme(times, tuple(tuple(row.tolist()) for row in weights))


def _lengths(evaluations: int) -> list[int]:
    """Count the weights of each evaluation."""
    return [min(place, _REMEMBERED) for place in range(1, evaluations + 1)]


def _goes_forward(numbers: Numbers, evaluations: int) -> bool:
    times = [0.0, *numbers[: evaluations - 1], 1.0]
    return all(early < late for early, late in pairwise(times))


def _cost(end: Array, wanted: Array, fitted: npt.NDArray[np.bool_]) -> float:
    return float(np.square(errors(end[fitted], wanted[fitted])).mean())


def _linearise(
    flows: Flows,
    numbers: Numbers,
    evaluations: int,
    wanted: Array,
    fitted: npt.NDArray[np.bool_],
) -> tuple[Numbers, npt.NDArray[np.float64]]:
    """Return the direction in which the cost descends, and its curvature."""
    scheme = _scheme(numbers, evaluations)
    states: list[tuple[int, Sequence[State]]] = [(0, (flows.noise,))]
    end = solve(flows.field, flows.noise, scheme, lambda done, state: states.append((done, state)))
    # Each flow counts by the size of what it is to become, however loud it is.
    power = np.square(wanted, dtype=np.float64).sum(axis=(1, 2), keepdims=True)[fitted]
    sizes = np.sqrt(power * fitted.sum())
    first = [*range(1, evaluations)]  # the evaluation before which a number changes nothing
    for place, length in enumerate(_lengths(evaluations)):
        first += [place] * length
    columns = []
    for place, number in enumerate(numbers):
        moved = numbers.copy()
        moved[place] = number + _NUDGE
        nudged = solve(
            flows.field, flows.noise, _scheme(moved, evaluations), resumed=states[first[place]]
        )
        columns.append((((nudged - end)[fitted] / _NUDGE) / sizes).ravel())
    slope = np.stack(columns, axis=1)
    left = ((wanted - end)[fitted] / sizes).ravel()
    return slope.T @ left, slope.T @ slope
