"""``stembridge serve`` and the commands that speak with a running server."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from bridge.connection.admin import ask
from bridge.errors import InputError, ServerError
from bridge.places import cache_directory, has_ipc, log_file, runtime_directory
from bridge.wire.control_messages import (
    Cancel,
    GetJobs,
    GetLogs,
    GetStatus,
    Jobs,
    Logs,
    Ok,
    Shutdown,
    Status,
)
from bridge.wire.descriptors import JobInfo, Limits
from bridge.wire.endpoints import Address, find_address

Directory = Annotated[
    Path | None,
    typer.Option(
        help="Runtime directory of the server, if not the user's own.", show_default=False
    ),
]
_LIMITS = Limits()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("serve", help="Run the sidecar.")(serve)
    app.command("status", help="Show what the server is doing.")(status)
    app.command("stop", help="Stop the server; kept jobs go on when it starts again.")(stop)
    app.command("jobs", help="List jobs.")(jobs)
    app.command("cancel", help="Cancel a job for everybody who waits for it.")(cancel)
    app.command("logs", help="Show the newest log records.")(logs)


def serve(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME_OR_DIR", help="Bundle to offer by its name; repeat for more."),
    ] = None,
    idle_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Leave after so long without clients.")
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(metavar="cpu|cuda|...", help="Execution provider; repeat for more."),
    ] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Compute elsewhere if a provider is missing.")
    ] = False,
    bind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="tcp://HOST:PORT", help="Also serve holders of authorised keys; see keys."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Jobs computed at a time.")] = 1,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", min=0.01, help="What one job may use.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Compute on a Ray cluster; 'local' starts one."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve numbers for Prometheus over HTTP."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Disk store.", show_default=False)] = None,
    cache_limit: Annotated[float, typer.Option(metavar="GB", min=0.01, help="Its size.")] = 10.0,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="How long a lost client's jobs go on.")
    ] = 10.0,
    client_jobs: Annotated[
        int, typer.Option(metavar="N", min=0, help="Open jobs of one client; 0 for no limit.")
    ] = _LIMITS.open_jobs or 0,
    client_upload: Annotated[
        float, typer.Option(metavar="GB", min=0.0, help="Audio of its open jobs; 0 likewise.")
    ] = (_LIMITS.upload_bytes or 0) / 1e9,
    client_minutes: Annotated[
        float, typer.Option(metavar="MIN", min=0.0, help="Length of it all; 0 likewise.")
    ] = _LIMITS.audio_minutes or 0.0,
    directory: Directory = None,
) -> None:
    """Run the sidecar in the foreground until it is stopped, or idle for too long."""
    from bridge.bundles.bundle import find_bundle
    from bridge.service.server import serve as run
    from bridge.service.server_config import ServerConfig
    from bridge.service.tasks import EngineOptions

    run(
        ServerConfig(
            directory=runtime_directory(directory),
            cache=cache_directory(cache),
            cache_limit_bytes=int(cache_limit * 1e9),
            models=tuple(find_bundle(name) for name in model or ()),
            engine=EngineOptions(
                providers=tuple(provider) if provider else None,
                fallback=fallback,
                memory_bytes=None if memory is None else int(memory * 1e9),
            ),
            idle_timeout_s=idle_timeout,
            grace_s=grace,
            workers=workers,
            limits=Limits(
                open_jobs=client_jobs or None,
                upload_bytes=int(client_upload * 1e9) or None,
                audio_minutes=client_minutes or None,
            ),
            ray=ray,
            metrics=metrics,
            binds=tuple(bind or ()),
            console=True,
        )
    )


def status(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Show models, provider, memory, queue and cache of the running server."""
    found = ask(_address(directory), GetStatus(), Status)
    if as_json:
        print(json.dumps(msgspec.to_builtins(found)))
        return
    lines: dict[str, Any] = {
        "server": f"{found.server}, protocol {found.protocol}, pid {found.pid}",
        "up": f"{found.uptime_s:.0f} s, {found.sessions} clients",
        "models": ", ".join(found.models) or "none installed",
        "loaded": ", ".join(found.loaded) or "none yet",
        "provider": found.provider or "none yet",
        "memory": f"{found.memory_bytes / 1e6:.0f} MB, workers included",
        "jobs": f"{found.running} running, {found.queued} queued, {found.finished} finished",
        "cache": f"{found.cache_bytes / 1e6:.0f} of {found.cache_limit_bytes / 1e6:.0f} MB, "
        f"{found.cache_entries} entries",
        "endpoints": ", ".join(found.endpoints),
    }
    for name, value in lines.items():
        print(f"{name + ':':11}{value}")


def stop(*, directory: Directory = None) -> None:
    """Stop the running server."""
    ask(_address(directory), Shutdown(), Ok)


def jobs(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """List what runs, waits and is over."""
    found = ask(_address(directory), GetJobs(), Jobs).jobs
    if as_json:
        print(json.dumps(msgspec.to_builtins(found)))
        return
    for job in found:
        print(_line(job))


def cancel(
    key: Annotated[str, typer.Argument(help="The job's key, or how it begins.")],
    *,
    directory: Directory = None,
) -> None:
    """Cancel a job for everybody who waits for it."""
    address = _address(directory)
    found = [
        job.key
        for job in ask(address, GetJobs(), Jobs).jobs
        if job.key.startswith(key) and job.state in ("queued", "running")
    ]
    if len(set(found)) != 1:
        msg = f"{len(found)} open jobs begin with {key!r}; expected one, see: stembridge jobs"
        raise InputError(msg)
    ask(address, Cancel(key=found[0]), Ok)


def logs(
    *,
    lines: Annotated[int, typer.Option(min=1, max=2000, help="How many.")] = 100,
    directory: Directory = None,
) -> None:
    """Show the newest log records, also of a server that is gone."""
    place = runtime_directory(directory)
    try:
        for line in ask(find_address(place, ipc=has_ipc()), GetLogs(lines=lines), Logs).lines:
            print(line)
    except ServerError:
        path = log_file(place)
        if not path.is_file():
            raise
        with path.open(encoding="utf-8") as file:
            for line in file.readlines()[-lines:]:
                print(line, end="")


def _address(directory: Path | None) -> Address:
    return find_address(runtime_directory(directory), ipc=has_ipc())


def _line(job: JobInfo) -> str:
    where = f"{job.stage} {job.done}/{job.total}" if job.state == "running" else ""
    if job.state == "queued":
        wait = "" if job.seconds_left is None else f", {job.seconds_left:.0f} s"
        where = f"place {job.position}{wait}"
    prompts = ", ".join(job.prompts)
    return f"{job.key[:12]}  {job.state:9}  {where:18}  {job.duration_s:7.1f} s  {prompts}"
