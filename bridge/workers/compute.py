"""Computing a task with the engine: audio from the store, stems back into the store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from bridge.engine import Engine
from bridge.errors import ProviderError, ServerError
from bridge.inference.context import Array, Cancellation, Checkpoints, Turns
from bridge.inference.graphs import CPU
from bridge.request import RESIDUAL, Prompt
from bridge.scratch import DEFAULT, FileArray, LongArray
from bridge.separation import Progress, Separation
from bridge.store import (
    CHECKPOINTS,
    LATEST,
    RESULTS,
    ArrayRecord,
    Checkpoint,
    ResultRecord,
    Store,
)
from bridge.video import Video
from bridge.wire.codec import CHUNK_BYTES
from bridge.wire.messages import AudioInfo, StemInfo
from bridge.workers.messages import (
    Advanced,
    EngineOptions,
    Event,
    Loaded,
    Preview,
    Task,
)

# Stems written at a time; more gain nothing where the disk is the limit.
_WRITERS: Final = 4
_POLL_S: Final = 0.05

Post = Callable[..., None]
# Writing checkpoints may take this fraction of the time that solving takes.
_SHARE: Final = 0.05


class Engines:
    """The engines of a worker; only the last one used stays loaded.

    Threads may share one: those that need another model wait until nobody uses the one before, and
    whoever asks after them waits behind them.

    Parameters
    ----------
    options : EngineOptions
    post : callable
        Takes an event, and for a preview its samples as bytes.
    """

    def __init__(self, options: EngineOptions, post: Post) -> None:
        self._options = options
        self._post = post
        self._loaded: Path | None = None
        self._engine: Engine | None = None
        self._users = 0
        self._free = threading.Condition()
        self._turns = Turns()

    def load(self, model_path: Path) -> Engine:
        """Return the engine for a model, loading it if another one is loaded.

        Raises
        ------
        ProviderError
            If a requested provider is missing, and there is no fallback.
        """
        with self._using(model_path) as engine:
            return engine

    @contextlib.contextmanager
    def _using(
        self, model_path: Path, check: Callable[[], None] = lambda: None
    ) -> Iterator[Engine]:
        """Keep the engine for a model loaded while the block runs; `check` may end the waiting."""
        with self._turns.turn(check):
            with self._free:
                while self._users and self._loaded != model_path:
                    self._free.wait(_POLL_S)
                    check()
                self._users += 1
            try:
                engine = self._load(model_path)
            except BaseException:
                self._leave()
                raise
        try:
            yield engine
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._free:
            self._users -= 1
            self._free.notify_all()

    def _load(self, model_path: Path) -> Engine:
        if self._engine is None or self._loaded != model_path:
            self._engine = None  # free the memory of the other model first
            try:
                self._engine = self._open(model_path, self._options.providers)
            except ProviderError as error:
                if not self._options.fallback:
                    raise
                self._engine = self._open(model_path, None)
                self._engine.fallback = str(error)
            self._loaded = model_path
            self._notify(Loaded(self._engine.manifest.name, self._engine.provider))
        return self._engine

    def separate(self, task: Task, cancel: threading.Event) -> None:
        """Compute a task, and post its events.

        Raises
        ------
        StembridgeError
            If the engine refuses, the disk is full, or `cancel` was set.
        """
        with self._using(task.model_path, Cancellation(cancel).check) as engine:
            try:
                self._compute(engine, task, cancel)
            except ProviderError as error:
                # Whether a provider is really used shows only once a graph is opened.
                if not self._options.fallback or engine.provider == CPU:
                    raise
                other = self._engine = self._open(task.model_path, None)
                other.fallback = str(error)
                self._notify(Loaded(other.manifest.name, other.provider))
                self._compute(other, task, cancel)

    def _open(self, model_path: Path, providers: Sequence[str] | None) -> Engine:
        return Engine(
            model_path,
            providers=providers,
            memory_bytes=self._options.memory_bytes,
            together=self._options.together > 1,
        )

    def _compute(self, engine: Engine, task: Task, cancel: threading.Event) -> None:
        written: set[str] = set()
        store = Store(task.store_path, pinned=lambda: {*task.pinned, *written})
        audio = task.job.audio
        try:
            place = store.path(audio.sha256)
            more_bytes = audio.size_bytes - audio.mixture_bytes
            shape = (audio.channels, audio.samples)
            mixture = FileArray.open(place, shape, more_bytes=more_bytes)
            videos = open_videos(place, audio)
        except (OSError, ValueError) as error:
            raise ServerError(
                f"the audio is no longer in the server's cache ({error}); submit the job again"
            ) from error
        show = partial(self._show, task) if task.partial else None
        kept = DiskCheckpoints(store, task.key, show)
        result = compute(
            engine,
            task,
            mixture,
            cancel,
            notify=self._notify,
            checkpoints=kept,
            videos=videos,
            revised=open_earlier(store, task.job.revises),
        )
        finished = store_result(store, task, result, written)
        kept.forget()
        self._notify(finished)

    def _show(self, task: Task, stem: str, start: int, audio: npt.NDArray[np.float32]) -> None:
        """Post a preview in pieces small enough for a message."""
        channels, samples = audio.shape
        step = max(1, CHUNK_BYTES // (4 * channels))
        for first in range(0, samples, step):
            piece = np.ascontiguousarray(audio[:, first : first + step], dtype="<f4")
            event = Preview(task.key, stem, start + first, channels, piece.shape[1])
            self._post(event, piece.tobytes())

    def _notify(self, event: Event) -> None:
        self._post(event)


@dataclass(frozen=True)
class Earlier:
    """A job that is in the store with all that it takes to revise it."""

    separation: Separation
    mixture: FileArray
    prompts: tuple[Prompt, ...]


def open_earlier(store: Store, key: str) -> Earlier | None:
    """Open a finished job of the store, or None where something of it is missing or damaged."""
    record = store.read_record(RESULTS, key, ResultRecord) if key else None
    if record is None or record.levels is None:
        return None
    audio = record.job.audio
    shape = (audio.channels, audio.samples)
    needed = [(audio.sha256, audio.size_bytes), *((s.sha256, s.size_bytes) for s in record.stems)]
    if not all(store.verify(*one) for one in needed):
        return None
    try:
        mixture, *sounds = [FileArray.open(store.path(sha256), shape) for sha256, _ in needed]
    except (OSError, ValueError):
        return None
    stems = dict(zip([stem.name for stem in record.stems], sounds, strict=True))
    residual = stems.pop(RESIDUAL)
    separation = Separation(
        cast(dict[str, Array], stems), cast(Array, residual), record.report, record.levels
    )
    return Earlier(separation, mixture, record.job.prompts)


def compute(
    engine: Engine,
    task: Task,
    mixture: npt.NDArray[np.float32] | FileArray,
    cancel: threading.Event,
    *,
    notify: Callable[[Event], None],
    checkpoints: Checkpoints | None = None,
    videos: Mapping[str, Video] | None = None,
    revised: Earlier | None = None,
) -> Separation:
    """Run a task's separation, or revise an earlier one; `notify` receives its progress."""

    def tell(progress: Progress) -> None:
        notify(Advanced(task.key, progress))

    if revised is not None:
        return engine.update(
            revised.separation,
            revised.mixture,
            mixture,
            list(task.job.prompts),
            list(revised.prompts),
            progress=tell,
            cancel=cancel,
            checkpoints=checkpoints,
        )
    return engine.separate(
        mixture,
        task.job.audio.sample_rate,
        list(task.job.prompts),
        task.job.settings,
        progress=tell,
        cancel=cancel,
        checkpoints=checkpoints,
        video=videos or None,
    )


