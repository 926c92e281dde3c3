"""The protocol: document and code agree, recorded bytes decode, rubbish is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bridge.wire.descriptors
from bridge import protocol
from bridge.errors import ProtocolError
from bridge.request import Prompt, Settings, Span
from bridge.separation import Report
from bridge.wire import control_messages, messages

DOCUMENT = (Path(bridge.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
RECORDED = Path(__file__).parent / "recorded_messages_1.0.json"
MESSAGES: dict[str, type[messages.Message]] = {
    kind.__struct_config__.tag: kind
    for module in (messages, control_messages)
    for kind in vars(module).values()
    if isinstance(kind, type)
    and issubclass(kind, messages.Message)
    and kind is not messages.Message
}
TYPES: dict[str, Any] = {
    **{
        name: kind
        for name, kind in vars(bridge.wire.descriptors).items()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__.endswith("descriptors")
    },
    "Prompt": Prompt,
    "Span": Span,
    "Settings": Settings,
    "Report": Report,
}


def sections() -> dict[str, str]:
    """The part of the document about each message."""
    parts = re.split(r"^### `([a-z-]+)`(.*)$", DOCUMENT, flags=re.MULTILINE)
    bodies = [re.split(r"^## ", body, flags=re.MULTILINE)[0] for body in parts[3::3]]
    return {
        tag: f"{where}\n{body}"
        for tag, where, body in zip(parts[1::3], parts[2::3], bodies, strict=True)
    }


def test_every_message_is_described_and_no_other() -> None:
    assert set(sections()) == set(MESSAGES)
    assert f"version {protocol.VERSION}" in DOCUMENT.splitlines()[0]


@pytest.mark.parametrize("tag", sorted(MESSAGES))
def test_every_field_is_described_with_its_default(tag: str) -> None:
    text = sections()[tag]
    described = {
        name
        for line in text.splitlines()
        if line.startswith("- ")
        for name in re.findall(r"`([a-z_]+)`", line.split(":")[0])
    }
    fields = {field.name: field for field in msgspec.structs.fields(MESSAGES[tag])}
    assert described == set(fields)
    with_default = {
        name
        for line in text.splitlines()
        if line.startswith("- ") and "default" in line
        for name in re.findall(r"`([a-z_]+)`", line.split(":")[0])
    }
    assert with_default == {name for name, field in fields.items() if not field.required}
    assert ("with samples" in text.splitlines()[0]) == MESSAGES[tag].payload


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_type_is_described(name: str) -> None:
    paragraph = next(part for part in DOCUMENT.split("\n\n") if f"**{name}**:" in part)
    text = paragraph.split(f"**{name}**:")[1]
    for field in msgspec.structs.fields(TYPES[name]):
        assert f"`{field.name}`" in text


def test_limits_in_the_document_are_those_of_the_code() -> None:
    assert protocol.MAX_HEADER_BYTES == 256 << 10
    assert protocol.MAX_FRAME_BYTES == protocol.MAX_CHUNK_BYTES == 4 << 20
    assert messages.WINDOW_CHUNKS == 4
    assert protocol.SILENCE_S == 2.0
    for text in ("256 KiB", "4 MiB", "for 2 s", "begin with 4"):
        assert text in DOCUMENT


def recorded() -> list[dict[str, str]]:
    return list(json.loads(RECORDED.read_text(encoding="utf-8")))


def contains(found: Any, expected: Any) -> bool:
    """Whether all that was recorded came back; later versions may have added fields."""
    if isinstance(expected, dict):
        return all(contains(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(contains, found, expected))
    return bool(found == expected)


def test_every_message_was_recorded() -> None:
    assert {entry["type"] for entry in recorded()} == set(MESSAGES)


@pytest.mark.parametrize("entry", recorded(), ids=lambda entry: entry["type"])
def test_recorded_bytes_of_the_released_version_decode(entry: dict[str, str]) -> None:
    frames = [bytes.fromhex(frame) for frame in entry["frames"]]
    message, payload = protocol.decode(frames)
    assert type(message) is MESSAGES[entry["type"]]
    assert contains(json.loads(msgspec.json.encode(message)), entry["fields"])
    again, samples = protocol.decode(protocol.encode(message, payload))
    assert (again, samples) == (message, payload)


@pytest.mark.parametrize("entry", recorded(), ids=lambda entry: entry["type"])
def test_unknown_fields_are_ignored(entry: dict[str, str]) -> None:
    header, *rest = (bytes.fromhex(frame) for frame in entry["frames"])
    fields = msgspec.msgpack.decode(header)
    newer = {**fields, "from_the_future": [1, {"x": None}]}
    message, _ = protocol.decode([msgspec.msgpack.encode(newer), *rest])
    assert message == protocol.decode([header, *rest])[0]


PING = protocol.encode(control_messages.Ping(session="s", number=1))[0]
AUDIO = protocol.encode(messages.Audio(request=1, offset=0), bytes(4))


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [PING[:-1]],
        [PING + b"\0"],
        [b"\xc1"],
        [msgspec.msgpack.encode({"type": "unheard-of"})],
        [msgspec.msgpack.encode({"type": 3})],
        [msgspec.msgpack.encode([1, 2])],
        [msgspec.msgpack.encode({"type": "ping", "session": 1, "number": 2})],
        [msgspec.msgpack.encode({"type": "ping", "session": "s", "number": -1})],
        [msgspec.msgpack.encode({"type": "attach", "request": 1, "key": "../../etc/passwd"})],
        [b"\x91" * 10_000],
        [PING, bytes(4)],
        [AUDIO[0]],
        [AUDIO[0], b""],
        [AUDIO[0], bytes(3)],
        [AUDIO[0], bytes(protocol.MAX_CHUNK_BYTES + 4)],
        [*AUDIO, b"more"],
        [bytes(protocol.MAX_HEADER_BYTES + 1)],
    ],
    ids=range(19),
)
def test_what_is_not_a_message_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(frames)


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_rubbish_raises_protocol_errors_only(frames: list[bytes]) -> None:
    try:
        protocol.decode(frames)
    except ProtocolError:
        return


@given(st.sampled_from(recorded()), st.integers(0, 400), st.integers(0, 255))
def test_altered_messages_raise_protocol_errors_only(
    entry: dict[str, str], place: int, value: int
) -> None:
    header, *rest = (bytearray.fromhex(frame) for frame in entry["frames"])
    header[place % len(header)] = value
    try:
        protocol.decode([bytes(header), *rest])
    except ProtocolError:
        return


def test_audio_is_encoded_without_a_copy() -> None:
    samples = memoryview(bytearray(os.urandom(1 << 20)))
    frames = protocol.encode(messages.Audio(request=1, offset=0), samples)
    assert frames[1] is samples
    with pytest.raises(ProtocolError):
        protocol.encode(messages.Audio(request=1, offset=0))
    with pytest.raises(ProtocolError):
        protocol.encode(messages.Release(request=1), samples)


@pytest.mark.parametrize("version", ["", "1", "1.", ".0", "one.0", "1.0.0", "-1.0", "١.٠"])
def test_versions_that_are_none(version: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.major(version)
