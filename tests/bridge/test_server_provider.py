"""A provider that was asked for is used, or the server says so and stops."""

from __future__ import annotations

import pytest

from bridge.inference.graphs import ort
from tests.support.sidecars import RATE, noise, sidecar

pytestmark = pytest.mark.skipif(
    "CoreMLExecutionProvider" in ort.get_available_providers(),
    reason="needs a provider that this machine does not have",
)


def test_a_missing_provider_stops_the_server() -> None:
    with sidecar(start=False) as server:
        server.start("--provider", "coreml", "--model", str(server.bundle))
        assert server.process is not None
        assert server.process.wait() == 2
        log = (server.directory / "server.log").read_text()
        assert "CoreMLExecutionProvider" in log


def test_told_to_fall_back_it_goes_on_and_says_what_it_uses() -> None:
    with sidecar(start=False) as server:
        server.start("--provider", "coreml", "--fallback", "--model", str(server.bundle))
        with server.client() as client:
            result = client.separate(noise(1), RATE, ["half"])
        assert result.report.provider == server.status().provider == "CPUExecutionProvider"
        (why,) = (note.text for note in result.report.notes if note.kind == "device")
        assert why.startswith("computed with CPUExecutionProvider: the provider CoreML")


def test_a_provider_that_is_there_is_used() -> None:
    with sidecar("--provider", "cpu") as server, server.client() as client:
        client.separate(noise(1), RATE, ["half"])
        assert server.status().provider == "CPUExecutionProvider"
