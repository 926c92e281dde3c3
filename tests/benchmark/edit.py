"""What an edit of three seconds costs in a song of four minutes.

Run as ``python -m tests.benchmark.edit [--model mini] [--minutes 4] [--steps N] [--solver NAME]``.
Prints the time of `Engine.update` as a share of that of the whole job, by the clock and by the
processors (goal: at most 12 %), and in which stretch samples differ from before.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bridge.engine import Engine

RATE = 44_100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--solver")
    asked = parser.parse_args()
    samples = int(60 * RATE * asked.minutes)
    generator = np.random.default_rng(0)
    before = (0.1 * generator.standard_normal((2, samples))).astype(np.float32)
    after = before.copy()
    start = samples // 2
    after[:, start : start + int(asked.seconds * RATE)] *= 0.5
    options = {"steps": asked.steps, "solver": asked.solver}
    with Engine(asked.model) as engine:
        engine.separate(before[:, : 10 * RATE], RATE, ["drums"], **options)  # loads the networks
        began, worked = time.perf_counter(), time.process_time()
        earlier = engine.separate(before, RATE, ["drums"], **options)
        between, half = time.perf_counter(), time.process_time()
        result = engine.update(earlier, before, after, ["drums"])
        ended, done = time.perf_counter(), time.process_time()
    differ = np.flatnonzero((result.stems["drums"] != earlier.stems["drums"]).any(axis=0)) / RATE
    report = earlier.report
    print(
        f"whole {between - began:.1f} s, edit of {asked.seconds:g} s {ended - between:.2f} s: "
        f"{100 * (ended - between) / (between - began):.1f} % by the clock, "
        f"{100 * (done - half) / (half - worked):.1f} % of the processors' time; "
        f"{result.report.windows} of {report.windows} windows of {report.window_s:g} s, "
        f"NFE {report.nfe}; edited {start / RATE:.2f} to {start / RATE + asked.seconds:.2f} s, "
        f"other bits from {differ[0]:.2f} to {differ[-1]:.2f} s "
        f"({report.model}, {report.provider}, seed {report.seed})"
    )


if __name__ == "__main__":
    main()
