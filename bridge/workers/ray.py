"""Workers on a Ray cluster, each an actor of Ray, behind the same service (extra ``ray``).

Ray places the actors, moves the audio and the stems, and reports when an actor dies; the service
queues, retries and cancels as with processes of its own. A bundle must lie at the same path on
every machine of the cluster. Checkpoints and latents stay with workers on the server's machine.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict, deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bridge.errors import InputError, StembridgeError
from bridge.processes import import_folders
from bridge.separation import Separation
from bridge.store import ResultRecord, Store
from bridge.video import Video
from bridge.workers.local import Post, Workers
from bridge.workers.messages import (
    Broken,
    Cancel,
    Died,
    EngineOptions,
    Event,
    Load,
    Order,
    Task,
    pack,
    unpack_event,
    unpack_order,
)

# How often workers are asked for events: each time is a call across the cluster.
_POLL_S: Final = 0.05
_NAMESPACE: Final = "stembridge"

Answer = tuple[Separation | None, bytes]


class RayWorker:
    """A worker on the cluster: one engine, one task at a time; an actor of Ray."""

    def __init__(self, options: EngineOptions) -> None:
        from bridge.workers.compute import Engines

        self._events: deque[bytes] = deque()
        # By job, since a cancellation may arrive before its task.
        self._cancels: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._engines = Engines(options, lambda event, *_: self._events.append(pack(event)))

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    def separate(
        self, order: bytes, mixture: npt.NDArray[np.float32], videos: dict[str, Video]
    ) -> Answer:
        """Compute a task; return the result, or the event that says why it failed."""
        from bridge.workers.compute import compute

        task = unpack_order(order)
        if not isinstance(task, Task):
            raise TypeError(f"expected a task, got {type(task).__name__}")
        try:
            engine = self._engines.load(task.model_path)
            cancel = self._cancels[task.key]
            notify = self._notify
            return compute(engine, task, mixture, cancel, notify=notify, videos=videos), b""
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

    def cancel(self, key: str) -> None:
        """Stop a task."""
        self._cancels[key].set()

    def _notify(self, event: Event) -> None:
        self._events.append(pack(event))


class _Worker:
    """A worker as the server sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.task: Task | None = None
        self.result: Any = None
        self.news: Any = None


class RayWorkers(Workers):
    """Workers on a Ray cluster, with the interface of local ones.

    Parameters
    ----------
    address : str
        Of the cluster; ``"local"`` starts one here.
    size : int
        Number of workers, each with a GPU where the cluster has any, else with a CPU.
    engine : EngineOptions
        How their engines run.
    post : callable
        See `Workers`.

    Raises
    ------
    InputError
        If Ray is not installed.
    """

    def __init__(self, address: str, size: int, engine: EngineOptions, post: Post) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "--ray needs Ray; install the extra: pip install stembridge[ray]"
            ) from error
        super().__init__(size, post)
        self._ray = ray
        self._engine = engine
        on_term = signal.getsignal(signal.SIGTERM)
        paths = os.pathsep.join(import_folders())
        ray.init(
            address=address,
            namespace=_NAMESPACE,
            log_to_driver=False,
            include_dashboard=False,
            runtime_env={"env_vars": {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}},
        )
        # Ray replaces the handler, and the server would not shut down cleanly.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        resources: dict[str, Any] = {"num_gpus": 1} if cluster.get("GPU") else {"num_cpus": 1}
        # Two calls at a time: one computes while the other takes a cancellation.
        self._remote = ray.remote(RayWorker).options(max_restarts=0, max_concurrency=2, **resources)
        self._workers = [_Worker(self._remote.remote(engine)) for _ in range(size)]
        self._thread.start()

    def load(self, order: Load) -> None:
        """Do nothing: a worker loads a model with the first task that needs it."""

    def close(self) -> None:
        """End all workers and leave the cluster."""
        super().close()
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._ray.shutdown()

    def _run(self) -> None:
        while True:
            for order in self._orders.drain():
                if order is None:
                    return
                self._send(order)
            for worker in self._workers:
                if worker.task is not None:
                    self._check(worker, worker.task)
            time.sleep(_POLL_S)

    def _send(self, order: Order) -> None:
        if isinstance(order, Cancel):
            for worker in self._workers:
                if worker.task is not None and worker.task.key == order.key:
                    worker.actor.cancel.remote(order.key)
        elif isinstance(order, Task):
            worker = next(worker for worker in self._workers if worker.task is None)
            from bridge.workers.compute import open_videos

            audio = order.job.audio
            place = Store(order.store_path).path(audio.sha256)
            videos = {
                stem: Video(np.asarray(video.frames), video.times_s)
                for stem, video in open_videos(place, audio).items()
            }
            mixture = np.memmap(
                place,
                "<f4",
                mode="r",
                shape=(audio.channels, audio.samples),
            )
            worker.task = order
            worker.result = worker.actor.separate.remote(
                pack(order), self._ray.put(np.asarray(mixture)), self._ray.put(videos)
            )

    def _check(self, worker: _Worker, task: Task) -> None:
        try:
            self._post_events(worker)
            if not self._ray.wait([worker.result], timeout=0)[0]:
                return
            separation, refusal = self._ray.get(worker.result)
            event = self._store(task, separation) if separation else unpack_event(refusal)
        except self._ray.exceptions.RayActorError as error:
            worker.actor = self._remote.remote(self._engine)
            event = Died(task.key, 0, str(error).partition("\n")[0])
        except self._ray.exceptions.RayError as error:
            event = Broken(task.key, "internal", str(error).strip().rpartition("\n")[2])
        worker.task = worker.result = worker.news = None
        self._running.discard(task.key)
        self._post(event, None)

    def _post_events(self, worker: _Worker) -> None:
        """Pass on the events of a worker, without waiting for one that is busy."""
        if worker.news is None:
            worker.news = worker.actor.events.remote()
        if self._ray.wait([worker.news], timeout=0)[0]:
            news, worker.news = worker.news, None
            for data in self._ray.get(news):
                self._post(unpack_event(data), None)

    def _store(self, task: Task, separation: Separation) -> ResultRecord | Broken:
        from bridge.workers.compute import store_result

        try:
            return store_result(Store(task.store_path), task, separation)
        except StembridgeError as error:
            return Broken(task.key, error.code, str(error))
