"""The process that computes: one engine, one job at a time, started by the server.

It is a process of its own, so that a crash in a native library or a kill for memory costs one
attempt at one job and not the service, and so that heartbeats share neither the interpreter nor
the memory with the solver. Its main thread only moves messages, so an abort is heard while the
other thread computes. It ends when its standard input does, that is, with the server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import zmq

from bridge.errors import StembridgeError
from bridge.service.tasks import Abort, Broken, Event, Load, Order, Ready, Task, pack, unpack_order
from bridge.wire.inbox import Inbox

if TYPE_CHECKING:
    from bridge.service.separating import Separator

Posted = tuple[Event, bytes | None]


class Worker:
    """The two threads of a worker and what passes between them."""

    def __init__(self) -> None:
        self._outgoing: Inbox[Posted] = Inbox()
        self._orders: SimpleQueue[Task | Load | None] = SimpleQueue()
        self._cancel = threading.Event()
        self._current = ""
        self._lock = threading.Lock()

    def run(self, endpoint: str, identity: str) -> None:
        """Serve the server at `endpoint` until its standard input ends or it says so."""
        threading.Thread(target=_die_with_parent, daemon=True).start()
        computing = threading.Thread(target=self._compute, daemon=True)
        computing.start()
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.setsockopt(zmq.IDENTITY, identity.encode())
            socket.connect(endpoint)
            self._outgoing.put((Ready(os.getpid()), None))
            poller = zmq.Poller()
            poller.register(socket, zmq.POLLIN)
            poller.register(self._outgoing.fileno(), zmq.POLLIN)
            while True:
                ready = dict(poller.poll())
                if self._outgoing.fileno() in ready:
                    for event, payload in self._outgoing.drain():
                        frames = [pack(event)] if payload is None else [pack(event), payload]
                        socket.send_multipart(frames, copy=False)
                if socket in ready:
                    self._obey(unpack_order(socket.recv()))

    def _obey(self, order: Order) -> None:
        if isinstance(order, Abort):
            with self._lock:
                if order.key == self._current:
                    self._cancel.set()
        else:
            with self._lock:
                self._current = order.key if isinstance(order, Task) else ""
                self._cancel.clear()
            self._orders.put(order)

    def _compute(self) -> None:
        try:
            from bridge.service.separating import Separator
        except BaseException:  # a broken installation; the server tells whoever waits
            traceback.print_exc()
            os._exit(1)
        separator: Separator = Separator(lambda event, data=None: self._outgoing.put((event, data)))
        while (order := self._orders.get()) is not None:
            key = order.key if isinstance(order, Task) else ""
            try:
                if isinstance(order, Load):
                    separator.load(Path(order.model_path), order.engine)
                else:
                    separator.separate(order, self._cancel)
            except StembridgeError as error:
                self._outgoing.put((Broken(key, error.code, str(error)), None))
            except MemoryError as error:
                self._outgoing.put((Broken(key, "memory", f"out of memory: {error}"), None))
            except Exception as error:  # a defect of ours must not leave the job hanging
                text = f"{type(error).__name__}: {error}"
                self._outgoing.put((Broken(key, "internal", text), None))


def _die_with_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(0)


def main() -> None:
    """Run as ``python -m bridge.service.worker ENDPOINT ID``, with the server's pipe as stdin."""
    # Ctrl-C in the terminal goes to the whole group; the server decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Worker().run(sys.argv[1], sys.argv[2])


if __name__ == "__main__":
    main()
