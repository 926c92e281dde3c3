"""How far a solver's end is from the flow's, for every solver, grid and number of evaluations.

Run as ``python -m tests.benchmark.solvers BUNDLE SET [--frames 100] [--picture FILE.png]``, with a
set of the layout of ``stembridge eval``. Starts each mixture's flow from noise, whatever the
bundle's own default is, and prints the error of the final state against that of many midpoint
steps, relative to its size: median and worst over the mixtures. Last comes what is saved by
taking the velocity of an evaluation from those before it instead. A bundle with seeded weights
comes from ``python -m tests.benchmark.full_size DIRECTORY``.
"""

from __future__ import annotations

import argparse
import itertools
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import soundfile

from bridge.flow.diffusion import Scheme, State, count_evaluations, make_scheme, solve
from bridge.inference.model import Model
from bridge.inference.tuning import Flows, errors, flows_of
from bridge.request import Grid, Solver
from onnx_export.evaluation.cases import find_cases

EVALUATIONS = (2, 4, 8, 12, 16, 32)
THRESHOLDS = (0.05, 0.1, 0.2)
SOLVERS = tuple(name for name in get_args(Solver) if name != "tuned")

Row: TypeAlias = tuple[str, str, int, npt.NDArray[np.float64]]
"""Solver, grid, evaluations, and the error of each mixture."""


def read(path: Path, prompt: str) -> tuple[npt.NDArray[np.float32], int, str]:
    """A file as mono, its rate, and what to ask for."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return audio.mean(axis=1), rate, prompt


def converged(flows: Flows, fine: int, last: float) -> State:
    """The flow's end by many midpoint steps; what is left from ``1 - last`` on is one of Euler.

    The velocity of a network that predicts clean latents is (clean - x) / (1 - t), which `mini`
    divides no further down than by 0.02: behind that it is no flow that ends in the prediction.
    """
    scheme = make_scheme("midpoint", fine)
    if last:
        share = 1 - last
        scheme = Scheme(
            (*(t * share for t in scheme.times), share),
            (*(tuple(w * share for w in row) for row in scheme.weights), (last,)),
        )
    return flows.end(scheme)


def table(flows: Flows, wanted: State) -> Iterator[Row]:
    """Measure all solvers and grids; midpoint on even steps comes first."""
    ways = [(solver, grid) for solver in SOLVERS for grid in get_args(Grid)]
    for solver, grid in sorted(ways, key=lambda way: way != ("midpoint", "uniform")):
        for evaluations in EVALUATIONS:
            steps = evaluations // count_evaluations(solver, 1)
            found = flows.end(make_scheme(solver, steps, grid))
            yield solver, grid, evaluations, errors(found, wanted)


def skipped(flows: Flows, wanted: State, threshold: float, extrapolate: bool) -> Row:
    """Sixteen midpoint steps that reuse a velocity while it hardly changes.

    As TeaCache does, an evaluation is left out while the changes of the state since the last one
    add up to less than a share of its size; the velocity is that one, or what the last two
    extrapolate to.
    """
    known: list[tuple[float, State]] = []
    made, drift, before = 0, np.inf, flows.noise

    def field(x: State, t: float) -> State:
        nonlocal made, drift, before
        drift += float(np.abs(x - before).mean() / np.abs(before).mean())
        before = x
        if drift >= threshold or len(known) < 2:
            known.append((t, flows.field(x, t)))
            del known[:-2]
            made, drift = made + 1, 0.0
            return known[-1][1]
        (early, first), (late, second) = known
        share = np.float32((t - late) / (late - early) if extrapolate else 0.0)
        return second + share * (second - first)

    end = solve(field, flows.noise, make_scheme("midpoint", 16))
    name = f"midpoint, {'extrapolated' if extrapolate else 'reused'} below {threshold:g}"
    return name, "uniform", made, errors(end, wanted)


def draw(rows: list[Row], title: str, path: Path) -> None:
    """Draw the median errors over the evaluations, a line for each solver and grid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(SOLVERS, ("C7", "C0", "C1", "C3", "C2"), strict=True))
    strokes = dict(zip(get_args(Grid), ("-", "--", ":", "-."), strict=True))
    for solver, colour in colours.items():
        for grid, stroke in strokes.items():
            line = [(n, np.median(e)) for s, g, n, e in rows if (s, g) == (solver, grid)]
            axes.loglog(*zip(*line, strict=True), stroke, color=colour, label=f"{solver}, {grid}")
    axes.set_xlabel("evaluations of the network")
    axes.set_ylabel("error / size of the converged state")
    axes.set_xticks(EVALUATIONS, EVALUATIONS, minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Measure, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("set", type=Path, help="folders with mixture.wav and a file per stem")
    parser.add_argument("--mixtures", type=int, default=20)
    parser.add_argument("--frames", type=int, default=100, help="of the one window")
    parser.add_argument("--fine", type=int, default=256, help="midpoint steps of the reference")
    parser.add_argument("--last", type=float, default=0.0, help="of its time, one step; see code")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    model = Model(asked.bundle, threads=1)
    chosen = [(case.mixture, min(case.stems)) for case in find_cases(asked.set)[: asked.mixtures]]
    info = model.manifest
    print(
        f"{info.name} {info.sha256[:12]} {info.precision}, {platform.machine()} CPU, "
        f"{len(chosen)} mixtures, one window of {asked.frames} frames "
        f"({asked.frames / info.frame_rate_hz:.2f} s), seed {asked.seed}, against midpoint with "
        f"{2 * asked.fine} evaluations"
    )
    flows = flows_of(model, [read(*one) for one in chosen], asked.frames, asked.seed)
    wanted = converged(flows, asked.fine, asked.last)
    rows = []
    print("| solver | grid | evaluations | error, median | worst |")
    print("| --- | --- | --- | --- | --- |")
    reused = (
        skipped(flows, wanted, threshold, extrapolate)
        for extrapolate in (False, True)
        for threshold in THRESHOLDS
    )
    for row in itertools.chain(table(flows, wanted), reused):
        solver, grid, evaluations, error = row
        line = f"| {solver} | {grid} | {evaluations} | {np.median(error):.2e} | {error.max():.2e} |"
        print(line, flush=True)
        rows.append(row)
    if asked.picture:
        draw(rows, f"{info.name}: error of the final state", asked.picture)


if __name__ == "__main__":
    main()
