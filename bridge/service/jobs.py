"""Jobs, the requests that wait for them, and the key by which equal requests share a job."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from bridge.bundles.manifest import BundleManifest, resolve
from bridge.errors import ProtocolError, StembridgeError
from bridge.request import Prompt, Settings
from bridge.separation import Progress
from bridge.service.sessions import Session
from bridge.store import LATEST, RESULTS, Incoming, ResultRecord, Store
from bridge.wire.codec import CHUNK_BYTES, MIN_CHUNK_BYTES, Buffer
from bridge.wire.messages import (
    WINDOW_CHUNKS,
    Accepted,
    AudioInfo,
    Failed,
    JobInfo,
    JobProgress,
    JobState,
    Partial,
    Result,
    StemInfo,
    Submit,
)
from bridge.workers.messages import Preview, Task

# Stands for the user of the server's machine among the keepers of a job.
LOCAL: Final = ""
# How long the stems of a finished job stay pinned for a client that has stopped reading.
READING_S: Final = 10.0
# Previews kept for a client without credits: one message of the largest size.
PREVIEW_BYTES: Final = 4 << 20
# Finished jobs listed by ``stembridge jobs``: a few screens.
_HISTORY: Final = 100
_WAITING: Final = Progress("queued", 0, 0)


class Upload:
    """An incoming mixture: every chunk needs a credit, and they come in order.

    A client may send chunks of 1 to 4 MiB; each costs one credit.

    Parameters
    ----------
    incoming : Incoming
        Where it is written.
    audio : AudioInfo
    again : bool
        Whether the client was asked before, so that chunks it sent then may still arrive.
    """

    def __init__(self, incoming: Incoming, audio: AudioInfo, *, again: bool = False) -> None:
        self.incoming = incoming
        self.received = 0
        self._again = again
        self._moved_s = time.monotonic()
        self._size = audio.size_bytes
        self._credits = WINDOW_CHUNKS

    @property
    def complete(self) -> bool:
        """Whether all bytes have arrived."""
        return self.received == self._size

    @property
    def idle_s(self) -> float:
        """How long the next chunk has been overdue, in seconds."""
        return 0.0 if self.complete else time.monotonic() - self._moved_s

    def accept(self, offset: int, size_bytes: int) -> bool:
        """Account for a chunk; False for a leftover of an earlier upload, which is to be ignored.

        Raises
        ------
        ProtocolError
            If the chunk breaks the rules.
        """
        if self._again and offset != self.received:
            return False
        if self._credits == 0:
            raise ProtocolError("a chunk of audio without credit; wait for credit messages")
        if offset != self.received or offset + size_bytes > self._size:
            raise ProtocolError(
                f"a chunk at byte {offset} with {size_bytes} bytes; expected byte {self.received} "
                f"of {self._size}"
            )
        if size_bytes < MIN_CHUNK_BYTES and offset + size_bytes < self._size:
            raise ProtocolError(f"a chunk of {size_bytes} bytes; all but the last have 1 to 4 MiB")
        self._credits -= 1
        self.received += size_bytes
        self._moved_s = time.monotonic()
        return True

    def written(self) -> bool:
        """Return a chunk's credit once it is on disk; False if it was the last."""
        self._credits += 1
        return not self.complete


class Download:
    """A stem being sent."""

    def __init__(self, stem: StemInfo, offset: int) -> None:
        if offset % 4 or offset > stem.size_bytes:
            raise ProtocolError(
                f"byte {offset} of the stem {stem.name!r}; expected a multiple of 4 up to "
                f"{stem.size_bytes}"
            )
        self.stem = stem
        self._next = offset

    def take(self) -> tuple[int, int] | None:
        """Return offset and size of the next chunk, or None at the end."""
        offset = self._next
        size_bytes = min(CHUNK_BYTES, self.stem.size_bytes - offset)
        self._next += size_bytes
        return (offset, size_bytes) if size_bytes else None


def job_key(
    audio: AudioInfo, prompts: tuple[Prompt, ...], settings: Settings, manifest: BundleManifest
) -> str:
    """Hash everything that determines the result: audio, prompts with spans, model, settings.

    The model's defaults are filled in first, so that asking for a default gives the same
    job as not asking.
    """
    resolved = resolve(settings, manifest)
    return _digest("stembridge job 1", audio, prompts, manifest.sha256, resolved)


