"""The messages of the job channel and of the control channel; PROTOCOL.md has them in words."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from bridge.request import Prompt, Settings
from bridge.separation import Report

WINDOW_CHUNKS: Final = 4

Credits: TypeAlias = Annotated[int, Meta(ge=1, le=WINDOW_CHUNKS)]
JobState: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Name: TypeAlias = Annotated[str, Meta(max_length=200)]
Sha256: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Revised: TypeAlias = Annotated[str, Meta(pattern=r"\A(latest|[0-9a-f]{64})?\Z")]


class ModelRef(Struct, frozen=True):
    """A model by name, and by the checksum of its manifest where the name is not enough."""

    name: Name
    sha256: Sha256 | None = None


class VideoInfo(Struct, frozen=True):
    """Frames that show a stem: their times in seconds as float64, then RGB as uint8."""

    stem: Name
    frames: Annotated[int, Meta(ge=1, le=2**24)]
    height: Annotated[int, Meta(ge=1, le=2**13)]
    width: Annotated[int, Meta(ge=1, le=2**13)]

    @property
    def size_bytes(self) -> int:
        """Bytes of the times and the frames."""
        return self.frames * (8 + 3 * self.height * self.width)


class AudioInfo(Struct, frozen=True, omit_defaults=True):
    """A mixture: float32, planar (channel after channel), and after it the videos of stems.

    `sha256` is over all those bytes.
    """

    sha256: Sha256
    sample_rate: Annotated[int, Meta(ge=1, le=10_000_000)]
    channels: Annotated[int, Meta(ge=1, le=256)]
    samples: Annotated[int, Meta(ge=1, le=2**40)]
    videos: Annotated[tuple[VideoInfo, ...], Meta(max_length=256)] = ()

    @property
    def mixture_bytes(self) -> int:
        """Bytes of the samples."""
        return 4 * self.channels * self.samples

    @property
    def size_bytes(self) -> int:
        """Bytes of the samples and the videos."""
        return self.mixture_bytes + sum(video.size_bytes for video in self.videos)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate


class StemInfo(Struct, frozen=True):
    """A finished stem: float32, planar; `sha256` is over its bytes."""

    name: Name
    sha256: Sha256
    channels: Count
    samples: Count

    @property
    def size_bytes(self) -> int:
        """Bytes of the samples."""
        return 4 * self.channels * self.samples


class Limits(Struct, frozen=True):
    """What one client may have open at a server; None for no limit."""

    open_jobs: int | None = 64
    upload_bytes: int | None = 8_000_000_000
    audio_minutes: float | None = 600.0


class JobInfo(Struct, frozen=True):
    """One line of the list of jobs."""

    key: Sha256
    state: JobState
    model: Name
    prompts: tuple[str, ...]
    duration_s: float
    keep: bool
    clients: int
    position: int = 0
    stage: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None


class Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all messages; `payload` says whether a frame of audio follows."""

    payload: ClassVar[bool] = False


# -- job channel, client to server -------------------------------------------------------------


class Join(Message, frozen=True, tag="join"):
    """First message on the job channel: the session, and its requests that still matter."""

    session: Name
    requests: tuple[Count, ...] = ()


class Submit(Message, frozen=True, tag="submit"):
    """Ask for a separation. `request` is chosen by the client, unique in its session.

    With `revises` an earlier job of the same kin may be revised: see `bridge.Engine.update`.

    From here on it is the job itself, for the worker and in the store, then as request 0.
    """

    request: Count
    model: ModelRef
    audio: AudioInfo
    prompts: Annotated[tuple[Prompt, ...], Meta(min_length=1, max_length=256)]
    settings: Settings = Settings()
    keep: bool = False
    partial: bool = False
    revises: Revised = ""


class Attach(Message, frozen=True, tag="attach"):
    """Ask for a job that the server already has, by key."""

    request: Count
    key: Sha256
    partial: bool = False


class Audio(Message, frozen=True, tag="audio"):
    """A chunk of the mixture, starting at byte `offset`; costs one credit."""

    payload: ClassVar[bool] = True
    request: Count
    offset: Count


class Fetch(Message, frozen=True, tag="fetch"):
    """Ask for a stem from byte `offset` on."""

    request: Count
    stem: Name
    offset: Count = 0


class Release(Message, frozen=True, tag="release"):
    """Release a request: nothing more of it is wanted."""

    request: Count


# -- job channel, both ways --------------------------------------------------------------------


class Credit(Message, frozen=True, tag="credit"):
    """Permits sending this many more chunks of a request's audio."""

    request: Count
    credits: Credits


# -- job channel, server to client -------------------------------------------------------------


