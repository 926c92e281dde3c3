"""What the operator of a server sees: logs of one JSON object a line, and metrics for Prometheus.

Records go to a file, and to memory for ``stembridge logs``; metrics are the extra ``metrics``.
"""

from __future__ import annotations

import logging
import logging.handlers
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge.errors import InputError, ServerError, encodable
from bridge.wire.messages import Status

LOGGER: Final = logging.getLogger("stembridge.server")
# Records for ``stembridge logs``, within about a megabyte.
_KEPT_RECORDS: Final = 2000
_FILE_BYTES: Final = 2 << 20  # of each of three files


def log(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Log an event with its fields."""
    LOGGER.log(level, event, extra={"fields": fields})


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(encodable(entry), enc_hook=_as_text).decode()


def _as_text(value: object) -> Any:
    return encodable(str(value))


class LogMemory(logging.Handler):
    """Keeps the latest records, formatted.

    Attributes
    ----------
    others : list of logging.Handler
        The handlers set up with this one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_KEPT_RECORDS)
        self.others: list[logging.Handler] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._lines.append(self.format(record))

    def detach(self) -> None:
        """Stop logging, here and through `others`."""
        for handler in (self, *self.others):
            LOGGER.removeHandler(handler)
            handler.close()

    def newest(self, count: int) -> tuple[str, ...]:
        """Return up to `count` lines, oldest first."""
        return tuple(list(self._lines)[-count:])


def set_up(path: Path, *, console: bool) -> LogMemory:
    """Send the server's log to a file, to memory, and with `console` to standard error."""
    memory = LogMemory()
    file = logging.handlers.RotatingFileHandler(
        path, maxBytes=_FILE_BYTES, backupCount=2, encoding="utf-8", delay=True
    )
    handlers: list[logging.Handler] = [memory, file]
    if console:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(_JsonLines())
        LOGGER.addHandler(handler)
    memory.others = handlers[1:]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    return memory


class Metrics:
    """An HTTP endpoint in the text format of Prometheus.

    Parameters
    ----------
    address : str
        ``HOST:PORT``; port 0 takes a free one.
    status : callable
        Returns the server's status; called for every request.

    Raises
    ------
    InputError
        If the address is malformed, or prometheus-client is not installed.
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
        """The port it listens on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    """Turns a status into metrics; implements prometheus_client's collector interface."""

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
