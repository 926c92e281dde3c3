"""Computing a task with the engine: audio from the store, stems back into the store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict, replace

from bridge.engine import Engine
from bridge.errors import ProviderError
from bridge.inference.journal import Journal
from bridge.inference.providers import CPU
from bridge.protocol import CHUNK_BYTES
from bridge.request import RESIDUAL
from bridge.separation import Separation
from bridge.service.disk_journal import DiskJournal
from bridge.service.records import RESULTS, ResultRecord
from bridge.service.store import Store
from bridge.service.tasks import Advanced, EngineOptions, Event, Finished, Loaded, Preview, Task
from bridge.wire.descriptors import StemInfo

_WRITERS: Final = 4

Post = Callable[..., None]


class Separator:
    """The engines of a worker; the one used last stays loaded.

    Parameters
    ----------
    post : callable
        Takes an event, and for a preview its samples as bytes.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._loaded: tuple[Path, EngineOptions] | None = None
        self._engine: Engine | None = None

    def load(self, model_path: Path, options: EngineOptions) -> Engine:
        """Return the engine for a model, loading it if another one is loaded.

        Raises
        ------
        ProviderError
            If a provider asked for is not there, and nothing may stand in for it.
        """
        if self._engine is None or self._loaded != (model_path, options):
            self._engine = None  # frees the other model's memory before this one takes its own
            try:
                self._engine = _engine(model_path, options)
            except ProviderError:
                if not options.fallback:
                    raise
                self._engine = _engine(model_path, replace(options, providers=None))
            self._loaded = (model_path, options)
            self._say(Loaded(self._engine.manifest.name, self._engine.provider))
        return self._engine

    def separate(self, task: Task, cancel: threading.Event) -> None:
        """Compute a task and post what happens on the way.

        Raises
        ------
        StembridgeError
            If the engine refuses, the disk is full, or `cancel` was set.
        """
        engine = self.load(Path(task.model_path), task.engine)
        try:
            self._compute(engine, task, cancel)
        except ProviderError:
            # Only a graph that is opened shows whether a provider is really used.
            if not task.engine.fallback or engine.provider == CPU:
                raise
            self._engine = _engine(Path(task.model_path), replace(task.engine, providers=None))
            self._say(Loaded(engine.manifest.name, self._engine.provider))
            self._compute(self._engine, task, cancel)

    def _compute(self, engine: Engine, task: Task, cancel: threading.Event) -> None:
        store = Store(Path(task.store_path))
        audio = task.record.audio
        mixture = np.memmap(
            store.path(audio.sha256), "<f4", mode="r", shape=(audio.channels, audio.samples)
        )
        journal = DiskJournal(store, task.key, partial(self._show, task) if task.partial else None)
        result = compute(engine, task, mixture, cancel, say=self._say, journal=journal)
        finished = store_result(store, task, result)
        journal.forget()
        self._say(finished)

    def _show(self, task: Task, stem: str, start: int, audio: npt.NDArray[np.float32]) -> None:
        """Post a preview in pieces that fit into a message."""
        channels, samples = audio.shape
        step = max(1, CHUNK_BYTES // (4 * channels))
        for first in range(0, samples, step):
            piece = np.ascontiguousarray(audio[:, first : first + step], dtype="<f4")
            event = Preview(task.key, stem, start + first, channels, piece.shape[1])
            self._post(event, piece.tobytes())

    def _say(self, event: Event) -> None:
        self._post(event)


def compute(
    engine: Engine,
    task: Task,
    mixture: npt.NDArray[np.float32],
    cancel: threading.Event,
    *,
    say: Callable[[Event], None],
    journal: Journal | None = None,
) -> Separation:
    """Run a task's separation; `say` hears of its progress."""
    return engine.separate(
        mixture,
        task.record.audio.sample_rate,
        list(task.record.prompts),
        progress=lambda progress: say(Advanced(task.key, progress)),
        cancel=cancel,
        journal=journal,
        **asdict(task.record.settings),
    )


def store_result(store: Store, task: Task, result: Separation) -> Finished:
    """Write the stems of a task and its record into the store."""
    stems = {**result.stems, RESIDUAL: result.residual}
    # Waiting for the disk is most of it, and it can wait for several files at once.
    with ThreadPoolExecutor(_WRITERS) as pool:
        infos = tuple(pool.map(partial(_stored, store), stems, stems.values()))
    store.write_record(RESULTS, task.key, ResultRecord(task.record, result.report, infos))
    return Finished(task.key, result.report, infos)


def _engine(model_path: Path, options: EngineOptions) -> Engine:
    return Engine(model_path, providers=options.providers, memory_bytes=options.memory_bytes)


def _stored(store: Store, name: str, audio: npt.NDArray[np.float32]) -> StemInfo:
    data = np.ascontiguousarray(audio, dtype="<f4")
    channels, samples = data.shape
    return StemInfo(name, store.put(data.data.cast("B")), channels, samples)
