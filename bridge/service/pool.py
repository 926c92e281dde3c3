"""The server's workers: started on demand, watched, told what to compute, replaced when dead."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from typing import Final

import zmq

from bridge.service.tasks import (
    Abort,
    Broken,
    Died,
    Finished,
    Order,
    Ready,
    Task,
    pack,
    unpack_event,
)
from bridge.service.workers import Post, Workers

_WATCH_MS: Final = 50
_ABORT_S: Final = 10.0


class _Process:
    """One worker process, the job that it has, and the orders it cannot take yet."""

    def __init__(self, endpoint: str) -> None:
        self.identity = secrets.token_hex(16).encode()
        self.task: Task | None = None
        self.abort_at: float | None = None
        self.connected = False
        self.waiting: list[Order] = []
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "bridge.service.worker", endpoint, self.identity.decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def status(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._popen.poll()

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait()
        if self._popen.stdin is not None:
            self._popen.stdin.close()


class Pool(Workers):
    """Worker processes on this machine, and the thread that speaks with them.

    Parameters
    ----------
    endpoint : str
        Where they connect: an ipc path in a private directory, or a loopback address.
    size : int
        How many jobs are computed at a time; a worker that does not obey an abort is killed.
    post : callable
        See `Workers`.
    """

    def __init__(self, endpoint: str, size: int, post: Post) -> None:
        super().__init__(size, post)
        self._workers: dict[bytes, _Process] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(endpoint)
        self._endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread.start()

    def pids(self) -> list[int]:
        """Return the workers' process ids."""
        return [worker.pid for worker in list(self._workers.values())]

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._orders.fileno(), zmq.POLLIN)
        try:
            while True:
                poller.poll(_WATCH_MS if self._workers else None)
                while self._receive():
                    pass
                for order in self._orders.drain():
                    if order is None:
                        return
                    self._give(order)
                self._watch()
        finally:
            for worker in self._workers.values():
                worker.end()
            self._socket.close()
            self._context.term()

    def _receive(self) -> bool:
        try:
            identity, header, *rest = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        worker = self._workers.get(identity)
        if worker is None:
            return True  # the last words of a worker given up, or a stranger
        event = unpack_event(header)
        if isinstance(event, Ready):
            worker.connected = True
            self._flush(worker)
        elif isinstance(event, Finished | Broken) and worker.task is not None:
            self._running.discard(worker.task.key)
            worker.task, worker.abort_at = None, None
        self._post(event, rest[0] if rest else None)
        return True

    def _give(self, order: Order) -> None:
        if isinstance(order, Abort):
            for worker in self._workers.values():
                if worker.task is not None and worker.task.key == order.key:
                    worker.abort_at = time.monotonic()
                    worker.waiting.append(order)
                    self._flush(worker)
            return
        free = (worker for worker in self._workers.values() if worker.task is None)
        chosen = next(free, None) or self._new_worker()
        if isinstance(order, Task):
            chosen.task = order
        chosen.waiting.append(order)
        self._flush(chosen)

    def _new_worker(self) -> _Process:
        worker = _Process(self._endpoint)
        self._workers[worker.identity] = worker
        return worker

    def _flush(self, worker: _Process) -> None:
        if worker.connected:
            for order in worker.waiting:
                self._socket.send_multipart([worker.identity, pack(order)])
            worker.waiting.clear()

    def _watch(self) -> None:
        for identity, worker in list(self._workers.items()):
            if worker.abort_at is not None and time.monotonic() - worker.abort_at > _ABORT_S:
                worker.end()
            status = worker.status()
            if status is None:
                continue
            # Whatever it managed to say before it died has been received above, or never will.
            worker.end()
            del self._workers[identity]
            key = "" if worker.task is None else worker.task.key
            self._running.discard(key)
            self._post(Died(key, worker.pid, _reason(status)), None)


def _reason(status: int) -> str:
    if status < 0:
        return f"signal {-status}" + (" (out of memory?)" if status == -9 else "")
    return f"exit status {status}"