class Joined(Message, frozen=True, tag="joined"):
    """Answer to `Join`."""

    server_id: Name


class Accepted(Message, frozen=True, tag="accepted"):
    """The request belongs to the job with this key."""

    request: Count
    key: Sha256
    state: JobState


class SendAudio(Message, frozen=True, tag="send-audio"):
    """The server lacks the mixture: send it from byte `offset` on, with these credits."""

    request: Count
    offset: Count
    credits: Credits


class JobProgress(Message, frozen=True, tag="progress"):
    """How far a job is. Numbered, since a client that is slow to read misses some."""

    request: Count
    number: Count
    state: JobState
    position: Count
    stage: Name
    done: Count
    total: Count
    seconds_left: float | None = None


class Partial(Message, frozen=True, tag="partial"):
    """A preview: a stretch of a stem as its window is decoded, (channels, samples), planar."""

    payload: ClassVar[bool] = True
    request: Count
    stem: Name
    start: Count
    channels: Count
    samples: Count


class Result(Message, frozen=True, tag="result"):
    """A job is done; its stems can be fetched."""

    request: Count
    key: Sha256
    report: Report
    stems: tuple[StemInfo, ...]
    cached: bool


class Stem(Message, frozen=True, tag="stem"):
    """A chunk of a stem, starting at byte `offset`."""

    payload: ClassVar[bool] = True
    request: Count
    stem: Name
    offset: Count


class Failed(Message, frozen=True, tag="failed"):
    """A request failed; `request` is None where it could not be determined."""

    code: Name
    message: str
    request: Count | None = None


JobRequest: TypeAlias = Join | Submit | Attach | Audio | Fetch | Release | Credit
JobReply: TypeAlias = Joined | Accepted | SendAudio | JobProgress | Partial | Result | Stem | Failed


# -- control channel, client to server ---------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """Open or resume a session."""

    protocol: Name
    client: Name
    session: Name | None = None


class Ping(Message, frozen=True, tag="ping"):
    """Heartbeat of a session."""

    session: Name
    number: Count


class Bye(Message, frozen=True, tag="bye"):
    """Close a session now; its jobs are cancelled unless they are to be kept."""

    session: Name


class Cancel(Message, frozen=True, tag="cancel"):
    """Cancel a request of one's own session, or (locally) a job for everyone."""

    session: Name | None = None
    request: Count | None = None
    key: Sha256 | None = None


class GetStatus(Message, frozen=True, tag="get-status"):
    """Ask for the state of the server."""


class GetJobs(Message, frozen=True, tag="get-jobs"):
    """Ask for the list of jobs."""


class GetLogs(Message, frozen=True, tag="get-logs"):
    """Ask for the latest log records."""

    lines: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Shutdown(Message, frozen=True, tag="shutdown"):
    """Ask the server to stop; kept jobs go on when it is next started."""


# -- control channel, server to client ---------------------------------------------------------


class Welcome(Message, frozen=True, tag="welcome"):
    """Answer to `Hello`."""

    protocol: Name
    server: Name
    server_id: Name
    session: Name
    jobs_port: int | None
    settings: tuple[Name, ...]
    capabilities: tuple[Name, ...]
    models: tuple[Name, ...]
    limits: Limits
    heartbeat_s: float
    grace_s: float


class Pong(Message, frozen=True, tag="pong"):
    """Answer to `Ping`; `known` is false if the session is not known (to a restarted server)."""

    number: Count
    known: bool


class Ok(Message, frozen=True, tag="ok"):
    """A control request was carried out, on `count` jobs."""

    count: Count = 0


class Status(Message, frozen=True, tag="status"):
    """State of the server."""

    server: Name
    protocol: Name
    server_id: Name
    pid: int
    uptime_s: float
    provider: str | None
    models: tuple[Name, ...]
    loaded: tuple[Name, ...]
    workers: int
    memory_bytes: int
    sessions: int
    queued: int
    running: int
    finished: int
    cache_bytes: int
    cache_limit_bytes: int
    cache_entries: int
    endpoints: tuple[str, ...]
    problems: tuple[str, ...] = ()


class Jobs(Message, frozen=True, tag="jobs"):
    """List of jobs."""

    jobs: tuple[JobInfo, ...]


class Logs(Message, frozen=True, tag="logs"):
    """The latest log records, one JSON object per line."""

    lines: tuple[str, ...]


ControlRequest: TypeAlias = Hello | Ping | Bye | Cancel | GetStatus | GetJobs | GetLogs | Shutdown
ControlReply: TypeAlias = Welcome | Pong | Ok | Status | Jobs | Logs
