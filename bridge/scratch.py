"""Arrays larger than memory: they are kept in files and processed in stretches.

The intermediate arrays of a job grow with the length of its audio. A `Scratch` keeps the small
ones in memory and the large ones in nameless files, which are indexed like NumPy's arrays and
vanish with the last reference to them. Code that processes such an array stretch by stretch has
no more than a stretch of it in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from bridge.errors import NO_FILES, MemoryBudgetError, shortage

Array: TypeAlias = npt.NDArray[np.float32]
_Part: TypeAlias = int | slice
_T = TypeVar("_T")

_ITEM: Final = 4
_LEAF: Final = 1 << 16
_TEMPORARY_VARIABLES: Final = ("TMPDIR", "TEMP", "TMP")


class _File:
    """Bytes on disk that several threads may read and write."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._lock = threading.Lock()
        weakref.finalize(self, raw.close)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        with self._lock:
            self._raw.seek(offset)
            while buffer:
                count = self._raw.readinto(buffer)
                if not count:
                    raise EOFError("the file is shorter than the array that lies in it")
                buffer = buffer[count:]

    def write(self, data: memoryview, offset: int) -> None:
        with self._lock:
            self._raw.seek(offset)
            with _room_on_disk():
                while data:
                    data = data[self._raw.write(data) :]


class FileArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A float32 array in a file; only what is indexed is read into memory.

    Indexed as NumPy's arrays are, with whole numbers and slices of step 1: a whole number alone
    gives a view of a row, a slice copies what it covers. Arithmetic works stretch by stretch and
    gives another such array; ``np.asarray`` reads all of it.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, file: _File, shape: Sequence[int], scratch: Scratch, start: int = 0) -> None:
        self._file = file
        self._scratch = scratch
        self._start = start  # in numbers, not bytes
        self.shape = tuple(shape)

    @classmethod
    def open(
        cls,
        path: Path,
        shape: Sequence[int],
        scratch: Scratch | None = None,
        *,
        more_bytes: int = 0,
    ) -> Self:
        """Open little-endian float32 numbers in a file, for reading.

        After them there are as many more bytes, of something else.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not of that size.
        """
        raw = path.open("rb", buffering=0)
        file = _File(raw)
        size, expected = os.fstat(raw.fileno()).st_size, _ITEM * math.prod(shape) + more_bytes
        if size != expected:
            raise ValueError(f"{path} has {size} bytes, expected {expected}")
        return cls(file, shape, scratch or Scratch())

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return _ITEM * self.size

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[FileArray]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, key: int) -> FileArray: ...
    @overload
    def __getitem__(self, key: slice | tuple[_Part, ...]) -> Array: ...
    def __getitem__(self, key: _Part | tuple[_Part, ...]) -> FileArray | Array:
        if isinstance(key, int | np.integer) and self.ndim > 1:
            (row,) = _range(int(key), self.shape[0])
            inner = self.shape[1:]
            return FileArray(self._file, inner, self._scratch, self._start + row * math.prod(inner))
        shape, places, count = self._runs(key)
        found = np.empty((len(places), count), np.float32)
        for run, place in zip(found, places, strict=True):
            self._file.read_into(run.data.cast("B"), _ITEM * place)
        return found.reshape(shape)

    def __setitem__(self, key: _Part | tuple[_Part, ...], value: npt.ArrayLike) -> None:
        shape, places, count = self._runs(key)
        given = np.ascontiguousarray(np.broadcast_to(np.asarray(value, np.float32), shape))
        for run, place in zip(given.reshape(len(places), count), places, strict=True):
            self._file.write(run.data.cast("B"), _ITEM * place)

    def reshape(self, *shape: int) -> FileArray:
        """Return the same numbers in another shape."""
        if math.prod(shape) != self.size:
            raise ValueError(f"cannot reshape {self.shape} to {shape}")
        return FileArray(self._file, shape, self._scratch, self._start)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("what lies in a file cannot become an array without a copy")
        return self[:].astype(dtype or np.float32, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply an elementwise function of one result in stretches."""
        out = options.pop("out", (None,))[0]
        fits = all(np.ndim(one) == 0 or np.shape(one) == self.shape for one in inputs)
        if method != "__call__" or ufunc.nout != 1 or options or not fits:
            return NotImplemented
        target = self._scratch.file(self.shape) if out is None else out
        for part in self._scratch.stretches(self.size):
            values = [one if np.ndim(one) == 0 else flat(one)[part] for one in inputs]
            flat(target)[part] = ufunc(*values)
        return target

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Support ``np.zeros_like`` and a few more; others would read the whole file unasked."""
        if function in (np.zeros_like, np.empty_like) and not kwargs:
            return self._scratch.file(self.shape)
        if function in (np.shape, np.ndim):
            return self.shape if function is np.shape else self.ndim
        return NotImplemented

    def _runs(self, key: _Part | tuple[_Part, ...]) -> tuple[tuple[int, ...], list[int], int]:
        """Return the shape that a key selects, and the starts and the length of its runs."""
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > self.ndim:
            raise IndexError(f"{len(parts)} indices for an array of shape {self.shape}")
        parts = (*parts, *(slice(None) for _ in range(self.ndim - len(parts))))
        ranges = [_range(part, size) for part, size in zip(parts, self.shape, strict=True)]
        cut = [axis for axis, size in enumerate(self.shape) if len(ranges[axis]) != size]
        last = cut[-1] if cut else 0
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(self.ndim)]
        begin = self._start + (ranges[last].start * strides[last] if ranges[last] else 0)
        places = [
            begin + sum(index * stride for index, stride in zip(outer, strides, strict=False))
            for outer in itertools.product(*ranges[:last])
        ]
        shape = tuple(
            len(chosen)
            for chosen, part in zip(ranges, parts, strict=True)
            if isinstance(part, slice)
        )
        return shape, places, len(ranges[last]) * strides[last]


