"""``stembridge serve`` and the commands around it, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import InputError
from bridge.wire.keys import KeyRing
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

COMMAND = [sys.executable, "-c", "import sys; from plugin_host.cli import main; sys.exit(main())"]


def stembridge(*words: str, keys: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({} if keys is None else {"STEMBRIDGE_KEYS_DIR": str(keys)})}
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Sidecar]:
    with sidecar(start=False) as running:
        running.process = subprocess.Popen(
            [
                *COMMAND,
                *("serve", "--model", str(running.bundle), "--directory", str(running.directory)),
                *("--cache", str(running.cache), "--cache-limit", "0.1"),
                *("--client-jobs", "3", "--client-upload", "0.01", "--client-minutes", "0.5"),
            ],
            stderr=subprocess.DEVNULL,
        )
        wait_until((running.directory / "server.json").exists)
        yield running


@pytest.mark.slow
def test_status_says_what_there_is(server: Sidecar) -> None:
    with server.client() as client:
        client.separate(noise(1), RATE, ["half"])
        shown = stembridge("status", "--directory", str(server.directory))
        assert shown.returncode == 0
        for word in ("tiny", "CPUExecutionProvider", "1 clients", "1 finished"):
            assert word in shown.stdout
        found = json.loads(
            stembridge("status", "--json", "--directory", str(server.directory)).stdout
        )
        assert found["cache_limit_bytes"] == 100_000_000
        assert found["sessions"] == 1


@pytest.mark.parametrize(
    ("seconds", "rate", "message"),
    [(31, RATE, "client 0.5"), (29, 48_000, "bytes")],
)
def test_a_client_is_held_to_the_limits(
    server: Sidecar, seconds: int, rate: int, message: str
) -> None:
    with server.client() as client, pytest.raises(InputError, match=message):
        client.separate(noise(seconds, rate=rate), rate, ["half"])


def test_a_client_is_held_to_so_many_jobs(server: Sidecar) -> None:
    with server.client() as client:
        handles = [
            client.submit(noise(1, seed=seed), RATE, ["half"], steps=1000) for seed in range(4)
        ]
        with pytest.raises(InputError, match="3 jobs are open"):
            handles[3].result()
        for handle in handles:
            handle.cancel()


def test_a_model_given_to_the_server_is_asked_for_by_name(server: Sidecar) -> None:
    from bridge.connection.client import Client
    from bridge.connection.local import LocalSidecar
    from bridge.wire.messages import ModelRef

    place = LocalSidecar(server.directory, server.cache)
    with Client(place, ModelRef("tiny")) as client:
        assert client.separate(noise(1), RATE, ["half"]).report.model == "tiny"


@pytest.mark.slow
def test_jobs_are_listed_and_cancelled(server: Sidecar) -> None:
    with server.client() as client:
        handle = client.submit(noise(29, seed=1), RATE, ["half"], steps=1000, solver="midpoint")
        wait_until(lambda: handle.progress and handle.progress.stage == "solve")
        shown = stembridge("jobs", "--directory", str(server.directory)).stdout
        line = next(line for line in shown.splitlines() if line.startswith(str(handle.key)[:12]))
        assert "running" in line
        assert "solve" in line
        assert stembridge("cancel", "--directory", str(server.directory), "xyz").returncode == 2
        done = stembridge("cancel", "--directory", str(server.directory), str(handle.key)[:10])
        assert done.returncode == 0
        wait_until(handle.done)
        assert handle.state == "cancelled"


@pytest.mark.slow
def test_logs_are_shown_also_of_a_server_that_left(server: Sidecar) -> None:
    place = ("--directory", str(server.directory))
    shown = stembridge("logs", *place).stdout.splitlines()
    assert json.loads(shown[0])["event"] == "started"
    assert stembridge("stop", *place).returncode == 0
    assert server.process is not None
    assert server.process.wait() == 0
    left = stembridge("logs", "--lines", "1", *place).stdout.splitlines()
    assert json.loads(left[-1])["event"] == "stopped"
    gone = stembridge("status", *place)
    assert gone.returncode == 2
    assert "no server answers" in gone.stderr
    assert len(gone.stderr.splitlines()) == 1


def test_a_second_server_in_the_same_place_is_refused(tmp_path: Path) -> None:
    with sidecar() as running:
        began = time.monotonic()
        place = ("--directory", str(running.directory), "--cache", str(tmp_path))
        second = stembridge("serve", *place)
        assert second.returncode == 2
        assert "running" in second.stderr
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("start", ["-h#", "--=", "--h", "-"])
def test_a_key_may_begin_like_an_option(tmp_path: Path, start: str) -> None:
    stembridge("keys", "new", keys=tmp_path)
    key = start + KeyRing(tmp_path).identity().public[len(start) :]
    assert stembridge("keys", "authorize", "studio", key, keys=tmp_path).returncode == 0
    assert list(KeyRing(tmp_path).authorized().values()) == [key]


@pytest.mark.slow
def test_keys_are_made_authorised_listed_and_revoked(tmp_path: Path) -> None:
    assert stembridge("keys", "list", keys=tmp_path).returncode == 2
    key = stembridge("keys", "new", keys=tmp_path).stdout.strip()
    assert len(key) == 40
    assert stembridge("keys", "authorize", "studio", key, keys=tmp_path).returncode == 0
    shown = stembridge("keys", "list", keys=tmp_path).stdout
    assert key in shown
    assert "studio" in shown
    assert stembridge("keys", "revoke", "studio", keys=tmp_path).returncode == 0
    assert "studio" not in stembridge("keys", "list", keys=tmp_path).stdout
    assert stembridge("keys", "authorize", "x", "no key", keys=tmp_path).returncode == 2


def test_the_network_is_refused_without_keys(tmp_path: Path) -> None:
    with sidecar(start=False) as running:
        refused = stembridge(
            *("serve", "--bind", "tcp://0.0.0.0:7780", "--directory", str(running.directory)),
            *("--cache", str(running.cache)),
            keys=tmp_path,
        )
        assert refused.returncode == 2
        assert "keys new" in refused.stderr
        assert refused.stderr.count("\n") == 1
