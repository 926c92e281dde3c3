"""The server's worker processes: started on demand, watched, given work, replaced when they die."""

from __future__ import annotations

import abc
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge.errors import Cancelled
from bridge.processes import child_environment, python_command
from bridge.store import ResultRecord
from bridge.wire.sockets import Inbox
from bridge.workers.messages import (
    Broken,
    Cancel,
    Died,
    EngineOptions,
    Event,
    Load,
    NotStarted,
    Order,
    Preview,
    Task,
    pack,
    unpack_event,
)

Post = Callable[[Event, bytes | None], None]


class Workers(abc.ABC):
    """A number of workers, and the thread that talks to them.

    Parameters
    ----------
    size : int
        How many tasks run at a time.
    post : callable
        Called in that thread with every event and, for a preview, its samples.
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
        """Compute a task; ends in one `ResultRecord`, `Broken` or `Died` with its key."""
        self._running.add(task.key)
        self._orders.put(task)

    def load(self, order: Load) -> None:
        """Load a model now; ends in `Loaded`, or in `Broken` or `Died` with an empty key."""
        self._orders.put(order)

    def cancel(self, key: str) -> None:
        """Stop a task."""
        self._orders.put(Cancel(key))

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


# A call into the model that cannot be interrupted may take seconds.
_CANCEL_S: Final = 10.0
# How long a process may take to be gone once it has closed its pipe.
_EXIT_S: Final = 1.0
# Before trying again to start a worker; doubled each time up to the longest.
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0


class _Process:
    """One worker process and the jobs it has; its pipe ends when it does."""

    def __init__(self, directory: Path, options: EngineOptions) -> None:
        self.tasks: dict[str, Task] = {}
        self.cancelled_s: dict[str, float] = {}
        self.killed = False
        self.pipe, theirs = Pipe()
        handle = theirs.fileno()
        words = (str(handle), str(directory), msgspec.json.encode(options).decode())
        try:
            self._popen = subprocess.Popen(
                python_command("bridge.workers.process", *words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=child_environment(),
                **_inheriting(handle),
            )
        except BaseException:
            self.pipe.close()
            raise
        finally:
            # The child holds the only copy now, so the pipe ends when the child does.
            theirs.close()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def send(self, order: Order) -> None:
        # That a worker died is noticed when its pipe is read.
        with contextlib.suppress(OSError):
            self.pipe.send_bytes(pack(order))

    def kill(self) -> None:
        self.killed = True
        self._popen.kill()

    def end(self) -> int:
        """Return its exit status; kill it if it does not exit by itself."""
        try:
            status = self._popen.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._popen.wait()
        self.pipe.close()
        return status


class Pool(Workers):
    """Worker processes on this machine, and the thread that talks to them.

    Parameters
    ----------
    directory : Path
        The server's; it is on the workers' command lines, to tell whose they are.
    size : int
        How many jobs are computed at a time; a worker that ignores a cancellation is killed, and
        other jobs that it has go on in another.
    engine : EngineOptions
        How their engines run.
    post : callable
        See `Workers`.
    """

    def __init__(self, directory: Path, size: int, engine: EngineOptions, post: Post) -> None:
        super().__init__(size, post)
        self._directory = directory
        self._engine = engine
        self._workers: dict[Connection, _Process] = {}
        self._delayed: list[Task | Load] = []
        self._pause_s = _FIRST_PAUSE_S
        self._try_again_s = 0.0
        self._thread.start()

    def pids(self) -> list[int]:
        """Return the workers' process ids."""
        return [worker.pid for worker in list(self._workers.values())]

    def _run(self) -> None:
        try:
            while True:
                for ready in wait([self._orders.reader, *self._workers], self._pause()):
                    if isinstance(ready, Connection):
                        self._receive(self._workers[ready])
                for order in self._orders.drain():
                    if order is None:
                        return
                    self._send(order)
                self._watch()
        finally:
            for worker in self._workers.values():
                worker.kill()
                worker.end()

    def _pause(self) -> float | None:
        """Return how long to wait for orders and events before something else is due."""
        workers = [worker for worker in self._workers.values() if not worker.killed]
        due_s = [since_s + _CANCEL_S for one in workers for since_s in one.cancelled_s.values()]
        if self._delayed:
            due_s.append(self._try_again_s)
        return max(0.0, min(due_s) - time.monotonic()) if due_s else None

    def _receive(self, worker: _Process) -> None:
        try:
            event = unpack_event(worker.pipe.recv_bytes())
            samples = worker.pipe.recv_bytes() if isinstance(event, Preview) else None
        except (EOFError, OSError):
            self._remove(worker)
            return
        if isinstance(event, ResultRecord | Broken) and event.key in worker.tasks:
            self._running.discard(event.key)
            del worker.tasks[event.key]
            worker.cancelled_s.pop(event.key, None)
        self._post(event, samples)

    def _remove(self, worker: _Process) -> None:
        """Report a worker that died; all that it sent before has been received."""
        del self._workers[worker.pipe]
        status = worker.end()
        died = set(worker.tasks)
        if worker.killed and worker.cancelled_s:
            died = set(worker.cancelled_s)
        for key in died or {""}:
            self._running.discard(key)
            self._post(Died(key, worker.pid, _reason(status)), None)
        for key, task in worker.tasks.items():
            if key not in died:
                self._send(task)

    def _send(self, order: Order) -> None:
        if isinstance(order, Cancel):
            self._cancel(order)
            return
        if self._delayed and time.monotonic() <= self._try_again_s:
            self._delayed.append(order)
            return
        most = self._engine.together
        free = (worker for worker in self._workers.values() if len(worker.tasks) < most)
        chosen = next(free, None) or self._start_worker()
        if chosen is None:
            self._delayed.append(order)
            return
        if isinstance(order, Task):
            chosen.tasks[order.key] = order
        chosen.send(order)

    def _cancel(self, order: Cancel) -> None:
        for worker in self._workers.values():
            if order.key in worker.tasks:
                worker.cancelled_s[order.key] = time.monotonic()
                worker.send(order)
        for one in self._delayed:
            if isinstance(one, Task) and one.key == order.key:
                self._delayed.remove(one)
                self._running.discard(one.key)
                self._post(Broken(one.key, Cancelled.code, "the job was cancelled"), None)
                break

    def _start_worker(self) -> _Process | None:
        """Start a worker; None if that cannot be done now, and is to be tried again."""
        try:
            worker = _Process(self._directory, self._engine)
        except OSError as error:
            self._post(NotStarted(str(error)), None)
            self._try_again_s = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            return None
        if self._pause_s > _FIRST_PAUSE_S:
            self._pause_s = _FIRST_PAUSE_S
            self._post(NotStarted(""), None)
        self._workers[worker.pipe] = worker
        return worker

    def _watch(self) -> None:
        """Kill workers that ignore a cancellation, and retry workers that could not be started."""
        now_s = time.monotonic()
        for worker in self._workers.values():
            since_s = min(worker.cancelled_s.values(), default=now_s)
            if now_s - since_s > _CANCEL_S and not worker.killed:
                worker.kill()
        if self._delayed and now_s > self._try_again_s:
            delayed, self._delayed = self._delayed, []
            for one in delayed:
                self._send(one)


def _inheriting(handle: int) -> dict[str, Any]:
    """Return the options of a child process that inherits one handle and no other."""
    if sys.platform == "win32":
        os.set_handle_inheritable(handle, True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        return {"startupinfo": startup}
    return {"pass_fds": (handle,)}


def _reason(status: int) -> str:
    if status < 0:
        return f"signal {-status}" + (" (out of memory?)" if status == -9 else "")
    return f"exit status {status}"
