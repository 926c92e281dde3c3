"""What is said about a job: to a client that asked for it, and to the worker that computes it."""

from __future__ import annotations

from pathlib import Path

from bridge.errors import StembridgeError
from bridge.service.jobs import Job, Subscriber
from bridge.service.records import ResultRecord
from bridge.service.tasks import EngineOptions, Preview, Task
from bridge.wire.messages import Accepted, Failed, JobProgress, Partial, Result


def accepted(to: Subscriber, job: Job) -> Accepted:
    """Say which job a request belongs to."""
    return Accepted(request=to.request, key=job.key, state=job.state)


def progress(to: Subscriber, job: Job) -> JobProgress:
    """Say how far a job is."""
    return JobProgress(
        request=to.request,
        number=job.number,
        state=job.state,
        position=job.position,
        stage=job.progress.stage,
        done=job.progress.done,
        total=job.progress.total,
        seconds_left=job.progress.seconds_left,
    )


def partial(to: Subscriber, preview: Preview) -> Partial:
    """Say which stretch of which stem follows."""
    return Partial(
        request=to.request,
        stem=preview.stem,
        start=preview.start,
        channels=preview.channels,
        samples=preview.samples,
    )


def result(to: Subscriber, job: Job, found: ResultRecord, cached: bool) -> Result:
    """Say that a job is done."""
    return Result(
        request=to.request,
        key=job.key,
        report=found.report,
        stems=found.stems,
        cached=cached,
    )


def failed(to: Subscriber, error: StembridgeError) -> Failed:
    """Say what a request came to, if not to stems."""
    return Failed(code=error.code, message=str(error), request=to.request)


def task(job: Job, store: Path, engine: EngineOptions) -> Task:
    """Say what is to be computed."""
    return Task(
        key=job.key,
        model_path=job.model_path,
        engine=engine,
        store_path=str(store),
        record=job.record,
        partial=any(one.partial for one in job.subscribers.values()),
    )
