"""Whose turn it is: a queue that serves clients in turn, however much each has submitted."""

from __future__ import annotations

from collections import deque


class FairQueue:
    """Jobs of many clients; the client served longest ago goes next.

    A client never served goes before all that were, so nobody waits behind more than one job of
    any other client. Within a client, jobs keep their order. A job that several clients wait
    for is in the line of each, and leaves all of them when it is taken.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[str]] = {}
        self._served: dict[str, int] = {}
        self._arrival: dict[str, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len({key for line in self._lines.values() for key in line})

    def __contains__(self, key: object) -> bool:
        return any(key in line for line in self._lines.values())

    def push(self, client: str, key: str, *, first: bool = False) -> None:
        """Put a job in a client's line, at its end, or `first` if it was begun before."""
        line = self._lines.setdefault(client, deque())
        if key in line:
            return
        if not line:
            self._clock += 1
            self._arrival[client] = self._clock
        if first:
            line.appendleft(key)
        else:
            line.append(key)

    def pop(self) -> str | None:
        """Take the next job, or None if nobody waits."""
        if not self._lines:
            return None
        client = min(self._lines, key=self._rank)
        key = self._lines[client][0]
        self._clock += 1
        self._served[client] = self._clock
        self.remove(key)
        return key

    def remove(self, key: str) -> None:
        """Take a job out of every line."""
        for client in [client for client, line in self._lines.items() if key in line]:
            self.withdraw(client, key)

    def withdraw(self, client: str, key: str) -> None:
        """Take a job out of one client's line."""
        line = self._lines.get(client, deque())
        if key in line:
            line.remove(key)
        if not line:
            self._lines.pop(client, None)
            self._arrival.pop(client, None)

    def forget(self, client: str) -> None:
        """Drop what is remembered of a client that left for good."""
        for key in list(self._lines.get(client, ())):
            self.withdraw(client, key)
        self._served.pop(client, None)

    def order(self) -> list[str]:
        """Return the jobs in the order in which they would be taken."""
        lines = {client: list(line) for client, line in self._lines.items()}
        ranks = {client: self._rank(client) for client in lines}
        clock = self._clock
        order: list[str] = []
        while lines:
            client = min(lines, key=lambda name: ranks[name])
            key = lines[client][0]
            order.append(key)
            clock += 1
            ranks[client] = (clock, 0)
            lines = {
                name: rest
                for name, line in lines.items()
                if (rest := [other for other in line if other != key])
            }
        return order

    def _rank(self, client: str) -> tuple[int, int]:
        return self._served.get(client, 0), self._arrival[client]
