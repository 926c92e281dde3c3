"""What computes for the service, be it processes here or actors elsewhere."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable

from bridge.service.tasks import Abort, Event, Load, Order, Task
from bridge.wire.inbox import Inbox

Post = Callable[[Event, bytes | None], None]


class Workers(abc.ABC):
    """A number of workers, and the thread that speaks with them.

    Parameters
    ----------
    size : int
        How many tasks run at a time.
    post : callable
        Called in the thread with every event and, for a preview, its samples.
    """

    def __init__(self, size: int, post: Post) -> None:
        self.size = size
        self._post = post
        self._orders: Inbox[Order | None] = Inbox()
        self._running: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="workers")

    @property
    def free(self) -> int:
        """How many more tasks may be started now."""
        return self.size - len(self._running)

    def start(self, task: Task) -> None:
        """Compute a task; ends in one `Finished`, `Broken` or `Died` with its key."""
        self._running.add(task.key)
        self._orders.put(task)

    def load(self, order: Load) -> None:
        """Load a model now; ends in `Loaded`, or in `Broken` or `Died` with an empty key."""
        self._orders.put(order)

    def abort(self, key: str) -> None:
        """Stop a task."""
        self._orders.put(Abort(key))

    def pids(self) -> list[int]:
        """Return the process ids of workers on this machine."""
        return []

    def close(self) -> None:
        """End all workers and the thread."""
        self._orders.put(None)
        self._thread.join()
        self._orders.close()

    @abc.abstractmethod
    def _run(self) -> None:
        """Pass orders and events on until an order is None."""
