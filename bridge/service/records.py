"""What the disk store remembers of jobs."""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

from bridge.request import Prompt, Settings
from bridge.separation import Report
from bridge.service.store import Store
from bridge.wire.descriptors import AudioInfo, ModelRef, StemInfo

JOBS: Final = "jobs"
RESULTS: Final = "results"
CHECKPOINTS: Final = "checkpoints"


class JobRecord(Struct, frozen=True):
    """What must be known to begin a job again after a restart."""

    model: ModelRef
    audio: AudioInfo
    prompts: tuple[Prompt, ...]
    settings: Settings


class ResultRecord(Struct, frozen=True):
    """A finished job, and where its stems are."""

    job: JobRecord
    report: Report
    stems: tuple[StemInfo, ...]


class ArrayRecord(Struct, frozen=True):
    """A float32 array in the store, in C order and little endian."""

    sha256: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the array."""
        return 4 * math.prod(self.shape)


class Checkpoint(Struct, frozen=True):
    """The state of a job's flow after some of its steps."""

    step: int
    state: ArrayRecord


def find_result(store: Store, key: str, audio: AudioInfo) -> tuple[ResultRecord | None, bool]:
    """Look for a job's result, whole in all its stems, and for its mixture.

    Returns
    -------
    result : ResultRecord or None
    audio_ready : bool
        Whether the mixture is there and whole; not looked at if the result is.
    """
    record = store.read_record(RESULTS, key, ResultRecord)
    if record is not None:
        # All of them, so that every damaged one is removed.
        whole = [store.verify(stem.sha256, stem.size_bytes) for stem in record.stems]
        if all(whole):
            return record, True
    return None, store.verify(audio.sha256, audio.size_bytes)
