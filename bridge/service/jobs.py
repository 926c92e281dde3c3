"""A job, who waits for it, and the key that makes the same request the same job."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import msgspec

from bridge.bundles.manifest import Manifest
from bridge.protocol import Buffer
from bridge.request import Prompt, Settings
from bridge.separation import Progress
from bridge.service.records import JobRecord, ResultRecord
from bridge.service.sessions import Session
from bridge.service.transfer import Download, Upload
from bridge.wire.descriptors import AudioInfo, JobInfo, JobState
from bridge.wire.messages import WINDOW_CHUNKS, Partial

PREVIEW_BYTES: Final = 4 << 20
_HISTORY: Final = 100
_WAITING: Final = Progress("queued", 0, 0)


def job_key(
    audio: AudioInfo, prompts: tuple[Prompt, ...], settings: Settings, manifest: Manifest
) -> str:
    """Hash all that decides a result: audio, prompts with spans, model and settings.

    The model's defaults are filled in first, so that asking for a default and not asking are
    the same job.
    """
    resolved = settings.resolve(manifest)
    parts = ("stembridge job 1", audio, prompts, manifest.sha256, resolved)
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()


@dataclass
class Subscriber:
    """One request of one session for a job.

    `told` is the result it knows of: it may be fetching from that one.
    """

    session: Session
    request: int
    partial: bool
    has_audio: bool
    credits: int = WINDOW_CHUNKS
    position: int = 0
    upload: Upload | None = None
    download: Download | None = None
    told: ResultRecord | None = None
    previews: deque[tuple[Partial, Buffer]] = field(default_factory=deque)


@dataclass
class Job:
    """A job in memory, from its first request until nobody asks about it any more."""

    key: str
    record: JobRecord
    model_path: str
    keep: bool = False
    state: JobState = "queued"
    subscribers: dict[tuple[str, int], Subscriber] = field(default_factory=dict)
    audio_ready: bool = False
    looking_up: bool = False
    aborting: bool = False
    attempts: int = 0
    position: int = 0
    number: int = 0
    progress: Progress = _WAITING
    result: ResultRecord | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def open(self) -> bool:
        """Whether there is still something to do for it."""
        return self.state in ("queued", "running")

    @property
    def blobs(self) -> set[str]:
        """Checksums of the blobs that must not be evicted now."""
        stems = () if self.result is None else self.result.stems
        return {self.record.audio.sha256, *(stem.sha256 for stem in stems)}

    @property
    def owners(self) -> set[str]:
        """Who waits for it."""
        return {subscriber.session.owner for subscriber in self.subscribers.values()}

    def info(self) -> JobInfo:
        """Return its line in the list of jobs."""
        return JobInfo(
            key=self.key,
            state=self.state,
            model=self.record.model.name,
            prompts=tuple(prompt.text for prompt in self.record.prompts),
            duration_s=self.record.audio.duration_s,
            keep=self.keep,
            clients=len({session for session, _ in self.subscribers}),
            position=self.position,
            stage=self.progress.stage,
            done=self.progress.done,
            total=self.progress.total,
            seconds_left=self.progress.seconds_left,
        )


Place = tuple[str, int]


class JobTable:
    """Jobs by key, requests by session and number, and what is over.

    Attributes
    ----------
    jobs : dict of str to Job
    requests : dict of (str, int) to (Job, Subscriber)
    history : deque of JobInfo
        The jobs that left the table last.
    finished : int
        Jobs computed since the start.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.requests: dict[Place, tuple[Job, Subscriber]] = {}
        self.history: deque[JobInfo] = deque(maxlen=_HISTORY)
        self.finished = 0

    def holds(self, job: Job) -> bool:
        """Say whether a job is still in the table, and not another one with its key."""
        return self.jobs.get(job.key) is job

    def subscribe(self, job: Job, subscriber: Subscriber) -> tuple[Job, Subscriber] | None:
        """Add a request for a job; returns what the same request stood for before."""
        place = (subscriber.session.id, subscriber.request)
        earlier = self.requests.get(place)
        job.subscribers[place] = subscriber
        self.requests[place] = (job, subscriber)
        return earlier

    def of_owner(self, owner: str, but: Place) -> list[Job]:
        """List the open jobs of an owner, once per request, without one of the requests."""
        return [
            job
            for place, (job, subscriber) in self.requests.items()
            if subscriber.session.owner == owner and place != but and job.open
        ]

    def clear(self, job: Job) -> list[Subscriber]:
        """Remove all requests for a job and return them."""
        subscribers = list(job.subscribers.values())
        for place in job.subscribers:
            self.requests.pop(place, None)
        job.subscribers.clear()
        return subscribers

    def remove(self, job: Job) -> None:
        """Take a job that is over out of the table."""
        del self.jobs[job.key]
        self.history.append(job.info())

    def pinned(self) -> set[str]:
        """Return the checksums of all blobs that are in use."""
        return {blob for job in self.jobs.values() for blob in job.blobs}
