"""The solvers and grids on fields with known solutions."""

from math import log2
from typing import get_args

import numpy as np
import pytest

from bridge.flow.diffusion import count_evaluations, make_scheme, solve, time_grid
from bridge.request import Grid, Solver

SOLVERS = tuple(name for name in get_args(Solver) if name != "tuned")
GRIDS = get_args(Grid)
ORDERS = {"euler": 1, "midpoint": 2, "ab2": 2, "unipc": 3, "cubic": 4}


def growing(x, t):
    """From x = 1 the solution is exp(t^2)."""
    return 2 * t * x


def settling(x, _):
    """From x = 0.2 the solution is 1 / (1 + 4 exp(-4 t))."""
    return 4 * x * (1 - x)


FIELDS = {growing: (1.0, np.exp(1.0)), settling: (0.2, 1 / (1 + 4 * np.exp(-4.0)))}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_error_falls_with_the_order_of_the_solver(solver, grid, field):
    """A grid that is refined by halving its steps keeps the order of its solver."""
    start, end = FIELDS[field]

    def error(steps):
        state = solve(field, np.full(2, start), make_scheme(solver, steps, grid))
        return abs(float(state[0]) - end)

    order = log2(error(280) / error(560))
    # The first step of a cubic is one of Euler, and is forgotten only where that is short.
    long_start = (solver, grid, field) == ("cubic", "uniform", settling)
    assert order == pytest.approx(3 if long_start else ORDERS[solver], abs=0.25)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_constant_field_is_integrated_exactly(solver, grid):
    start = np.array([1.0, -2.0], np.float32)
    end = solve(lambda x, _: np.full_like(x, 0.5), start, make_scheme(solver, 8, grid))
    np.testing.assert_allclose(end, [1.5, -1.5], atol=1e-6)
    np.testing.assert_array_equal(start, [1.0, -2.0])


@pytest.mark.parametrize("grid", GRIDS)
def test_midpoint_integrates_a_field_linear_in_time_exactly(grid):
    # np.full_like(x, t) is the field: t everywhere.
    end = solve(np.full_like, np.zeros(1), make_scheme("midpoint", 3, grid))
    assert end[0] == pytest.approx(0.5, abs=1e-7)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 5])
def test_evaluations_are_counted_and_go_forward_from_0(solver, steps, grid):
    calls = []

    def field(x, t):
        calls.append(t)
        return x

    solve(field, np.zeros(1, np.float32), make_scheme(solver, steps, grid))
    assert len(calls) == count_evaluations(solver, steps)
    assert calls[0] == 0.0
    assert calls == sorted(set(calls))
    assert max(calls) < 1.0


def test_one_evaluation_a_step():
    assert {s: count_evaluations(s, 7) for s in SOLVERS} == {
        "euler": 7,
        "midpoint": 14,
        "ab2": 7,
        "unipc": 7,
        "cubic": 7,
    }


@pytest.mark.parametrize("grid", GRIDS)
def test_four_evaluations_of_a_cubic_integrate_cubics_in_time_exactly(grid):
    end = solve(lambda _, t: np.full(1, 4 * t**3 - t), np.zeros(1), make_scheme("cubic", 4, grid))
    assert end[0] == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision_stays_single(solver):
    start = np.zeros(2, np.float32)
    assert solve(lambda x, _: x, start, make_scheme(solver, 4)).dtype == np.float32


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 12, 100])
def test_a_grid_leads_from_0_to_1(grid, steps):
    times = time_grid(steps, grid)
    assert (len(times), times[0], times[-1]) == (steps + 1, 0.0, 1.0)
    assert (np.diff(times) > 0).all()


def test_the_pruned_grid_of_seven_steps_is_the_published_one():
    kept = np.array([0, 2, 4, 6, 8, 16, 24, 32]) / 32
    expected = kept - (np.cos(np.pi / 2 * kept) + kept - 1)
    np.testing.assert_allclose(time_grid(7, "pruned"), expected, atol=1e-15)


@pytest.mark.parametrize("solver", SOLVERS)
def test_going_on_from_any_evaluation_ends_in_the_same_bits(solver):
    scheme = make_scheme(solver, 5, "sway")
    start = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    seen = []

    def field(x, t):
        return np.sin(3 * x + np.float32(t))

    whole = solve(field, start, scheme, lambda done, state: seen.append((done, state)))
    assert [done for done, _ in seen] == list(range(1, len(scheme.times) + 1))
    for done, state in seen:
        assert len(state) == 1 + scheme.memory(done)
        again = solve(field, np.zeros_like(start), scheme, resumed=(done, np.stack(state)))
        np.testing.assert_array_equal(again, whole)
