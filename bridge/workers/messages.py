"""Messages between a server and its workers, which are of the same release."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from bridge.errors import encodable
from bridge.separation import Progress
from bridge.store import ResultRecord
from bridge.wire.codec import Buffer
from bridge.wire.messages import Submit


class EngineOptions(Struct, frozen=True):
    """How a server's engines run: see `bridge.engine.Engine`.

    With `fallback` the engine's own choice replaces a requested provider that cannot be used. So
    many jobs as `together` share an engine, and where it lets them its evaluations.
    """

    providers: tuple[str, ...] | None = None
    memory_bytes: int | None = None
    fallback: bool = False
    together: int = 1


class Task(Struct, frozen=True, tag="task"):
    """A job to compute: everything a worker needs, with paths as the system has them.

    `pinned` names the blobs that the worker must not evict to make room for its own; `kin` is what
    a job has to have in common with it to revise it.
    """

    key: str
    model_path: Path
    store_path: Path
    job: Submit
    pinned: tuple[str, ...] = ()
    partial: bool = False
    kin: str = ""


class Load(Struct, frozen=True, tag="load"):
    """Load a model before the first job needs it."""

    model_path: Path


class Cancel(Struct, frozen=True, tag="cancel"):
    """Stop computing a job."""

    key: str


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


class Broken(Struct, frozen=True, tag="broken"):
    """A job, or loading a model (`key` empty), failed."""

    key: str
    code: str
    message: str


class NotStarted(Struct, frozen=True, tag="not-started"):
    """A worker could not be started, and why; it is retried. An empty reason: now it was."""

    reason: str


class Died(Struct, frozen=True, tag="died"):
    """A worker process ended by itself; `key` is the job it had, or empty."""

    key: str
    pid: int
    reason: str


Order: TypeAlias = Task | Load | Cancel
Event: TypeAlias = Loaded | Advanced | Preview | ResultRecord | Broken | Died | NotStarted


def _path_to_bytes(path: object) -> bytes:
    if not isinstance(path, Path):
        raise TypeError(f"{path!r} does not travel")
    return os.fsencode(path)


def _path_from_bytes(_: type, data: Any) -> Path:
    return Path(os.fsdecode(data))


# On most systems a path is bytes, which need not be valid text.
_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_path_to_bytes)
_ORDERS: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(
    Order, dec_hook=_path_from_bytes
)
_EVENTS: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Event)


def pack(message: Order | Event) -> bytes:
    """Turn an order or an event into bytes."""
    try:
        return _ENCODER.encode(message)
    except UnicodeEncodeError:  # an error message quotes a file name that is not valid text
        plain = msgspec.to_builtins(message, builtin_types=(bytes,), enc_hook=_path_to_bytes)
        return _ENCODER.encode(encodable(plain))


def unpack_order(data: Buffer) -> Order:
    """Turn bytes back into an order."""
    order: Order = _ORDERS.decode(data)
    return order


def unpack_event(data: Buffer) -> Event:
    """Turn bytes back into an event."""
    event: Event = _EVENTS.decode(data)
    return event