def kin_key(asked: Submit, manifest: BundleManifest) -> str:
    """Hash what a job has in common with those that it can revise; empty if it can revise none.

    All that determines the result counts but the spans, and the samples but for their number.
    """
    audio = asked.audio
    if audio.videos:
        return ""
    shape = (audio.sample_rate, audio.channels, audio.samples)
    prompts = [(prompt.text, prompt.stem) for prompt in asked.prompts]
    resolved = resolve(asked.settings, manifest)
    return _digest("stembridge kin 1", shape, prompts, manifest.sha256, resolved)


def revised(key: str, asked: Submit, kin: str, store: Store) -> tuple[str, Submit]:
    """Find the job that a request may revise.

    Parameters
    ----------
    key : str
        Of the job if it revises none; see `job_key`.
    asked : Submit
        With ``"latest"`` in `revises`, or the key of a finished job.
    kin : str
        See `kin_key`.
    store : Store

    Returns
    -------
    str, Submit
        Key and request of the job: of one that revises the job found; of that job itself, if it
        was asked the same; and of one that revises none where its own result is in the store, or
        no job is that it can revise.
    """
    plain = replace(asked, revises="")
    earlier: str | None = asked.revises
    if earlier == "latest":
        earlier = store.read_record(LATEST, kin, str) if kin else None
    own = store.read_record(RESULTS, key, ResultRecord)
    if not earlier or earlier == key or own is not None:
        return key, plain
    found = store.read_record(RESULTS, earlier, ResultRecord)
    if found is None or found.kin != kin:
        return key, plain
    if (found.job.audio, found.job.prompts) == (asked.audio, asked.prompts):
        return earlier, found.job
    return _digest("stembridge revision 1", key, earlier), replace(plain, revises=earlier)


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()


@dataclass
class Subscriber:
    """One request of one session for a job.

    `known` is the result that it was told of and may be fetching; `read_s` is when it last read
    some of it; `was_asked` says whether it was asked for the mixture.
    """

    session: Session
    request: int
    partial: bool
    has_audio: bool
    credits: int = WINDOW_CHUNKS
    position: int = 0
    was_asked: bool = False
    upload: Upload | None = None
    download: Download | None = None
    known: ResultRecord | None = None
    read_s: float = 0.0
    previews: deque[tuple[Partial, Buffer]] = field(default_factory=deque)


@dataclass
class Job:
    """A job in memory, from the first request for it until the last is released."""

    key: str
    asked: Submit
    model_path: Path
    keepers: set[str] = field(default_factory=set)
    kin: str = ""
    state: JobState = "queued"
    subscribers: dict[tuple[str, int], Subscriber] = field(default_factory=dict)
    audio_ready: bool = False
    looking_up: bool = False
    cancelling: bool = False
    attempts: int = 0
    position: int = 0
    number: int = 0
    progress: Progress = _WAITING
    result: ResultRecord | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def open(self) -> bool:
        """Whether it is still to be finished."""
        return self.state in ("queued", "running")

    @property
    def blobs(self) -> set[str]:
        """Checksums of the blobs that must not be evicted now.

        The stems of a finished job count while a client reads them or has just been told of
        them, but not until they are fetched: a client that never fetches would fill the disk.
        """
        if self.result is None:
            return {self.asked.audio.sha256}
        since_s = time.monotonic() - READING_S
        subscribers = self.subscribers.values()
        if not any(one.read_s > since_s or one.session.newest == self.key for one in subscribers):
            return set()
        return {stem.sha256 for stem in self.result.stems}

    @property
    def size_bytes(self) -> int:
        """Disk space counted against its owners: its audio, or once it is done its stems."""
        if self.result is None:
            return self.asked.audio.size_bytes
        return sum(stem.size_bytes for stem in self.result.stems)

    @property
    def owners(self) -> set[str]:
        """Clients that wait for it, and keys that asked for it to be kept."""
        waiting = {subscriber.session.owner for subscriber in self.subscribers.values()}
        return waiting | (self.keepers - {LOCAL})

    def info(self) -> JobInfo:
        """Return its line in the list of jobs."""
        return JobInfo(
            key=self.key,
            state=self.state,
            model=self.asked.model.name,
            prompts=tuple(prompt.text for prompt in self.asked.prompts),
            duration_s=self.asked.audio.duration_s,
            keep=bool(self.keepers),
            clients=len({session for session, _ in self.subscribers}),
            position=self.position,
            stage=self.progress.stage,
            done=self.progress.done,
            total=self.progress.total,
            seconds_left=self.progress.seconds_left,
        )


