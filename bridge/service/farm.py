"""Workers on a Ray cluster, one per slot, behind the same service (extra ``farm``).

Ray places the actors, moves the audio and the stems, and tells when an actor died; the service
queues, retries and cancels as with processes of its own. A bundle must lie at the same path on
every machine of the cluster. Checkpoints and latents stay with workers on the server's machine.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bridge.errors import InputError, StembridgeError
from bridge.separation import Separation
from bridge.service.store import Store
from bridge.service.tasks import (
    Abort,
    Broken,
    Died,
    Event,
    Finished,
    Load,
    Order,
    Task,
    pack,
    unpack_event,
    unpack_order,
)
from bridge.service.workers import Post, Workers

_POLL_S: Final = 0.05
_NAMESPACE: Final = "stembridge"

Answer = tuple[Separation | None, bytes]


class Slot:
    """What runs on the cluster: one engine, one task at a time; an actor of Ray."""

    def __init__(self) -> None:
        from bridge.service.separating import Separator

        self._events: deque[bytes] = deque()
        # By job, since an abort may come before the task that it is about.
        self._cancels: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._separator = Separator(lambda event, *_: self._events.append(pack(event)))

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    def separate(self, order: bytes, mixture: npt.NDArray[np.float32]) -> Answer:
        """Compute a task; returns the result, or the event that says why there is none."""
        from bridge.service.separating import compute

        task = unpack_order(order)
        if not isinstance(task, Task):
            raise TypeError(f"expected a task, got {type(task).__name__}")
        try:
            engine = self._separator.load(Path(task.model_path), task.engine)
            return compute(engine, task, mixture, self._cancels[task.key], say=self._say), b""
        except StembridgeError as error:
            return None, pack(Broken(task.key, error.code, str(error)))
        finally:
            self._cancels.pop(task.key, None)

    def events(self) -> list[bytes]:
        """Return what happened since the last call."""
        taken = []
        while self._events:
            taken.append(self._events.popleft())
        return taken

    def abort(self, key: str) -> None:
        """Stop a task."""
        self._cancels[key].set()

    def _say(self, event: Event) -> None:
        self._events.append(pack(event))


class _Held:
    """A slot as the server holds it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.task: Task | None = None
        self.result: Any = None
        self.news: Any = None


class Farm(Workers):
    """Slots on a Ray cluster; called as processes here would be.

    Parameters
    ----------
    address : str
        Of the cluster; ``"local"`` starts one here.
    size : int
        Slots: GPUs where the cluster has any, else CPUs.
    post : callable
        See `Workers`.

    Raises
    ------
    InputError
        If Ray is not installed.
    """

    def __init__(self, address: str, size: int, post: Post) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "--ray needs Ray; install the extra: pip install stembridge[farm]"
            ) from error
        super().__init__(size, post)
        self._ray = ray
        on_term = signal.getsignal(signal.SIGTERM)
        paths = os.pathsep.join(filter(None, sys.path))
        ray.init(
            address=address,
            namespace=_NAMESPACE,
            log_to_driver=False,
            include_dashboard=False,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
        # Ray takes the signal for itself, and the server would not end in order.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        resources: dict[str, Any] = {"num_gpus": 1} if cluster.get("GPU") else {"num_cpus": 1}
        # Two calls at a time: one computes, the other hears of an abort.
        self._remote = ray.remote(Slot).options(max_restarts=0, max_concurrency=2, **resources)
        self._slots = [_Held(self._remote.remote()) for _ in range(size)]
        self._thread.start()

    def load(self, order: Load) -> None:
        """Do nothing: a slot loads a model with the first task that needs it."""

    def close(self) -> None:
        """End all slots and leave the cluster."""
        super().close()
        for slot in self._slots:
            self._ray.kill(slot.actor)
        self._ray.shutdown()

    def _run(self) -> None:
        while True:
            for order in self._orders.drain():
                if order is None:
                    return
                self._give(order)
            for slot in self._slots:
                if slot.task is not None:
                    self._look(slot, slot.task)
            time.sleep(_POLL_S)

    def _give(self, order: Order) -> None:
        if isinstance(order, Abort):
            for slot in self._slots:
                if slot.task is not None and slot.task.key == order.key:
                    slot.actor.abort.remote(order.key)
        elif isinstance(order, Task):
            slot = next(slot for slot in self._slots if slot.task is None)
            audio = order.record.audio
            mixture = np.memmap(
                Store(Path(order.store_path)).path(audio.sha256),
                "<f4",
                mode="r",
                shape=(audio.channels, audio.samples),
            )
            slot.task = order
            slot.result = slot.actor.separate.remote(
                pack(order), self._ray.put(np.asarray(mixture))
            )

    def _look(self, slot: _Held, task: Task) -> None:
        try:
            self._hear(slot)
            if not self._ray.wait([slot.result], timeout=0)[0]:
                return
            separation, refusal = self._ray.get(slot.result)
            event = self._kept(task, separation) if separation else unpack_event(refusal)
        except self._ray.exceptions.RayActorError as error:
            slot.actor = self._remote.remote()
            event = Died(task.key, 0, str(error).partition("\n")[0])
        except self._ray.exceptions.RayError as error:
            event = Broken(task.key, "internal", str(error).strip().rpartition("\n")[2])
        slot.task = slot.result = slot.news = None
        self._running.discard(task.key)
        self._post(event, None)

    def _hear(self, slot: _Held) -> None:
        """Pass on what a slot said, without waiting for one that is busy."""
        if slot.news is None:
            slot.news = slot.actor.events.remote()
        if self._ray.wait([slot.news], timeout=0)[0]:
            news, slot.news = slot.news, None
            for data in self._ray.get(news):
                self._post(unpack_event(data), None)

    def _kept(self, task: Task, separation: Separation) -> Finished | Broken:
        from bridge.service.separating import store_result

        try:
            return store_result(Store(Path(task.store_path)), task, separation)
        except StembridgeError as error:
            return Broken(task.key, error.code, str(error))
