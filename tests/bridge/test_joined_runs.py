"""Jobs of several threads in one evaluation: the same bits, and nobody pays for another."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import psutil
import pytest

from bridge.bundles.bundle import load_manifest
from bridge.engine import Engine
from bridge.errors import Cancelled, ModelError
from bridge.inference.context import Cancellation, Turns
from bridge.inference.graphs import Graphs, JoinedRuns
from bridge.inference.model import Model
from tests.support.sidecars import RATE, noise, sidecar, wait_until

SOLVE = {"solver": "midpoint", "steps": 4, "window_s": 1.0}


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """How many jobs every evaluation was for; batches of eight windows, as on a GPU, on the CPU."""
    monkeypatch.setattr(Model, "most_windows", 8)
    seen: list[int] = []
    evaluate = JoinedRuns._evaluate

    def counted(self, chosen):
        seen.append(len(chosen))
        evaluate(self, chosen)

    monkeypatch.setattr(JoinedRuns, "_evaluate", counted)
    return seen


def separate_two(engine: Engine, cancel: threading.Event | None = None):
    """Separate two mixtures at a time: the second joins the first after two evaluations.

    The second is cancelled by `cancel`, if that is given, after three evaluations.
    """
    assert isinstance(engine._model, Model)
    joined = engine._model.joined
    assert joined is not None
    first_is_under_way = threading.Event()

    def first(progress):
        if progress.stage == "solve" and progress.done == 2:
            first_is_under_way.set()
            wait_until(lambda: len(joined._members) == 2)

    def second(progress):
        if progress.stage == "solve" and progress.done == 3 and cancel is not None:
            cancel.set()

    def separate_second():
        first_is_under_way.wait()
        return engine.separate(
            noise(1.5, seed=1), RATE, ["everything"], progress=second, cancel=cancel, **SOLVE
        )

    with ThreadPoolExecutor(2) as pool:
        asked = ["half", "everything"]
        return [
            pool.submit(engine.separate, noise(2), RATE, asked, progress=first, **SOLVE),
            pool.submit(separate_second),
        ]


@pytest.mark.parametrize("stereo", [False, True])
def test_jobs_that_share_evaluations_have_the_bits_that_they_have_alone(
    build_bundle, sizes, stereo
):
    bundle = build_bundle(stereo=stereo, beside_guidance=0.5 if stereo else 1.0)
    with Engine(bundle) as engine:
        alone = [
            engine.separate(noise(2), RATE, ["half", "everything"], **SOLVE),
            engine.separate(noise(1.5, seed=1), RATE, ["everything"], **SOLVE),
        ]
    assert not sizes
    with Engine(bundle, together=True) as engine:
        found = [one.result() for one in separate_two(engine)]
    assert 2 in sizes
    for one, expected in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one.residual, expected.residual)
        for name, stem in expected.stems.items():
            np.testing.assert_array_equal(one.stems[name], stem)


@pytest.mark.usefixtures("sizes")
def test_a_cancelled_job_leaves_the_other_as_it_is(build_bundle):
    bundle = build_bundle()
    with Engine(bundle) as engine:
        alone = engine.separate(noise(2), RATE, ["half", "everything"], **SOLVE)
    with Engine(bundle, together=True) as engine:
        kept, cancelled = separate_two(engine, threading.Event())
        with pytest.raises(Cancelled):
            cancelled.result()
        np.testing.assert_array_equal(kept.result().residual, alone.residual)
        # And the engine goes on.
        again = engine.separate(noise(2), RATE, ["half", "everything"], **SOLVE)
        np.testing.assert_array_equal(again.residual, alone.residual)


def test_on_a_cpu_jobs_run_one_after_another(build_bundle):
    with Engine(build_bundle(), together=True, providers=["cpu"]) as engine:
        assert engine._model.joined is None


@contextmanager
def graph_runs(build_bundle) -> Iterator[tuple[JoinedRuns, Turns]]:
    """The codec's encoder of a tiny bundle, which repeats what it hears."""
    bundle = build_bundle()
    graphs, turns = Graphs(bundle, load_manifest(bundle), threads=1), Turns()
    yield JoinedRuns(graphs, turns), turns
    graphs.close()


