"""Real servers in real processes for the tests of the service, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bridge.connection.client import Client
from bridge.connection.connection import ask
from bridge.wire.messages import GetJobs, GetStatus, JobInfo, Jobs, Status
from bridge.wire.sockets import private_address
from tests.support import tiny_bundle

RATE = 16_000
PATIENT_S = 3600.0  # of clients: longer than a test may take


def noise(seconds: float, seed: int = 0, channels: int = 2, rate: int = RATE) -> np.ndarray:
    """A mixture (channels, samples) that differs for every seed."""
    generator = np.random.default_rng(seed)
    return (0.1 * generator.standard_normal((channels, int(seconds * rate)))).astype(np.float32)


def wait_until(condition: Callable[[], Any]) -> Any:
    """Wait for something to become true, and return it.

    Like every wait of the tests it has no time of its own, which a busy machine would outlast: the
    one that pytest has for a test ends it.
    """
    while not (value := condition()):
        time.sleep(0.005)
    return value


@dataclass
class Sidecar:
    """A server's directories, and its process while it runs."""

    root: Path
    bundle: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    clients: list[Client] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.root / "run"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def start(self, *options: str, **popen: Any) -> None:
        """Start the server in the foreground of a process, and wait until it answers."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        (self.directory / "server.json").unlink(missing_ok=True)  # of one that was killed
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "bridge.sidecar"),
                *("--directory", str(self.directory), "--cache", str(self.cache)),
                *("--idle-timeout", "600"),
                *self.options,
                *options,
            ],
            **popen,
        )
        wait_until((self.directory / "server.json").exists)

    def kill(self) -> None:
        """Kill the server as the system would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask the server to leave, and return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()

    def client(self, **options: Any) -> Client:
        """A client that starts the server itself if it is not there."""
        client = Client.local(
            self.bundle,
            directory=self.directory,
            cache=self.cache,
            **{"idle_timeout_s": 60.0, "connect_timeout_s": PATIENT_S, **options},
        )
        self.clients.append(client)
        return client

    def status(self) -> Status:
        return ask(private_address(self.directory), GetStatus(), Status)

    def job_infos(self) -> tuple[JobInfo, ...]:
        """The list of jobs."""
        return ask(private_address(self.directory), GetJobs(), Jobs).jobs

    def jobs(self) -> dict[str, str]:
        """States of the jobs by key."""
        return {job.key: job.state for job in self.job_infos()}

    def pids(self) -> list[int]:
        """Processes that serve this directory, however they were started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if str(self.directory) in " ".join(words) and process.pid != os.getpid():
                    found.append(process.pid)
        return found

    def close(self) -> None:
        """End everything, and check that nothing is left running."""
        for client in self.clients:
            client.close()
        if self.process is not None and self.process.poll() is None:
            self.stop()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not self.pids())
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def sidecar(*options: str, start: bool = True) -> Iterator[Sidecar]:
    """A server of its own on the bundle of formulas, started unless told otherwise."""
    root = Path(tempfile.mkdtemp(prefix="stembridge-test-"))
    server = Sidecar(root, tiny_bundle.build(root / "tiny"), options)
    server.directory.mkdir(mode=0o700)
    try:
        if start:
            server.start()
        yield server
    finally:
        server.close()
