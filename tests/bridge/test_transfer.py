"""Accounts of a transfer: every chunk of an upload costs a credit until it is written."""

import pytest

from bridge.errors import ProtocolError
from bridge.service.jobs import Download, Upload
from bridge.store import Store
from bridge.wire.codec import CHUNK_BYTES
from bridge.wire.messages import WINDOW_CHUNKS, AudioInfo, StemInfo

AUDIO = AudioInfo("0" * 64, 48_000, 1, 10 * CHUNK_BYTES // 4)


@pytest.fixture
def upload(tmp_path):
    incoming = Store(tmp_path).create(None, AUDIO.size_bytes)
    with incoming:
        yield Upload(incoming, AUDIO)


def test_no_chunk_without_credit(upload):
    for number in range(WINDOW_CHUNKS):
        upload.accept(number * CHUNK_BYTES, CHUNK_BYTES)
    with pytest.raises(ProtocolError, match="without credit"):
        upload.accept(WINDOW_CHUNKS * CHUNK_BYTES, CHUNK_BYTES)
    assert upload.written()  # one is on disk, and more will come
    upload.accept(WINDOW_CHUNKS * CHUNK_BYTES, CHUNK_BYTES)


@pytest.mark.parametrize(
    ("offset", "size_bytes", "message"),
    [
        (CHUNK_BYTES, CHUNK_BYTES, "expected byte 0"),
        (0, AUDIO.size_bytes + 4, "expected byte 0"),
        (0, 4, "1 to 4 MiB"),
    ],
)
def test_no_chunk_out_of_order_or_size(upload, offset, size_bytes, message):
    with pytest.raises(ProtocolError, match=message):
        upload.accept(offset, size_bytes)


def test_a_download_goes_on_from_any_sample():
    stem = StemInfo("half", "0" * 64, 1, CHUNK_BYTES // 2)
    download = Download(stem, CHUNK_BYTES // 2)
    assert download.take() == (CHUNK_BYTES // 2, CHUNK_BYTES)
    assert download.take() == (3 * CHUNK_BYTES // 2, CHUNK_BYTES // 2)
    assert download.take() is None
    for offset in (3, stem.size_bytes + 4):
        with pytest.raises(ProtocolError, match="multiple of 4"):
            Download(stem, offset)
