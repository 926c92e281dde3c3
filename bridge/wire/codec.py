"""The encoding of protocol 1.0 between clients and servers, which PROTOCOL.md describes.

A message is one frame with a msgpack map, whose ``type`` names the struct of
`bridge.wire.messages`, and for the three messages that carry audio a second frame with raw
contiguous float32 samples, little endian. Unknown fields are ignored, so that a newer peer may
say more; unknown types are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from bridge.errors import ProtocolError, StembridgeError, encodable
from bridge.wire.messages import ControlReply, ControlRequest, JobReply, JobRequest, Message

VERSION: Final = "1.0"
CHUNK_BYTES: Final = 4 << 20
MIN_CHUNK_BYTES: Final = 1 << 20
MAX_CHUNK_BYTES: Final = 4 << 20
MAX_HEADER_BYTES: Final = 1 << 18
MAX_FRAME_BYTES: Final = MAX_CHUNK_BYTES
HEARTBEAT_S: Final = 0.5
SILENCE_S: Final = 2.0  # four heartbeats without an answer

Buffer: TypeAlias = bytes | bytearray | memoryview
AnyMessage: TypeAlias = ControlRequest | ControlReply | JobRequest | JobReply

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message, payload: Buffer | None = None) -> list[Buffer]:
    """Turn a message, and the audio that belongs to it, into frames.

    Raises
    ------
    ProtocolError
        If audio is missing, or given to a message that carries none.
    """
    if (payload is not None) != message.payload:
        raise ProtocolError(f"{type(message).__name__} carries audio: {message.payload}")
    try:
        header = _ENCODER.encode(message)
    except UnicodeEncodeError:  # it quotes a name that is not valid text
        header = _ENCODER.encode(encodable(msgspec.to_builtins(message)))
    return [header] if payload is None else [header, payload]


def decode(frames: Sequence[Buffer]) -> tuple[AnyMessage, Buffer | None]:
    """Turn frames into a message and its audio.

    Raises
    ------
    ProtocolError
        If the frames are not exactly one message of this protocol.
    """
    if not 1 <= len(frames) <= 2 or len(frames[0]) > MAX_HEADER_BYTES:
        raise ProtocolError(f"expected a header frame and at most one of audio, got {len(frames)}")
    try:
        message: AnyMessage = _DECODER.decode(frames[0])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, StembridgeError) as error:
        raise ProtocolError(f"not a message of protocol {VERSION}: {error}") from error
    payload = frames[1] if len(frames) == 2 else None
    if (payload is not None) != message.payload:
        raise ProtocolError(f"{type(message).__name__} with {len(frames)} frames")
    if payload is not None and (len(payload) % 4 or not 4 <= len(payload) <= MAX_CHUNK_BYTES):
        raise ProtocolError(
            f"{len(payload)} bytes of audio; expected whole float32 samples, 4 bytes to 4 MiB"
        )
    return message, payload


@functools.cache
def product() -> str:
    """Return the name and version of this package, as sent in greetings."""
    # Imported here: it takes a while, and a client needs it only once it connects.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"stembridge/{version('stembridge')}"
    except PackageNotFoundError:  # running from sources that are not installed
        return "stembridge"


def major(version: str) -> int:
    """Return the major number of a protocol version such as ``"1.0"``.

    Raises
    ------
    ProtocolError
        If the text is not a version.
    """
    head, _, tail = version.partition(".")
    if not (head.isascii() and head.isdigit() and tail.isascii() and tail.isdigit()):
        raise ProtocolError(f"protocol version is {version!r}; expected e.g. {VERSION!r}")
    return int(head)
