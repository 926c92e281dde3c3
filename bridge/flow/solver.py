"""Fixed-step integration of a velocity field from t = 0 (noise) to t = 1 (data)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bridge.request import Solver

State: TypeAlias = npt.NDArray[np.float32]
VelocityField: TypeAlias = Callable[[State, float], State]


def time_grid(steps: int) -> npt.NDArray[np.float64]:
    """Space the ends of steps evenly: ``steps + 1`` times from 0 to 1."""
    return np.linspace(0.0, 1.0, steps + 1)


def count_evaluations(solver: Solver, steps: int) -> int:
    """Count the evaluations of the velocity field (NFE) that `solve` makes."""
    return steps * (2 if solver == "midpoint" else 1)


def solve(
    velocity: VelocityField,
    x: State,
    times: npt.NDArray[np.float64],
    solver: Solver,
    on_step: Callable[[State], None] | None = None,
) -> State:
    """Integrate ``dx/dt = velocity(x, t)``.

    Parameters
    ----------
    velocity : callable
        Takes the state and the time, returns an array like the state.
    x : ndarray of float32
        State at ``times[0]``; left as it is.
    times : ndarray of float64, shape (steps + 1,)
        Increasing; see `time_grid`.
    solver : {"euler", "midpoint"}
        Explicit Euler (order 1), or the explicit midpoint rule (order 2, two evaluations a step).
    on_step : callable or None
        Receives the state after every step.

    Returns
    -------
    ndarray of float32
        State at ``times[-1]``.
    """
    for start, end in pairwise(times.tolist()):
        step = end - start
        slope = velocity(x, start)
        if solver == "midpoint":
            slope = velocity(x + np.float32(step / 2) * slope, start + step / 2)
        x = x + np.float32(step) * slope
        if on_step is not None:
            on_step(x)
    return x