def open_videos(path: Path, audio: AudioInfo) -> dict[str, Video]:
    """Map the videos that lie behind a mixture in a file.

    Raises
    ------
    InputError
        If the times of their frames are not finite and in order.
    OSError, ValueError
        If the file cannot be mapped, or is too short.
    """
    found = {}
    offset = audio.mixture_bytes
    for info in audio.videos:
        times = np.fromfile(path, "<f8", info.frames, offset=offset)
        offset += times.nbytes
        shape = (info.frames, info.height, info.width, 3)
        frames = np.memmap(path, np.uint8, "r", offset=offset, shape=shape)
        offset += frames.nbytes
        found[info.stem] = Video(frames, times)
    return found


def store_result(
    store: Store, task: Task, result: Separation, written: set[str] | None = None
) -> ResultRecord:
    """Write the stems of a task and its record into the store; notes the blobs in `written`."""
    noted = set() if written is None else written
    stems = {**result.stems, RESIDUAL: result.residual}
    # Most of the time goes to waiting for the disk, which can be done for several files at once.
    with ThreadPoolExecutor(_WRITERS) as pool:
        infos = tuple(pool.map(partial(_stored, store, noted), stems, stems.values()))
    record = ResultRecord(task.key, task.job, result.report, infos, task.kin, result.levels)
    store.write_record(RESULTS, task.key, record)
    if task.kin and result.levels is not None:
        store.write_record(LATEST, task.kin, task.key)
    return record