Place = tuple[str, int]


class JobTable:
    """Jobs by key, requests by session and number, and the latest finished jobs.

    Attributes
    ----------
    jobs : dict of str to Job
    requests : dict of (str, int) to (Job, Subscriber)
    history : deque of JobInfo
        The latest jobs to leave the table.
    finished : int
        Jobs computed since the start.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.requests: dict[Place, tuple[Job, Subscriber]] = {}
        self.history: deque[JobInfo] = deque(maxlen=_HISTORY)
        self.finished = 0

    def holds(self, job: Job) -> bool:
        """Say whether a job is in the table, and not replaced by another with its key."""
        return self.jobs.get(job.key) is job

    def subscribe(self, job: Job, subscriber: Subscriber) -> tuple[Job, Subscriber] | None:
        """Add a request for a job; return the job and request that it replaces, if any."""
        place = (subscriber.session.id, subscriber.request)
        earlier = self.requests.get(place)
        job.subscribers[place] = subscriber
        self.requests[place] = (job, subscriber)
        return earlier

    def of_owner(self, owner: str, but: Place, key: str) -> list[Job]:
        """List the jobs that count against an owner, apart from one request for the job `key`.

        Each other request counts with its job until it is released, and so does every open job
        that is kept for the owner without a request.
        """
        jobs = [
            job
            for place, (job, subscriber) in self.requests.items()
            if subscriber.session.owner == owner and place != but
        ]
        counted = {key, *(job.key for job in jobs)}
        kept = (job for job in self.jobs.values() if owner in job.keepers and job.open)
        return jobs + [job for job in kept if job.key not in counted]

    def clear(self, job: Job) -> list[Subscriber]:
        """Remove all requests for a job and return them."""
        subscribers = list(job.subscribers.values())
        for place in job.subscribers:
            self.requests.pop(place, None)
        job.subscribers.clear()
        return subscribers

    def remove(self, job: Job) -> None:
        """Move a finished job from the table to the history."""
        del self.jobs[job.key]
        self.history.append(job.info())

    def pinned(self) -> set[str]:
        """Return the checksums of all blobs in use."""
        return {blob for job in self.jobs.values() for blob in job.blobs}


def accepted_message(to: Subscriber, job: Job) -> Accepted:
    """Return the message that says which job a request belongs to."""
    return Accepted(request=to.request, key=job.key, state=job.state)


def progress_message(to: Subscriber, job: Job) -> JobProgress:
    """Return the message that says how far a job is."""
    return JobProgress(
        request=to.request,
        number=job.number,
        state=job.state,
        position=job.position,
        stage=job.progress.stage,
        done=job.progress.done,
        total=job.progress.total,
        seconds_left=job.progress.seconds_left,
    )


def partial_message(to: Subscriber, preview: Preview) -> Partial:
    """Return the message that announces a stretch of a stem."""
    return Partial(
        request=to.request,
        stem=preview.stem,
        start=preview.start,
        channels=preview.channels,
        samples=preview.samples,
    )


def result_message(to: Subscriber, job: Job, found: ResultRecord, cached: bool) -> Result:
    """Return the message that says that a job is done."""
    return Result(
        request=to.request,
        key=job.key,
        report=found.report,
        stems=found.stems,
        cached=cached,
    )


def failed_message(to: Subscriber, error: StembridgeError) -> Failed:
    """Return the message that says why a request failed."""
    return failure(error, to.request)


def failure(error: StembridgeError, request: int | None = None) -> Failed:
    """Return the message for an error, of a request or in general."""
    return Failed(code=error.code, message=str(error), request=request)


def task_of(job: Job, store: Path, pinned: Collection[str]) -> Task:
    """Return a job as a task for a worker, with the blobs that must not be evicted meanwhile."""
    return Task(
        key=job.key,
        model_path=job.model_path,
        store_path=store,
        pinned=tuple(pinned),
        job=job.asked,
        kin=job.kin,
        partial=any(one.partial for one in job.subscribers.values()),
    )
