"""What the disk store remembers of jobs."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from bridge.descriptors import AudioInfo, ModelRef, StemInfo
from bridge.request import Prompt, Settings
from bridge.separation import Report

JOBS: Final = "jobs"
RESULTS: Final = "results"


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
