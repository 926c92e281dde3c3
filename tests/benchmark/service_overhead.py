"""What the sidecar costs over the engine in this process.

Run as ``python tests/benchmark/service_overhead.py [--model NAME_OR_DIR] [--minutes 4]``. Prints
the overhead for a long stereo mixture (goal: at most 2 % of the job and 300 ms) and the time of
a cached repeat of ten seconds (goal: 50 ms), each with device, window, NFE and seed. Beside it
stands what the processors did, of this process, the server and its worker together: on a machine
that is busy with other things only that can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from bridge.connection.client import Client
from bridge.engine import Engine
from bridge.separation import Separation

RATE = 44_100


def timed(work: Callable[[], Separation]) -> tuple[float, Separation]:
    """Return how many seconds a call took, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def processor_s(directory: Path) -> float:
    """Return the processor seconds of this process and of all that serve a directory."""
    total_s = time.process_time()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(directory) in " ".join(process.cmdline()):
                total_s += sum(process.cpu_times()[:2])
    return total_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    shape = (2, int(60 * RATE * arguments.minutes))
    mixture = (0.1 * generator.standard_normal(shape)).astype(np.float32)
    short = np.ascontiguousarray(mixture[:, : 10 * RATE])
    with tempfile.TemporaryDirectory(prefix="stembridge-bench-") as name:
        root = Path(name)
        with (
            Engine(arguments.model) as engine,
            Client.local(
                arguments.model, directory=root / "run", cache=root / "cache", idle_timeout_s=1
            ) as client,
        ):
            prompts = ["drums"]
            for separator in (engine, client):  # load the model, start the server
                separator.separate(short, RATE, prompts)
            rows = []
            for seed in range(arguments.repeats):
                began_s = processor_s(root)
                inside_s, _ = timed(
                    lambda seed=seed: engine.separate(mixture, RATE, prompts, seed=seed)
                )
                between_s = processor_s(root)
                # A seed of its own, so that nothing is in the cache but the audio and latents
                # of the first.
                outside_s, result = timed(
                    lambda seed=seed: client.separate(mixture, RATE, prompts, seed=100 + seed)
                )
                ended_s = processor_s(root)
                rows.append((inside_s, outside_s, result.report.seconds))
                print(
                    f"in process {inside_s:7.2f} s   sidecar {outside_s:7.2f} s, "
                    f"of which computing {result.report.seconds:7.2f} s: "
                    f"{1000 * (outside_s - result.report.seconds):6.0f} ms around it; "
                    f"processors {between_s - began_s:.2f} s and {ended_s - between_s:.2f} s"
                )
            report = result.report
            around_s = median(outside - computing for _, outside, computing in rows)
            print(
                f"overhead for {arguments.minutes:g} min of stereo: {1000 * around_s:.0f} ms, "
                f"{100 * around_s / median(inside for inside, _, _ in rows):.2f} % of the job "
                f"({report.model}, {report.provider}, {report.windows} windows of "
                f"{report.window_s:g} s, NFE {report.nfe})"
            )
            client.separate(short, RATE, prompts, seed=7)
            again = [
                timed(lambda: client.separate(short, RATE, prompts, seed=7))[0] for _ in range(10)
            ]
            print(f"cached repeat of 10 s of stereo: median {1000 * median(again):.1f} ms")


if __name__ == "__main__":
    main()
