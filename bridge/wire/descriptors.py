"""What messages speak of: models, audio, stems, limits, jobs."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

JobState: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Name: TypeAlias = Annotated[str, Meta(max_length=200)]
Sha256: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class ModelRef(Struct, frozen=True):
    """A model by name, and by the checksum of its manifest where the name alone is not enough."""

    name: Name
    sha256: Sha256 | None = None


class AudioInfo(Struct, frozen=True):
    """A mixture: float32, planar (channel after channel); `sha256` is over those bytes."""

    sha256: Sha256
    sample_rate: Annotated[int, Meta(ge=1, le=10_000_000)]
    channels: Annotated[int, Meta(ge=1, le=256)]
    samples: Annotated[int, Meta(ge=1, le=2**40)]

    @property
    def size_bytes(self) -> int:
        """Bytes of the samples."""
        return 4 * self.channels * self.samples

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate


class StemInfo(Struct, frozen=True):
    """A finished stem: float32, planar; `sha256` is over its bytes."""

    name: Name
    sha256: Sha256
    channels: Count
    samples: Count

    @property
    def size_bytes(self) -> int:
        """Bytes of the samples."""
        return 4 * self.channels * self.samples


class Limits(Struct, frozen=True):
    """What one client may ask of this server; None is no limit."""

    open_jobs: int | None = 64
    upload_bytes: int | None = 8_000_000_000
    audio_minutes: float | None = 600.0


class JobInfo(Struct, frozen=True):
    """One line of the list of jobs."""

    key: Sha256
    state: JobState
    model: Name
    prompts: tuple[str, ...]
    duration_s: float
    keep: bool
    clients: int
    position: int = 0
    stage: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
