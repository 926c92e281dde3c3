"""The messages of the job channel: typed, tagged, frozen; PROTOCOL.md describes them in words.

`bridge.protocol` turns them into frames and back. A field may be added with a default; a field
is never renamed, retyped or removed within a major version.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, TypeAlias

from msgspec import Meta, Struct

from bridge.request import Prompt, Settings
from bridge.separation import Report
from bridge.wire.descriptors import (
    AudioInfo,
    Count,
    JobState,
    ModelRef,
    Name,
    Sha256,
    StemInfo,
)

WINDOW_CHUNKS: Final = 4

Credits: TypeAlias = Annotated[int, Meta(ge=1, le=WINDOW_CHUNKS)]


class Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all messages; `payload` says whether a frame of audio follows."""

    payload: ClassVar[bool] = False


# -- job channel, client to server -------------------------------------------------------------


class Join(Message, frozen=True, tag="join"):
    """First message on the job channel: the session, and its requests that still matter."""

    session: Name
    requests: tuple[Count, ...] = ()


class Submit(Message, frozen=True, tag="submit"):
    """Ask for a separation. `request` is chosen by the client, unique in its session."""

    request: Count
    model: ModelRef
    audio: AudioInfo
    prompts: Annotated[tuple[Prompt, ...], Meta(min_length=1, max_length=256)]
    settings: Settings = Settings()
    keep: bool = False
    partial: bool = False


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
    """Nothing more is wanted of a request."""

    request: Count


# -- job channel, both ways --------------------------------------------------------------------


class Credit(Message, frozen=True, tag="credit"):
    """Leave to send so many chunks of a request's audio more."""

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
    """The server lacks the mixture: send it from byte `offset` on, with so many credits."""

    request: Count
    offset: Count
    credits: Credits


class JobProgress(Message, frozen=True, tag="progress"):
    """How far a job is. Numbered; a client that is slow to read misses some."""

    request: Count
    number: Count
    state: JobState
    position: Count
    stage: Name
    done: Count
    total: Count
    seconds_left: float | None = None


class Partial(Message, frozen=True, tag="partial"):
    """A stretch of a stem as its window was decoded, a preview: (channels, samples), planar."""

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
    """A request came to nothing; `request` is None where none could be made out."""

    code: Name
    message: str
    request: Count | None = None


JobRequest: TypeAlias = Join | Submit | Attach | Audio | Fetch | Release | Credit
JobReply: TypeAlias = Joined | Accepted | SendAudio | JobProgress | Partial | Result | Stem | Failed
