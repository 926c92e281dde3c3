"""Many clients, many jobs, and a while of everything at once; nothing may be left over.

``STEMBRIDGE_SOAK_S=60`` makes the last one a minute long, as before a release.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter

import numpy as np
import psutil
import pytest

from bridge.connection.client import Client
from bridge.engine import Engine
from bridge.errors import Cancelled, ServerError, StembridgeError
from bridge.wire.codec import CHUNK_BYTES
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

pytestmark = pytest.mark.slow

CHEAP = {"steps": 1, "reconstruct": "null"}
SOAK_S = float(os.environ.get("STEMBRIDGE_SOAK_S", "10"))


def footprint(server: Sidecar) -> tuple[int, int]:
    """Open descriptors and threads of the server's process."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    return process.num_fds(), process.num_threads()


def test_thirty_two_clients_with_four_jobs_each() -> None:
    clients, jobs = 32, 4
    seconds = 4
    with sidecar() as server, Engine(server.bundle) as engine:
        with server.client() as first:
            first.separate(noise(1, seed=999), RATE, ["half"])
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        base = peak = process.memory_info().rss
        finished: list[tuple[int, int]] = []
        handles = {}
        crowd = [server.client() for _ in range(clients)]
        for job in range(jobs):
            for index, client in enumerate(crowd):
                mixture = noise(seconds, seed=10 * index + job)
                handle = client.submit(mixture, RATE, ["half"], seed=job, **CHEAP)
                handle.add_done_callback(lambda _, which=(index, job): finished.append(which))
                handles[index, job] = handle
        while not all(handle.done() for handle in handles.values()):
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.02)
        for (index, job), handle in handles.items():
            result = handle.result()
            assert result.report.seed == job
            if (index, job) in ((0, 0), (13, 2), (31, 3)):
                mixture = noise(seconds, seed=10 * index + job)
                expected = engine.separate(mixture, RATE, ["half"], seed=job, **CHEAP)
                assert np.array_equal(result.residual, expected.residual)
        print(f"peak of the server: {base / 1e6:.0f} MB + {(peak - base) / 1e6:.0f} MB")
        for client in crowd:
            client.close()
        # While all wait, nobody is a whole job ahead: between two jobs of one client, every
        # other has its turn. Transfers overlap, so neighbours may change places.
        counts: Counter[int] = Counter()
        for index, _ in finished:
            counts[index] += 1
            assert counts[index] - min(counts[other] for other in range(clients)) <= 2
        # PROTOCOL.md: at most four chunks per request and direction are under way.
        assert peak - base < clients * 2 * 4 * CHUNK_BYTES
        assert peak - base < 256 << 20
        assert server.status().finished == clients * jobs + 1


def test_a_while_of_submits_cancels_and_kills_leaves_nothing() -> None:
    with sidecar("--grace", "0.5") as server:
        with server.client() as first:
            first.separate(noise(1, seed=1000), RATE, ["half"])
        threads_before = threading.active_count()
        before = footprint(server)
        outcomes: Counter[str] = Counter()
        surprises: list[str] = []
        deadline = time.monotonic() + SOAK_S
        users = [
            threading.Thread(target=_use, args=(server, seed, deadline, outcomes, surprises))
            for seed in range(4)
        ]
        for user in users:
            user.start()
        dice = random.Random(99)
        while time.monotonic() < deadline:
            time.sleep(dice.uniform(0.5, 2.0))
            for pid in server.pids():
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    if "bridge.workers.process" in psutil.Process(pid).cmdline():
                        os.kill(pid, signal.SIGKILL)
                        outcomes["worker killed"] += 1
        for user in users:
            user.join()
        assert outcomes["done"] > 0
        assert outcomes["wrong"] == 0
        assert not surprises
        wait_until(lambda: {"running", "queued"}.isdisjoint(server.jobs().values()))
        wait_until(lambda: server.status().sessions == 0)
        assert not list((server.cache / "incoming").iterdir())
        assert threading.active_count() == threads_before
        wait_until(lambda: footprint(server)[1] <= before[1] + 1)
        wait_until(lambda: footprint(server)[0] <= before[0] + 4)
        with server.client() as last:
            last.separate(noise(1, seed=1001), RATE, ["half"])


def _use(
    server: Sidecar, seed: int, deadline: float, outcomes: Counter[str], surprises: list[str]
) -> None:
    """Behave like a user in a hurry until the deadline."""
    dice = random.Random(seed)
    while time.monotonic() < deadline:
        client = Client.local(server.bundle, directory=server.directory, cache=server.cache)
        for _ in range(dice.randrange(1, 4)):
            which = dice.randrange(12)
            mixture = noise(1 + which % 4, seed=which)
            handle = client.submit(
                mixture,
                RATE,
                ["everything"],
                steps=dice.choice([1, 5, 80]),
                partial=bool(which % 2),
            )
            if dice.random() < 0.3:
                time.sleep(dice.uniform(0, 0.3))
                handle.cancel()
            if dice.random() < 0.2:
                break  # leaves without a word about this one
            try:
                result = handle.result()
                wrong = np.abs(result.stems["everything"] - mixture).max() > 0.05
                outcomes["wrong" if wrong else "done"] += 1
            except Cancelled:
                outcomes["cancelled"] += 1
            except (StembridgeError, TimeoutError) as error:
                if isinstance(error, ServerError) and "ended 3 times" in str(error):
                    outcomes["lost"] += 1
                else:
                    surprises.append(repr(error))
        client.close()
