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

import bridge.wire.messages
from bridge.errors import ProtocolError
from bridge.request import Prompt, Settings, Span, settings_table
from bridge.separation import Report
from bridge.service import relay, sessions
from bridge.wire import codec as protocol
from bridge.wire import messages
from bridge.workers.messages import (
    Broken,
    Load,
    pack,
    unpack_event,
    unpack_order,
)

DOCUMENT = (Path(bridge.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
RECORDED = Path(__file__).parent / "recorded_messages_1.0.json"
MESSAGES: dict[str, type[messages.Message]] = {
    kind.__struct_config__.tag: kind
    for kind in vars(messages).values()
    if isinstance(kind, type)
    and issubclass(kind, messages.Message)
    and kind is not messages.Message
}
TYPES: dict[str, Any] = {
    **{
        name: kind
        for name, kind in vars(bridge.wire.messages).items()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind is not msgspec.Struct
        and not issubclass(kind, messages.Message)
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
    # A report has the fields of settings, which their own table describes.
    settings = {field.name for field in msgspec.structs.fields(Settings)}
    for field in msgspec.structs.fields(TYPES[name]):
        if field.name not in settings:
            assert f"`{field.name}`" in text


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert settings_table() in DOCUMENT


def test_limits_in_the_document_are_those_of_the_code() -> None:
    assert protocol.MAX_HEADER_BYTES == 256 << 10
    assert protocol.MAX_FRAME_BYTES == protocol.MAX_CHUNK_BYTES == 4 << 20
    assert messages.WINDOW_CHUNKS == 4
    assert protocol.SILENCE_S == 2.0
    assert relay.UNFINISHED_BYTES == 8 << 20
    assert relay.HELD_BYTES == 20 << 20
    assert sessions.UNREAD_BYTES == 32 << 20
    seats = (sessions.SESSIONS_OF_CONNECTION, sessions.SESSIONS_OF_KEY, sessions.MAX_SESSIONS)
    for text in (
        *("256 KiB", "4 MiB", "for 2 s", "begin with 4", "sends 8 MiB", "20 MiB", "32 MiB"),
        f"may have {seats[0]} sessions, a key {seats[1]}",
        f"all keys together {seats[2] // 2} and everybody {seats[2]}",
    ):
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


PING = protocol.encode(messages.Ping(session="s", number=1))[0]
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


@given(
    st.text(st.characters()) | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)
def test_an_error_that_tells_of_a_name_that_is_no_text_still_travels(name: str) -> None:
    message, _ = protocol.decode(protocol.encode(messages.Failed("bad_input", f"<{name}>")))
    assert isinstance(message, messages.Failed)
    if name == name.encode(errors="ignore").decode():
        assert message.message == f"<{name}>"
    else:
        assert "\\udc" in message.message


@given(st.binary(min_size=1).map(lambda raw: raw.replace(b"\0", b"/").replace(b"\n", b"\xff")))
def test_a_worker_gets_the_path_whose_bytes_it_was_given(raw: bytes) -> None:
    load = Load(Path(os.fsdecode(raw)))
    assert unpack_order(pack(load)) == load
    assert unpack_event(pack(Broken("k", "internal", os.fsdecode(raw)))).key == "k"