def part_of(runs: JoinedRuns, rows: int = 1):
    return runs.bind("codec_encoder", {"wav": np.zeros((rows, 1, 640), np.float32)})


def test_what_fails_for_one_fails_for_that_one(build_bundle, sizes):
    everybody_is_in = threading.Barrier(3)

    def run(runs: JoinedRuns, turns: Turns, level: float):
        with Cancellation(None) as never, turns.turn(), runs.taking_part(4, never):
            part = part_of(runs)
            everybody_is_in.wait()
            return part.run({"wav": np.full((1, 1, 640), level, np.float32)}, never)

    with graph_runs(build_bundle) as runs, ThreadPoolExecutor(3) as pool:
        one, bad, other = [pool.submit(run, *runs, level) for level in (1.0, np.nan, 3.0)]
        assert (one.result() == 1).all()
        assert (other.result() == 3).all()
        with pytest.raises(ModelError, match="NaN"):
            bad.result()
    assert sizes == [3]


def test_whoever_is_left_out_of_a_full_batch_is_in_the_next(build_bundle, monkeypatch):
    """Three jobs with two windows each, and room for four: two of them at a time."""
    rounds: list[set[int]] = []
    evaluate = JoinedRuns._evaluate
    everybody_is_in = threading.Barrier(3)

    def evaluate_when_others_wait(self, chosen):
        rounds.append({id(one.part) for one in chosen})
        if len(rounds) < 9:  # near the end some have left
            wait_until(lambda: len(self._waiting) + len(chosen) == 3)
        evaluate(self, chosen)

    monkeypatch.setattr(JoinedRuns, "_evaluate", evaluate_when_others_wait)

    def run(runs: JoinedRuns, turns: Turns):
        with Cancellation(None) as never, turns.turn(), runs.taking_part(4, never):
            part = part_of(runs, rows=2)
            everybody_is_in.wait()
            for level in range(8):
                out = part.run({"wav": np.full((2, 1, 640), level, np.float32)}, never)
                assert (out == level).all()
            return id(part)

    with graph_runs(build_bundle) as runs, ThreadPoolExecutor(3) as pool:
        parts = {one.result() for one in [pool.submit(run, *runs) for _ in range(3)]}
    for before, after in pairwise(rounds[:9]):
        assert len(before) <= 2
        assert parts - before <= after


@pytest.mark.slow
def test_workers_in_one_process_separate_cancel_and_survive_it() -> None:
    with (
        sidecar("--workers", "2", "--together") as server,
        server.client() as client,
        Engine(server.bundle) as engine,
    ):
        expected = engine.separate(noise(2), RATE, ["half"], steps=40)
        endless = client.submit(noise(20, seed=1), RATE, ["half"], steps=1000, solver="midpoint")
        wait_until(lambda: endless.state == "running")
        handle = client.submit(noise(2), RATE, ["half"], steps=40)
        wait_until(lambda: handle.state != "queued")
        assert server.status().workers == 1
        endless.cancel()
        with pytest.raises(Cancelled):
            endless.result()
        assert np.array_equal(handle.result().residual, expected.residual)
        both = [client.submit(noise(2, seed=seed), RATE, ["half"], steps=400) for seed in (2, 3)]
        wait_until(lambda: all(one.state == "running" for one in both))
        assert server.process is not None
        (worker,) = [
            child.pid
            for child in psutil.Process(server.process.pid).children(recursive=True)
            if "bridge.workers.process" in " ".join(child.cmdline())
        ]
        os.kill(worker, signal.SIGKILL)
        for one in both:
            assert one.result().report.stems == ("half",)