def _stored(store: Store, written: set[str], name: str, audio: LongArray) -> StemInfo:
    channels, samples = audio.shape
    sha256 = store.put(audio)
    written.add(sha256)
    return StemInfo(name, sha256, channels, samples)


class DiskCheckpoints(Checkpoints):
    """The checkpoints of one job, in the disk store.

    With a full disk nothing is remembered, and the job goes on.

    Parameters
    ----------
    store : Store
    key : str
        Of the job.
    show : callable or None
        Takes previews; None for no previews.
    """

    def __init__(
        self, store: Store, key: str, show: Callable[[str, int, Array], None] | None
    ) -> None:
        self._store = store
        self._key = key
        self._show = show
        self.previews = show is not None
        self._due_s = 0.0
        self._last: ArrayRecord | None = None

    def recall(self, kind: str, key: str) -> LongArray | None:
        """Return an array kept by any job, if it is there and undamaged."""
        record = self._store.read_record(kind, key, ArrayRecord)
        return None if record is None else self._read(record)

    def keep(self, kind: str, key: str, value: LongArray) -> None:
        """Keep an array for other jobs."""
        with contextlib.suppress(ServerError):
            record = ArrayRecord(self._store.put(value), value.shape)
            self._store.write_record(kind, key, record)

    def resume(self) -> tuple[int, LongArray] | None:
        """Return the last checkpoint of this job, if it is there and undamaged."""
        found = self._store.read_record(CHECKPOINTS, self._key, Checkpoint)
        if found is None:
            return None
        self._last = found.state
        state = self._read(found.state)
        return None if state is None else (found.step, state)

    def checkpoint(self, done: int, state: Sequence[LongArray]) -> None:
        """Write a checkpoint, unless the last one is too recent."""
        began_s = time.monotonic()
        if began_s < self._due_s:
            return
        with contextlib.suppress(ServerError):
            shape = (len(state), *state[0].shape)
            last, self._last = self._last, ArrayRecord(self._store.put(*state), shape)
            self._store.write_record(CHECKPOINTS, self._key, Checkpoint(done, self._last))
            if last is not None and last.sha256 != self._last.sha256:
                self._store.discard(last.sha256)
        now_s = time.monotonic()
        self._due_s = now_s + (now_s - began_s) / _SHARE

    def preview(self, stem: str, start: int, audio: Array) -> None:
        """Pass a preview on."""
        if self._show is not None:
            self._show(stem, start, audio)

    def forget(self) -> None:
        """Remove the checkpoint of a finished job."""
        self._store.delete_record(CHECKPOINTS, self._key)
        if self._last is not None:
            self._store.discard(self._last.sha256)

    def _read(self, record: ArrayRecord) -> LongArray | None:
        if not self._store.verify(record.sha256, record.size_bytes):
            return None
        try:
            found = FileArray.open(self._store.path(record.sha256), record.shape)
        except (OSError, ValueError):
            return None
        return found if found.nbytes > DEFAULT.small_bytes else np.asarray(found)
