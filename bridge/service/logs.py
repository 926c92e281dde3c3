"""Structured logs: one JSON object a line, in a file and in a short memory for `logs`."""

from __future__ import annotations

import logging
import logging.handlers
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

LOGGER: Final = logging.getLogger("stembridge.server")
_KEPT_RECORDS: Final = 2000
_FILE_BYTES: Final = 2 << 20


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
        return msgspec.json.encode(entry, enc_hook=str).decode()


class LogMemory(logging.Handler):
    """Keeps the newest records, formatted.

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
        """Stop logging, here and to where else the server logs."""
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
