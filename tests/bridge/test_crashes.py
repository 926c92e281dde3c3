"""The server, its worker or the disk fail in the middle of a job, and the caller gets its stems."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from bridge.connection.client import Client
from bridge.connection.job import JobHandle
from bridge.engine import Engine
from bridge.errors import ServerError, StembridgeError
from bridge.separation import Separation
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

STEPS = 40
MOMENTS = ("upload", "encode", "solve 1", "solve 2", "solve 3", "decode", "download")
STAGES = ("queued", "encode", "solve", "decode", "reconstruct")
# One kill at each moment; `STEMBRIDGE_KILLS=20` makes it the twenty of a release.
KILLS = int(os.environ.get("STEMBRIDGE_KILLS", str(len(MOMENTS))))


def server_pid(server: Sidecar) -> int | None:
    """Process id of the server that clients started, if one runs."""
    for pid in server.pids():
        with contextlib.suppress(psutil.Error):
            if "bridge.sidecar" in psutil.Process(pid).cmdline():
                return pid
    return None


def reached(
    server: Sidecar, handle: JobHandle, moment: str, dice: random.Random
) -> Callable[[], bool]:
    """Say when a job is at a moment; the moment within a stage is drawn."""
    share = dice.random()
    results = server.cache / "records" / "results"
    known = set(results.glob("*"))

    def condition() -> bool:
        progress = handle.progress
        if handle.done():
            return True
        if moment == "upload":
            sizes = [path.stat().st_size for path in (server.cache / "incoming").glob("*")]
            return any(sizes) or progress is not None
        if moment == "download":
            return bool(set(results.glob("*")) - known)
        if progress is None or progress.total == 0:
            return False
        stage, _, third = moment.partition(" ")
        low = (int(third) - 1 + share) / 3 if third else 0.0
        if progress.stage == stage:
            return progress.done >= low * progress.total
        return STAGES.index(progress.stage) > STAGES.index(stage)

    return condition


def same(one: Separation, other: Separation) -> bool:
    return all(
        np.array_equal(one.stems[name], other.stems[name]) for name in other.stems
    ) and np.array_equal(one.residual, other.residual)


@pytest.mark.slow
@pytest.mark.timeout(900)  # of twenty moments on a busy machine
def test_a_server_killed_at_any_moment_costs_nothing_but_time() -> None:
    dice = random.Random(2)
    late: list[float] = []
    with sidecar(start=False) as server, Engine(server.bundle) as engine, server.client() as client:
        client.separate(noise(1), RATE, ["half"])  # the server is up
        for number in range(KILLS):
            mixture = noise(20, seed=number)
            moment = MOMENTS[number % len(MOMENTS)]
            handle = client.submit(mixture, RATE, ["half"], steps=STEPS, seed=number)
            with contextlib.suppress(FileNotFoundError):  # a file renamed while we looked
                wait_until(reached(server, handle, moment, dice))
            pid = server_pid(server)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            wait_until(lambda gone=pid: server_pid(server) not in (None, gone))
            late.append(time.monotonic() - began)
            result = handle.result()
            if number < len(MOMENTS):
                assert same(
                    result, engine.separate(mixture, RATE, ["half"], steps=STEPS, seed=number)
                )
            assert result.report.seed == number
        assert not list((server.cache / "incoming").iterdir())
        client.separate(noise(1, seed=KILLS), RATE, ["half"])  # the last server has its worker
        assert len(server.pids()) == 2  # no server or worker of the dead is left
    assert max(late) < 3.0


def workers(server: Sidecar) -> list[int]:
    """Process ids of the server's workers."""
    found = []
    for pid in server.pids():
        with contextlib.suppress(psutil.Error):
            if "bridge.workers.process" in psutil.Process(pid).cmdline():
                found.append(pid)
    return found


def worker_pid(server: Sidecar) -> int:
    """Process id of the worker, once there is one."""
    return int(wait_until(lambda: workers(server))[0])


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_job_done_again() -> None:
    mixture = noise(20, seed=1)
    with sidecar() as server, server.client() as client, Engine(server.bundle) as engine:
        handle = client.submit(mixture, RATE, ["half"], steps=200)
        for _ in range(2):
            wait_until(lambda: handle.progress and handle.progress.stage == "solve")
            first = worker_pid(server)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda gone=first: worker_pid(server) != gone)
        assert same(handle.result(), engine.separate(mixture, RATE, ["half"], steps=200))
        assert server.status().workers == 1


