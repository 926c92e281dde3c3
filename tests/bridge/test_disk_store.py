"""The store: what goes in comes out, or nothing does."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from msgspec import Struct

from bridge.store import Store


class Note(Struct, frozen=True):
    text: str


def age(path: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_blobs_are_named_by_their_contents(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = os.urandom(3_000_001)
    sha256 = store.put(data)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert store.put(data) == sha256
    assert store.path(sha256).read_bytes() == data
    assert store.verify(sha256, len(data))
    assert not any((tmp_path / "incoming").iterdir())


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove"])
def test_a_damaged_blob_is_removed_and_counts_as_absent(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    data = bytes(5000)
    sha256 = store.put(data)
    path = store.path(sha256)
    if damage == "flip":
        path.write_bytes(data[:100] + b"\1" + data[101:])
    elif damage == "shorten":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    assert not store.verify(sha256, len(data))
    assert not path.exists()
    assert store.put(data) == sha256
    assert store.verify(sha256, len(data))


def test_what_was_verified_is_read_again_only_once_it_was_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    read: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind)
    )
    sha256 = store.put(bytes(5000))
    assert all(store.verify(sha256, 5000) for _ in range(3))
    assert len(read) == 1
    time.sleep(0.05)  # longer than the clock of a file system stands still
    with store.path(sha256).open("r+b") as file:
        file.write(b"\1")
    assert not store.verify(sha256, 5000)
    assert len(read) == 2
    store.put(bytes(5000))
    assert store.verify(sha256, 5000)
    assert len(read) == 3


def test_a_wrong_claim_about_its_size_harms_no_blob(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha256 = store.put(b"abcd")
    assert not store.verify(sha256, 8)
    assert store.verify(sha256, 4)


def test_an_upload_with_another_checksum_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for size in (3, 4, 5):
        with store.create(hashlib.sha256(b"abcd").hexdigest(), 4) as incoming:
            incoming.write(b"abcx"[:size] + b"y" * (size - 4))
            assert not incoming.commit()
    assert store.measure() == (0, 0)


def test_records_are_checked_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record("notes", "one", Note("hello"))
    assert store.read_record("notes", "one", Note) == Note("hello")
    path = tmp_path / "records" / "notes" / "one"
    path.write_bytes(path.read_bytes().replace(b"hello", b"jello"))
    assert store.read_record("notes", "one", Note) is None
    assert not path.exists()
    store.write_record("notes", "two", {"text": 3})
    assert store.read_record("notes", "two", Note) is None
    assert store.record_keys("notes") == []


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    pinned: set[str] = set()
    store = Store(tmp_path, 3500, lambda: pinned)
    names = [store.put(bytes([number]) * 1000) for number in range(5)]
    store.write_record("jobs", "kept", Note("stay"))
    for number, name in enumerate(names):
        age(store.path(name), 100 - number)
    age(tmp_path / "records" / "jobs" / "kept", 1000)
    pinned.add(names[1])
    assert store.verify(names[0], 1000)  # reading it makes it the newest
    store.trim()
    left = [number for number, name in enumerate(names) if store.path(name).exists()]
    assert left == [0, 1, 4]
    assert store.read_record("jobs", "kept", Note) == Note("stay")


def test_leftovers_of_the_dead_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    incoming = store.create("0" * 64, 10)
    incoming.write(b"12345")
    assert any((tmp_path / "incoming").iterdir())
    Store(tmp_path).sweep()
    assert not any((tmp_path / "incoming").iterdir())
    incoming.close()


def test_an_entry_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(file: int) -> None:
        done.append(("sync", os.fstat(file).st_ino))
        sync(file)

    def note_rename(path: Path, target: Path) -> Path:
        done.append(("rename", path.stat().st_ino))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    store = Store(tmp_path)
    blob = store.path(store.put(b"abcd"))
    store.write_record("notes", "one", Note("hello"))
    record = tmp_path / "records" / "notes" / "one"
    assert done == [
        (act, path.stat().st_ino) for path in (blob, record) for act in ("sync", "rename")
    ]
