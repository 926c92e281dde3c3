"""Clients that are killed, and what a cancelled job leaves in memory: nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bridge.errors import Cancelled
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

GRACE_S = 1.0

# A client as any other, which submits a long job and waits for it.
WAITING = """
import sys
from pathlib import Path
from tests.support.sidecars import RATE, noise
from bridge.connection.client import Client

bundle, directory, cache = map(Path, sys.argv[1:])
with Client.local(bundle, directory=directory, cache=cache) as client:
    handle = client.submit(noise(240, seed=1), RATE, ["half"], steps=1000)
    while handle.state != "running":
        handle.wait_progress()
    print(handle.key, flush=True)
    handle.result()
"""

# One that has sent a chunk of a long mixture and goes on saying that it lives.
UPLOADING = """
import sys, time
from pathlib import Path
from tests.support.peers import peer, submission
from tests.support.sidecars import Sidecar, noise
from bridge.wire.codec import CHUNK_BYTES
from bridge.wire.messages import Ping
from bridge.wire.messages import Audio, SendAudio

bundle, directory, _ = map(Path, sys.argv[1:])
server, mixture = Sidecar(directory.parent, bundle), noise(200, seed=2)
with peer(server) as one:
    one.hello()
    one.send(submission(server, mixture))
    one.receive(SendAudio)
    one.send(Audio(request=1, offset=0), memoryview(mixture).cast("B")[:CHUNK_BYTES])
    print("sent", flush=True)
    while True:
        one.tell(Ping(session=one.session, number=0))
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Sidecar]:
    with sidecar("--grace", str(GRACE_S)) as running:
        yield running


def start(script: str, server: Sidecar) -> tuple[subprocess.Popen[str], str]:
    """Run a script in a process of its own until it says something."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, (server.bundle, server.directory, server.cache))],
        cwd=Path(__file__).parents[2],  # where the package of tests is found
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def worker(server: Sidecar) -> psutil.Process:
    assert server.process is not None
    return psutil.Process(server.process.pid).children()[0]


@pytest.mark.slow
def test_the_job_of_a_killed_client_is_gone(server: Sidecar) -> None:
    process, key = start(WAITING, server)
    assert server.jobs()[key] == "running"
    kill(process)
    wait_until(lambda: server.jobs()[key] == "cancelled")
    wait_until(lambda: server.status().sessions == 0)


@pytest.mark.slow
def test_half_an_upload_of_a_killed_client_is_gone(server: Sidecar) -> None:
    incoming = server.cache / "incoming"
    process, said = start(UPLOADING, server)
    assert said == "sent"
    wait_until(lambda: [path for path in incoming.iterdir() if path.stat().st_size])
    kill(process)
    wait_until(lambda: not list(incoming.iterdir()))
    wait_until(lambda: server.status().sessions == 0)
    assert {"queued", "running"}.isdisjoint(server.jobs().values())
    with server.client() as client:
        client.separate(noise(1, seed=3), RATE, ["half"])


def held_bytes(process: psutil.Process) -> int:
    """Memory of a process, and what it keeps on disk in files without a name."""
    nameless = 0
    for handle in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(handle.readlink()).endswith("(deleted)"):
                nameless += handle.stat().st_blocks * 512
    return int(process.memory_info().rss) + nameless


@pytest.mark.slow
def test_a_cancelled_job_gives_its_memory_back(server: Sidecar) -> None:
    with server.client() as client:
        client.separate(noise(1, seed=4), RATE, ["half"])
        process = worker(server)
        before = held_bytes(process)
        handle = client.submit(noise(600, seed=5), RATE, ["half", "everything"], steps=1000)
        wait_until(lambda: handle.progress and handle.progress.stage == "solve")
        wait_until(lambda: handle.progress and handle.progress.done > 2)
        taken = held_bytes(process) - before
        assert taken > 100e6
        handle.cancel()
        with pytest.raises(Cancelled):
            handle.result()
        wait_until(lambda: held_bytes(process) - before < taken / 4)
        assert worker(server).pid == process.pid
