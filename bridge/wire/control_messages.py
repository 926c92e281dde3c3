"""The messages of the control channel; those of the job channel are in `bridge.wire.messages`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from bridge.wire.descriptors import Count, JobInfo, Limits, Name, Sha256
from bridge.wire.messages import Message

# -- control channel, client to server ---------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """Open a session, or take up one again."""

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
    """Give up a request of one's own session, or (locally) cancel a job for everybody."""

    session: Name | None = None
    request: Count | None = None
    key: Sha256 | None = None


class GetStatus(Message, frozen=True, tag="get-status"):
    """Ask for the state of the server."""


class GetJobs(Message, frozen=True, tag="get-jobs"):
    """Ask for the list of jobs."""


class GetLogs(Message, frozen=True, tag="get-logs"):
    """Ask for the newest log records."""

    lines: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Shutdown(Message, frozen=True, tag="shutdown"):
    """Ask the server to leave; kept jobs go on at its next start."""


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
    """Answer to `Ping`; `known` is false if the session is not (a server started anew)."""

    number: Count
    known: bool


class Ok(Message, frozen=True, tag="ok"):
    """A control request was carried out; `count` says on how many jobs."""

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


class Jobs(Message, frozen=True, tag="jobs"):
    """List of jobs."""

    jobs: tuple[JobInfo, ...]


class Logs(Message, frozen=True, tag="logs"):
    """Newest log records, one JSON object a line."""

    lines: tuple[str, ...]


ControlRequest: TypeAlias = Hello | Ping | Bye | Cancel | GetStatus | GetJobs | GetLogs | Shutdown
ControlReply: TypeAlias = Welcome | Pong | Ok | Status | Jobs | Logs
