"""A queue between threads that a poller can wait on beside its sockets."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Items put by any thread, drained by the one that polls `fileno`."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that is readable while items wait."""
        return self._reader.fileno()

    def put(self, item: T) -> None:
        """Append an item and wake the poller; after `close` the item is dropped."""
        self._items.append(item)
        # A full socket buffer already holds more wake-ups than are needed.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def drain(self) -> list[T]:
        """Take all items, in the order in which they were put."""
        with contextlib.suppress(OSError):
            while self._reader.recv(4096):
                pass
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()
