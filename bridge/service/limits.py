"""What one client may have open at a time."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.errors import InputError
from bridge.service.jobs import Job
from bridge.wire.descriptors import AudioInfo, Limits


def check_limits(limits: Limits, audio: AudioInfo, open_jobs: Sequence[Job]) -> None:
    """Check a new job of a client against what it has open.

    Parameters
    ----------
    limits : Limits
    audio : AudioInfo
        Of the new job.
    open_jobs : sequence of Job
        The client's other jobs that are not over, once per request.

    Raises
    ------
    InputError
        If the new job would pass a limit; the message has the numbers.
    """
    if limits.open_jobs is not None and len(open_jobs) >= limits.open_jobs:
        raise InputError(
            f"{len(open_jobs)} jobs are open, and this server allows a client {limits.open_jobs}; "
            "wait for one to finish"
        )
    size_bytes = audio.size_bytes + sum(job.record.audio.size_bytes for job in open_jobs)
    if limits.upload_bytes is not None and size_bytes > limits.upload_bytes:
        raise InputError(
            f"the audio of the open jobs would come to {size_bytes} bytes, and this server allows "
            f"a client {limits.upload_bytes}; wait for a job to finish, or send less audio"
        )
    minutes = (audio.duration_s + sum(job.record.audio.duration_s for job in open_jobs)) / 60
    if limits.audio_minutes is not None and minutes > limits.audio_minutes:
        raise InputError(
            f"the open jobs would come to {minutes:.1f} minutes of audio, and this server allows "
            f"a client {limits.audio_minutes:g}; wait for a job to finish, or send less audio"
        )
