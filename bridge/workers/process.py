"""The process that computes: one engine, one job at a time or several, started by the server.

It is a process of its own, so that a crash in a native library or a kill for lack of memory costs
one attempt at one job rather than the service, and so that heartbeats share neither the interpreter
nor the memory with the solver. Its main thread only receives, so that a cancellation arrives
while others compute. When the server is gone, the pipe ends and so does the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from bridge.errors import StembridgeError
from bridge.processes import give_back_large_arrays
from bridge.workers.messages import (
    Broken,
    Cancel,
    EngineOptions,
    Event,
    Load,
    Order,
    Task,
    pack,
    unpack_order,
)

if TYPE_CHECKING:
    from bridge.workers.compute import Engines


class Worker:
    """The threads of a worker, one that receives and one for each job at a time.

    Parameters
    ----------
    pipe : Connection
        To the server.
    options : EngineOptions
    """

    def __init__(self, pipe: Connection, options: EngineOptions) -> None:
        self._pipe = pipe
        self._options = options
        self._sending = threading.Lock()
        self._orders: SimpleQueue[tuple[Task | Load, threading.Event]] = SimpleQueue()
        self._cancels: dict[str, threading.Event] = {}  # by job
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until the server ends."""
        threading.Thread(target=self._compute, daemon=True).start()
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._take(unpack_order(self._pipe.recv_bytes()))
        # The interpreter's own exit would wait for the model.
        os._exit(0)

    def _take(self, order: Order) -> None:
        cancel = threading.Event()
        with self._lock:
            if isinstance(order, Cancel):
                if order.key in self._cancels:
                    self._cancels[order.key].set()
                return
            if isinstance(order, Task):
                self._cancels[order.key] = cancel
        self._orders.put((order, cancel))

    def _post(self, event: Event, samples: bytes | None = None) -> None:
        # If the server is gone, the main thread ends this process.
        with self._sending, contextlib.suppress(OSError):
            self._pipe.send_bytes(pack(event))
            if samples is not None:
                self._pipe.send_bytes(samples)

    def _compute(self) -> None:
        try:
            from bridge.workers.compute import Engines

            engines = Engines(self._options, self._post)
        except BaseException:  # a broken installation; the server reports that the worker died
            traceback.print_exc()
            os._exit(1)
        for _ in range(self._options.together - 1):
            threading.Thread(target=self._serve, args=[engines], daemon=True).start()
        self._serve(engines)

    def _serve(self, engines: Engines) -> None:
        while True:
            order, cancel = self._orders.get()
            key = order.key if isinstance(order, Task) else ""
            event: Broken | None = None
            try:
                if isinstance(order, Load):
                    engines.load(order.model_path)
                else:
                    engines.separate(order, cancel)
            except StembridgeError as error:
                event = Broken(key, error.code, str(error))
            except MemoryError as error:
                event = Broken(key, "memory", f"out of memory: {error}")
            except Exception as error:  # a bug of ours must not leave the job hanging
                event = Broken(key, "internal", f"{type(error).__name__}: {error}")
            with self._lock:  # it may have come again already
                if self._cancels.get(key) is cancel:
                    del self._cancels[key]
            if event is not None:
                self._post(event)


def open_pipe(handle: int) -> Connection:
    """Return the inherited connection to the server."""
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        return PipeConnection(handle)
    return Connection(handle)


def main() -> None:
    """Run as ``python -m bridge.workers.process HANDLE DIRECTORY OPTIONS``, as `Pool` does."""
    # Ctrl-C reaches the whole process group; the server decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    give_back_large_arrays()
    options = msgspec.json.decode(sys.argv[3], type=EngineOptions)
    Worker(open_pipe(int(sys.argv[1])), options).run()


if __name__ == "__main__":
    main()
