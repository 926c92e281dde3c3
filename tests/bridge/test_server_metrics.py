"""Numbers for Prometheus, and the structured log."""

from __future__ import annotations

import json
import urllib.request

import pytest

from bridge.errors import InputError
from bridge.service.logs import Metrics
from tests.support.sidecars import RATE, noise, sidecar


def test_numbers_are_served_on_request() -> None:
    with sidecar("--metrics", "127.0.0.1:0") as server, server.client() as client:
        client.separate(noise(1), RATE, ["half"])
        log = (server.directory / "server.log").read_text()
        port = next(json.loads(line)["port"] for line in log.splitlines() if '"metrics"' in line)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines["stembridge_jobs_finished_total"]) == 1
    assert float(lines["stembridge_sessions"]) == 1
    assert float(lines['stembridge_jobs{state="running"}']) == 0
    assert float(lines["stembridge_memory_bytes"]) > 10e6
    assert 'stembridge_model_loaded{model="tiny",provider="CPUExecutionProvider"}' in lines


def test_the_log_is_one_json_object_a_line() -> None:
    with sidecar() as server:
        with server.client() as client:
            client.separate(noise(1), RATE, ["half"])
        assert server.stop() == 0
        lines = (server.directory / "server.log").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "stopped"
    assert all({"time", "level", "event"} <= set(event) for event in events)


@pytest.mark.parametrize("address", ["", "9464", "localhost", "localhost:x", "localhost:99999"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        Metrics(address, lambda: None)  # type: ignore[arg-type,return-value]
