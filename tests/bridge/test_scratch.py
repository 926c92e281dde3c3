"""Arrays in files: indexed like NumPy's, and a job in stretches gives the bits of one in memory."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.engine import Engine
from bridge.errors import MemoryBudgetError
from bridge.request import Prompt, Span
from bridge.scratch import FileArray, Scratch, flat, pairwise_sum, pieces
from tests.support import named_bundle, tiny_bundle
from tests.support.sidecars import sidecar
from tests.support.tiny_bundle import Tiny

STRETCHES = Scratch(small_bytes=0, stretch=4999)


def in_file(array: np.ndarray, scratch: Scratch = STRETCHES) -> FileArray:
    there = scratch.file(array.shape)
    there[:] = array
    return there


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "key",
    [
        1, -1, np.int64(2), slice(None), slice(1, 3), slice(2, 2), slice(-2, 99), (1, 2),
        (0, slice(3)), (slice(None), slice(1, 4)),
        (slice(1, 2), slice(None), slice(2, 5)), (1, slice(1, 3), 0),
    ],
)  # fmt: skip
def test_an_array_in_a_file_is_indexed_as_in_memory(key):
    array = numbers(3, 5, 7)
    there = in_file(array)
    np.testing.assert_array_equal(np.asarray(there[key]), array[key])
    array[key] = 1 + array[key]
    there[key] = np.asarray(1 + np.asarray(there[key]))
    np.testing.assert_array_equal(np.asarray(there), array)


def test_rows_are_views():
    there = in_file(numbers(3, 5))
    there[1][2:4] = 7
    np.testing.assert_array_equal(there[1, 2:4], [7, 7])
    assert [row.shape for row in there] == [(5,)] * 3


@pytest.mark.parametrize("key", [3, (0, 5), (0, 0, 0), slice(None, None, 2)])
def test_what_is_not_there_is_no_index(key):
    with pytest.raises(IndexError):
        in_file(numbers(3, 5))[key]


def test_arithmetic_goes_by_stretches_to_the_same_bits():
    x, slope = numbers(3, 5000), 3 * numbers(3, 5000)
    moved = in_file(x) + np.float32(0.3) * in_file(slope)
    assert isinstance(moved, FileArray)
    np.testing.assert_array_equal(np.asarray(moved), x + np.float32(0.3) * slope)
    moved -= slope
    assert isinstance(moved, FileArray)
    assert not np.asarray(np.zeros_like(moved)).any()


@pytest.mark.parametrize("reducing", [np.add.reduce, np.mean, np.concatenate])
def test_what_would_read_the_whole_file_unasked_is_refused(reducing):
    with pytest.raises(TypeError):
        reducing(in_file(numbers(3, 5)))


@given(st.integers(1, 400_000))
@settings(max_examples=20)
def test_sums_are_numpys(count):
    values = np.random.default_rng(count).standard_normal(count)
    assert pairwise_sum(lambda a, b: values[a:b], count) == values.sum()


def test_bytes_come_in_pieces():
    array = numbers(2, 300_000)
    assert b"".join(pieces(array)) == b"".join(pieces(in_file(array))) == array.tobytes()


def test_small_arrays_stay_in_memory_and_files_have_no_name(tmp_path):
    scratch = Scratch(small_bytes=400, directory=tmp_path)
    assert isinstance(scratch.zeros((10, 10)), np.ndarray)
    large = scratch.zeros((10, 11))
    assert isinstance(large, FileArray)
    large[3] = 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told():
    there = STRETCHES.file((10,))

    class Full:
        def seek(self, _: int) -> None: ...
        def close(self) -> None: ...
        def write(self, _: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    there._file._raw = Full()
    with pytest.raises(MemoryBudgetError, match="TMPDIR"):
        there[:] = 1


def test_a_file_of_another_size_is_no_array(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(numbers(6).tobytes())
    np.testing.assert_array_equal(
        np.asarray(FileArray.open(path, (2, 3))), numbers(6).reshape(2, 3)
    )
    with pytest.raises(ValueError, match="24 bytes, expected 28"):
        FileArray.open(path, (7,))
    assert flat(FileArray.open(path, (2, 3))).shape == (6,)


SPANS = (Span(0.3, 0.9), Span(1.2, 1.5, "-"))
JOBS = [
    (Tiny(), 2, 44_100, ["half"], {}),
    (Tiny(), 1, 16_000, ["half", Prompt("everything", spans=SPANS)], {"reconstruct": "mask"}),
    (Tiny(blurred=True, chunk_frames=50), 2, 22_050, ["half"], {"reconstruct": "wiener"}),
    (Tiny(stereo=True, beside_guidance=0.5, level_s=0.5), 2, 48_000, ["half"],
     {"reconstruct": "raw"}),
    (Tiny(judge=True), 6, 16_000, ["half"], {"candidates": 2, "reconstruct": "null"}),
    (Tiny(still=True), 2, 44_100, ["half"], {"candidates": 3, "solver": "unipc", "steps": 3}),
    (Tiny(), 2, 8_000, ["half"], {"listen": "mean", "solver": "midpoint"}),
    (None, 3, 44_100, ["most", Prompt("sides", spans=SPANS)], {"reconstruct": "wiener"}),
]  # fmt: skip


@pytest.mark.parametrize("job", range(len(JOBS)))
@pytest.mark.parametrize("from_file", [False, True])
def test_a_job_in_stretches_gives_the_bits_of_one_in_memory(job, from_file, tmp_path: Path) -> None:
    options, channels, rate, prompts, asked = JOBS[job]
    path = tmp_path / "bundle"
    bundle = named_bundle.build(path) if options is None else tiny_bundle.build(path, options)
    moments = np.arange(round(2.71 * rate)) / rate
    tones = [0.2 * np.sin(2 * np.pi * (200 + 50 * c) * moments) for c in range(channels)]
    mixture = (np.stack(tones) + 0.1 * numbers(channels, len(moments)) + 0.02).astype(np.float32)
    with Engine(bundle, scratch=Scratch(small_bytes=1 << 30)) as engine:
        expected = engine.separate(mixture, rate, prompts, **asked)
    with Engine(bundle, scratch=STRETCHES) as engine:
        given_ = in_file(mixture) if from_file else mixture
        result = engine.separate(given_, rate, prompts, **asked)
    kind = FileArray if from_file else np.ndarray
    for name, stem in {**expected.stems, "residual": expected.residual}.items():
        found = result.residual if name == "residual" else result.stems[name]
        assert isinstance(found, kind)
        np.testing.assert_array_equal(np.asarray(found), stem)
    assert result.report.null_depth_db == expected.report.null_depth_db
    assert result.report.notes == expected.report.notes
    assert result.report.selections == expected.report.selections


def test_a_server_gets_a_mixture_from_a_file_and_answers_into_files() -> None:
    mixture = 0.1 * numbers(2, 600_000)
    with sidecar() as server, server.client() as client:
        result = client.separate(in_file(mixture), 44_100, ["half"], reconstruct="null")
        expected = client.separate(mixture, 44_100, ["half"], reconstruct="null")
    assert isinstance(result.stems["half"], FileArray)
    assert isinstance(expected.stems["half"], np.ndarray)
    np.testing.assert_array_equal(np.asarray(result.stems["half"]), expected.stems["half"])
    np.testing.assert_array_equal(np.asarray(result.residual), expected.residual)
