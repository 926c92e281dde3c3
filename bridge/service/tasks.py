"""What the server and its workers say to each other; never leaves the machine or the release."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from bridge.protocol import Buffer
from bridge.separation import Progress, Report
from bridge.service.records import JobRecord
from bridge.wire.descriptors import StemInfo


class EngineOptions(Struct, frozen=True):
    """How a server's engines run: see `bridge.engine.Engine`.

    With `fallback` the engine's own choice stands in where a provider asked for cannot be used.
    """

    providers: tuple[str, ...] | None = None
    memory_bytes: int | None = None
    fallback: bool = False


class Task(Struct, frozen=True, tag="task"):
    """A job to compute: everything a worker needs, by paths of this machine."""

    key: str
    model_path: str
    engine: EngineOptions
    store_path: str
    record: JobRecord
    partial: bool = False


class Load(Struct, frozen=True, tag="load"):
    """Load a model before the first job needs it."""

    model_path: str
    engine: EngineOptions


class Abort(Struct, frozen=True, tag="abort"):
    """Stop computing a job."""

    key: str


class Ready(Struct, frozen=True, tag="ready"):
    """A worker is up."""

    pid: int


class Loaded(Struct, frozen=True, tag="loaded"):
    """A model is loaded, and this is the provider that really computes."""

    model: str
    provider: str


class Advanced(Struct, frozen=True, tag="advanced"):
    """A job made progress."""

    key: str
    progress: Progress


class Preview(Struct, frozen=True, tag="preview"):
    """A stretch of a stem is decoded; its samples follow as a second frame."""

    key: str
    stem: str
    start: int
    channels: int
    samples: int


class Finished(Struct, frozen=True, tag="finished"):
    """A job is computed and its stems are in the store."""

    key: str
    report: Report
    stems: tuple[StemInfo, ...]


class Broken(Struct, frozen=True, tag="broken"):
    """A job, or loading a model (`key` empty), came to nothing."""

    key: str
    code: str
    message: str


class Died(Struct, frozen=True, tag="died"):
    """A worker's process ended by itself; `key` is the job that it had, or empty."""

    key: str
    pid: int
    reason: str


Order: TypeAlias = Task | Load | Abort
Event: TypeAlias = Ready | Loaded | Advanced | Preview | Finished | Broken | Died

_ENCODER: Final = msgspec.msgpack.Encoder()
_ORDERS: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Order)
_EVENTS: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Event)


def pack(message: Order | Event) -> bytes:
    """Turn an order or an event into bytes."""
    return _ENCODER.encode(message)


def unpack_order(data: Buffer) -> Order:
    """Turn bytes back into an order."""
    order: Order = _ORDERS.decode(data)
    return order


def unpack_event(data: Buffer) -> Event:
    """Turn bytes back into an event."""
    event: Event = _EVENTS.decode(data)
    return event