def test_a_job_that_kills_every_worker_is_given_up() -> None:
    with sidecar() as server, server.client() as client:
        handle = client.submit(noise(20, seed=2), RATE, ["half"], steps=1000)
        while not handle.done():
            for pid in workers(server):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with pytest.raises(ServerError, match="ended 3 times"):
            handle.result()
        client.separate(noise(1), RATE, ["half"])


@pytest.mark.slow
def test_a_server_that_falls_silent_is_noticed() -> None:
    with sidecar() as server, server.client() as client:
        client.separate(noise(1), RATE, ["half"])
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        wait_until(lambda: not client.connected)
        assert time.monotonic() - began < 3.0
        handle = client.submit(noise(1, seed=3), RATE, ["half"])
        server.process.send_signal(signal.SIGCONT)
        handle.result()


def test_without_a_server_a_call_ends_in_a_clear_error() -> None:
    with sidecar() as server:
        address = f"ipc://{server.directory}/nobody.sock"
        with (
            Client.connect(address, "tiny", connect_timeout_s=0.2) as client,
            pytest.raises(ServerError, match="no server answers"),
        ):
            client.separate(noise(1), RATE, ["half"])


def test_a_damaged_result_is_computed_anew() -> None:
    mixture = noise(5, seed=4)
    with sidecar() as server, server.client() as client:
        first = client.separate(mixture, RATE, ["half"])
        for path in (server.cache / "objects").glob("*/*"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        handle = client.submit(mixture, RATE, ["half"])
        assert same(handle.result(), first)
        assert not handle.cached
        assert client.submit(mixture, RATE, ["half"]).result().report == handle.result().report


@pytest.mark.slow
@pytest.mark.parametrize("what", ["upload", "stems"])
def test_a_full_disk_is_told_and_survived(what: str) -> None:
    small, large = noise(1, seed=5), noise(60, seed=6)
    with sidecar() as server, server.client() as client:
        client.separate(small, RATE, ["half"])
        assert server.process is not None
        pid = server.process.pid if what == "upload" else worker_pid(server)
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # No file may grow beyond this, which is how a quota looks to a process.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (2 << 20, before[1]))
        with pytest.raises(StembridgeError, match=r"disk (is full|has no room)"):
            client.separate(large, RATE, ["half"])
        client.separate(small, RATE, ["half"], seed=9)
        assert not list((server.cache / "incoming").iterdir())
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        client.separate(large, RATE, ["half"])


@pytest.mark.slow
def test_a_job_goes_on_from_its_last_checkpoint_after_a_restart() -> None:
    mixture = noise(20, seed=7)
    options = {"steps": 300, "seed": 3}
    with sidecar(start=False) as server, Engine(server.bundle) as engine:
        expected = engine.separate(mixture, RATE, ["half"], **options)
        with server.client() as client:
            handle = client.submit(mixture, RATE, ["half"], keep=True, **options)
            checkpoint = server.cache / "records" / "checkpoints"
            wait_until(lambda: list(checkpoint.glob("*")) and handle.progress.stage == "solve")
            wait_until(lambda: handle.progress.done > handle.progress.total // 4)
            total = handle.progress.total
            pid = server_pid(server)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            handle.wait_progress()
            after: list[int] = []
            while (news := handle.wait_progress()) is not None:
                after += [item.done for item in news if item.stage == "solve"]
            assert same(handle.result(), expected)
        # Not from the start; how far the worker came before it noticed, nobody can say.
        assert 0 < after[0] < total
        assert not list(checkpoint.glob("*"))


@pytest.mark.slow
def test_a_kept_job_is_finished_by_the_next_server_without_its_client() -> None:
    mixture = noise(20, seed=8)
    with sidecar() as server:
        client = server.client()
        handle = client.submit(mixture, RATE, ["half"], keep=True, steps=300)
        wait_until(lambda: handle.progress and handle.progress.stage == "solve")
        server.kill()
        client.close()
        for pid in server.pids():  # what the client started when it lost the server
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not server.pids())
        server.start()
        wait_until(lambda: server.jobs().get(str(handle.key)) == "done")
        with server.client() as other:
            attached = other.attach(str(handle.key))
            assert attached.result().report.steps == 300
            assert attached.cached
