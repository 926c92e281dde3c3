"""Jobs on a Ray cluster of this machine: two workers, one of them killed."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy as np
import psutil
import pytest

from bridge.engine import Engine
from bridge.errors import Cancelled
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

pytestmark = [
    pytest.mark.skipif(
        "STEMBRIDGE_TEST_RAY" not in os.environ,
        reason="starts a Ray cluster: install the extra ray and set STEMBRIDGE_TEST_RAY=1",
    ),
    pytest.mark.slow,
]


def workers(server: Sidecar) -> list[int]:
    """Process ids of the actors."""
    assert server.process is not None
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ray::RayWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def busy(server: Sidecar) -> int:
    """The actor that has used most of the processor in a moment."""
    before = {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in workers(server)}

    def used() -> int:
        for pid, seconds in before.items():
            if sum(psutil.Process(pid).cpu_times()[:2]) > seconds + 0.05:
                return pid
        return 0

    return int(wait_until(used))


def test_two_workers_one_killed_one_cancelled() -> None:
    mixtures = [noise(20, seed=seed) for seed in range(3)]
    with (
        sidecar("--ray", "local", "--workers", "2") as server,
        server.client() as client,
        Engine(server.bundle) as engine,
    ):
        expected = engine.separate(mixtures[0], RATE, ["half"], steps=40)
        handle = client.submit(mixtures[0], RATE, ["half"], steps=40)
        wait_until(lambda: handle.progress and handle.progress.stage == "solve")
        os.kill(busy(server), signal.SIGKILL)
        other = client.submit(mixtures[1], RATE, ["half"], steps=1000, solver="midpoint")
        wait_until(lambda: other.state == "running")
        other.cancel()
        with pytest.raises(Cancelled):
            other.result()
        assert np.array_equal(handle.result().residual, expected.residual)
        last = client.submit(mixtures[2], RATE, ["half"])
        assert last.result().report.stems == ("half",)
        wait_until(lambda: server.status().running == 0)
