"""The server's numbers for Prometheus, over HTTP, on request (extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bridge.errors import InputError, ServerError
from bridge.wire.control_messages import Status


class Metrics:
    """An HTTP endpoint with the text format of Prometheus.

    Parameters
    ----------
    address : str
        ``HOST:PORT``; port 0 takes a free one.
    status : callable
        Returns what there is to say; called at every request.

    Raises
    ------
    InputError
        If the address is none, or prometheus-client is not installed.
    ServerError
        If the port is taken.
    """

    def __init__(self, address: str, status: Callable[[], Status]) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise InputError(f"{address!r}: expected HOST:PORT, e.g. 127.0.0.1:9464")
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise InputError(
                "metrics need prometheus-client; install the extra: pip install stembridge[metrics]"
            ) from error
        registry = CollectorRegistry()
        registry.register(_Collector(status))
        try:
            self._server, self._thread = start_http_server(int(port), host, registry)
        except OSError as error:
            raise ServerError(f"cannot serve metrics at {address}: {error}") from error

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    """Turns a status into metrics; a collector as prometheus_client asks for."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._status()
        for name, text, value in (
            ("uptime_seconds", "Time since the start.", status.uptime_s),
            ("memory_bytes", "Resident memory, workers included.", status.memory_bytes),
            ("workers", "Processes that compute.", status.workers),
            ("sessions", "Clients.", status.sessions),
            ("cache_bytes", "Size of the disk store.", status.cache_bytes),
            ("cache_limit_bytes", "Limit of the disk store.", status.cache_limit_bytes),
            ("cache_entries", "Entries of the disk store.", status.cache_entries),
        ):
            yield GaugeMetricFamily(f"stembridge_{name}", text, value=value)
        jobs = GaugeMetricFamily("stembridge_jobs", "Open jobs by state.", labels=["state"])
        jobs.add_metric(["queued"], status.queued)
        jobs.add_metric(["running"], status.running)
        yield jobs
        yield CounterMetricFamily(
            "stembridge_jobs_finished", "Jobs computed since the start.", value=status.finished
        )
        loaded = GaugeMetricFamily(
            "stembridge_model_loaded", "Models in memory.", labels=["model", "provider"]
        )
        for model in status.loaded:
            loaded.add_metric([model, status.provider or ""], 1)
        yield loaded