LongArray: TypeAlias = Array | FileArray
"""A float32 array in memory or in a file."""


@dataclass(frozen=True)
class Scratch:
    """Where a job keeps its intermediate arrays.

    Attributes
    ----------
    small_bytes : int
        Arrays of up to this many bytes are kept in memory.
    stretch : int
        Numbers per row that are processed at a time.
    directory : Path or None
        Where the files are; by default where large temporary files go on this system. They have
        no names there and vanish with the process, however it ends.
    """

    small_bytes: int = 4 << 20
    stretch: int = 1 << 18
    directory: Path | None = None

    def zeros(self, shape: Sequence[int]) -> LongArray:
        """Make an array of zeros, in memory or in a file by its size."""
        if _ITEM * math.prod(shape) <= self.small_bytes:
            return np.zeros(shape, np.float32)
        return self.file(shape)

    def like(self, array: LongArray, shape: Sequence[int] | None = None) -> LongArray:
        """Make zeros like another array: in memory if that is in memory, else as `zeros` does."""
        shape = array.shape if shape is None else shape
        return self.zeros(shape) if isinstance(array, FileArray) else np.zeros(shape, np.float32)

    def file(self, shape: Sequence[int]) -> FileArray:
        """Make an array of zeros in a file."""
        place = self.directory or _temporary_directory()
        with _room_on_disk():
            raw = tempfile.TemporaryFile(buffering=0, dir=place)  # noqa: SIM115 - closed by its owner
            raw.truncate(_ITEM * math.prod(shape))
        return FileArray(_File(raw), shape, self)

    def stretches(self, samples: int) -> Iterator[slice]:
        """Cut a number of samples into stretches."""
        for start in range(0, samples, self.stretch):
            yield slice(start, min(start + self.stretch, samples))

    def copy(self, rows: Sequence[LongArray]) -> LongArray:
        """Stack arrays of one shape, as ``np.stack`` does."""
        stacked = self.zeros((len(rows), *rows[0].shape))
        for number, row in enumerate(rows):
            source, target = flat(row), flat(stacked[number])
            for part in self.stretches(row.size):
                target[part] = source[part]
        return stacked


DEFAULT: Final = Scratch()


def flat(array: LongArray) -> LongArray:
    """Return an array flattened in C order, without a copy where possible."""
    return array.reshape(array.size) if isinstance(array, FileArray) else array.reshape(-1)


def pieces(array: npt.NDArray[Any] | FileArray) -> Iterator[memoryview]:
    """Yield an array's bytes in C order, in pieces no larger than a stretch."""
    numbers = flat(array) if isinstance(array, FileArray) else np.ascontiguousarray(array).ravel()
    for part in DEFAULT.stretches(numbers.size):
        yield numbers[part].data.cast("B")


def in_turn(
    work: Callable[[int], _T], count: int, threads: int, then: Callable[[], object] = lambda: None
) -> Iterator[_T]:
    """Call a function with 0, 1 and so on, several at a time, and yield the results in order.

    Parameters
    ----------
    work : callable
        Called on threads of its own; calls do not depend on each other.
    count : int
        How often.
    threads : int
        How many calls are under way at a time; one more result may wait to be taken.
    then : callable
        Called after each result was taken; what it raises ends the work.
    """
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[_T]] = deque()
        for number in range(count):
            under_way.append(pool.submit(work, number))
            if len(under_way) > threads:
                yield under_way.popleft().result()
                then()
        for future in under_way:
            yield future.result()
            then()


def pairwise_sum(read: Callable[[int, int], npt.NDArray[np.float64]], length: int) -> float:
    """Sum numbers in the order in which ``np.sum`` sums an array.

    Parameters
    ----------
    read : callable
        Returns the float64 numbers from the first index up to the second.
    length : int
        How many there are.
    """

    def add(start: int, count: int) -> float:
        if count <= _LEAF:
            return float(np.add.reduce(read(start, start + count)))
        half = count // 2
        half -= half % 8
        return add(start, half) + add(start + half, count - half)

    return add(0, length)


@contextlib.contextmanager
def _room_on_disk() -> Iterator[None]:
    """Turn the operating system's error about a write into a clear one."""
    try:
        yield
    except OSError as error:
        advice = "free some space, or set TMPDIR to a folder on another disk"
        if error.errno in NO_FILES:
            advice = shortage(error) or advice
        raise MemoryBudgetError(
            f"the disk has no room for what a long job keeps there ({error.strerror}); {advice}"
        ) from error


def _temporary_directory() -> str:
    """Prefer the folder for large files, since the usual one may lie in memory."""
    chosen = any(os.environ.get(name) for name in _TEMPORARY_VARIABLES)
    large = "/var/tmp"
    return large if not chosen and os.access(large, os.W_OK) else tempfile.gettempdir()


def _range(part: _Part, size: int) -> range:
    if isinstance(part, slice):
        start, stop, step = part.indices(size)
        if step != 1:
            raise IndexError(f"slices of an array in a file have the step 1, not {step}")
        return range(start, max(start, stop))
    index = part + size if part < 0 else part
    if not 0 <= index < size:
        raise IndexError(f"index {part} is out of range for {size}")
    return range(index, index + 1)
