"""The solvers on fields with known solutions."""

import numpy as np
import pytest

from bridge.flow.solver import count_evaluations, solve, time_grid


def error(solver, steps):
    """Of dx/dt = 2 t x from x = 1, whose solution is exp(t^2)."""
    start = np.ones((2, 3))
    end = solve(lambda x, t: 2 * t * x, start, time_grid(steps), solver)
    return float(np.abs(end - np.exp(1.0)).max())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_the_error_falls_with_the_order_of_the_solver(solver, order):
    ratio = error(solver, 20) / error(solver, 40)
    assert ratio == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_a_constant_field_is_integrated_exactly(solver):
    start = np.array([1.0, -2.0], np.float32)
    end = solve(lambda x, _: np.full_like(x, 0.5), start, time_grid(8), solver)
    np.testing.assert_array_equal(end, [1.5, -1.5])
    np.testing.assert_array_equal(start, [1.0, -2.0])


def test_midpoint_integrates_a_field_linear_in_time_exactly():
    # np.full_like(x, t) is the field: t everywhere.
    end = solve(np.full_like, np.zeros(1), time_grid(3), "midpoint")
    assert end[0] == pytest.approx(0.5, abs=1e-7)


@pytest.mark.parametrize(("solver", "each"), [("euler", 1), ("midpoint", 2)])
@pytest.mark.parametrize("steps", [1, 5])
def test_evaluations_are_counted(solver, each, steps):
    calls = []

    def field(x, t):
        calls.append(t)
        return x

    solve(field, np.zeros(1, np.float32), time_grid(steps), solver)
    assert len(calls) == count_evaluations(solver, steps) == steps * each
    assert calls[0] == 0.0
    assert max(calls) < 1.0


def test_single_precision_stays_single():
    start = np.zeros(2, np.float32)
    assert solve(lambda x, _: x, start, time_grid(2), "midpoint").dtype == np.float32
