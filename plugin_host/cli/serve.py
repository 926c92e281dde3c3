"""``stembridge serve``, the commands that speak with a running server, and who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from bridge.connection.connection import ask
from bridge.errors import InputError, ServerError
from bridge.files import cache_directory, has_ipc, log_file, runtime_directory
from bridge.wire.keys import KeyRing
from bridge.wire.messages import (
    Cancel,
    GetJobs,
    GetLogs,
    GetStatus,
    JobInfo,
    Jobs,
    Limits,
    Logs,
    Ok,
    Shutdown,
    Status,
)
from bridge.wire.sockets import Address, find_address
from plugin_host.cli.console import JsonOption, say, say_json

Directory = Annotated[
    Path | None,
    typer.Option(
        help="Runtime directory of the server, if not the user's own.", show_default=False
    ),
]
_LIMITS = Limits()


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("serve", help="Run the sidecar.")(serve)
    app.command("status", help="Show what the server is doing.")(status)
    app.command("stop", help="Stop the server; kept jobs go on when it starts again.")(stop)
    app.command("jobs", help="List jobs.")(jobs)
    app.command("cancel", help="Cancel a job for everybody who waits for it.")(cancel)
    app.command("logs", help="Show the newest log records.")(logs)
    app.add_typer(key_commands, name="keys")


def serve(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME_OR_DIR", help="Bundle to offer by its name; repeat for more."),
    ] = None,
    idle_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Exit after this long without clients.")
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
    workers: Annotated[int, typer.Option(min=1, help="Jobs to compute at a time.")] = 1,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Compute them in one process, where those of one model share evaluations of its "
            "network on a GPU.",
        ),
    ] = False,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", min=0.01, help="Memory that one job may use.")
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
    cache_limit: Annotated[
        float, typer.Option(metavar="GB", min=0.01, help="Limit of the store.")
    ] = 10.0,
    grace: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.0, help="How long jobs of a lost client go on."),
    ] = 10.0,
    client_jobs: Annotated[
        int, typer.Option(metavar="N", min=0, help="Open jobs of one client; 0 for no limit.")
    ] = _LIMITS.open_jobs or 0,
    client_upload: Annotated[
        float, typer.Option(metavar="GB", min=0.0, help="Size of their audio; 0 for no limit.")
    ] = (_LIMITS.upload_bytes or 0) / 1e9,
    client_minutes: Annotated[
        float, typer.Option(metavar="MIN", min=0.0, help="Length of their audio; 0 for no limit.")
    ] = _LIMITS.audio_minutes or 0.0,
    directory: Directory = None,
) -> None:
    """Run the sidecar in the foreground until it is stopped, or idle for too long."""
    from bridge.bundles.bundle import find_bundle
    from bridge.service.server import ServerConfig
    from bridge.service.server import serve as run
    from bridge.workers.messages import EngineOptions

    if together and ray:
        raise InputError("--together is for workers on this machine; leave it out with --ray")
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
                together=workers if together else 1,
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


def status(*, directory: Directory = None, as_json: JsonOption = False) -> None:
    """Show models, provider, memory, queue and cache of the running server."""
    found = ask(_address(directory), GetStatus(), Status)
    if as_json:
        say_json(msgspec.to_builtins(found))
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
        **({"problems": "; ".join(found.problems)} if found.problems else {}),
    }
    for name, value in lines.items():
        say(f"{name + ':':11}{value}")


def stop(*, directory: Directory = None) -> None:
    """Stop the running server."""
    ask(_address(directory), Shutdown(), Ok)


def jobs(*, directory: Directory = None, as_json: JsonOption = False) -> None:
    """List jobs: running, waiting and finished."""
    found = ask(_address(directory), GetJobs(), Jobs).jobs
    if as_json:
        say_json(msgspec.to_builtins(found))
        return
    for job in found:
        say(_line(job))


def cancel(
    key: Annotated[str, typer.Argument(help="The job's key, or its first characters.")],
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
        raise InputError(
            f"{len(found)} open jobs begin with {key!r}; expected one, see: stembridge jobs"
        )
    ask(address, Cancel(key=found[0]), Ok)


def logs(
    *,
    lines: Annotated[int, typer.Option(min=1, max=2000, help="Number of records.")] = 100,
    directory: Directory = None,
) -> None:
    """Show the newest log records, even if the server is gone."""
    place = runtime_directory(directory)
    try:
        for line in ask(find_address(place, ipc=has_ipc()), GetLogs(lines=lines), Logs).lines:
            say(line)
    except ServerError:
        path = log_file(place)
        if not path.is_file():
            raise
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file.readlines()[-lines:]:
                say(line.rstrip("\n"))


def _address(directory: Path | None) -> Address:
    return find_address(runtime_directory(directory), ipc=has_ipc())


def _line(job: JobInfo) -> str:
    where = f"{job.stage} {job.done}/{job.total}" if job.state == "running" else ""
    if job.state == "queued":
        wait = "" if job.seconds_left is None else f", {job.seconds_left:.0f} s"
        where = f"place {job.position}{wait}"
    prompts = ", ".join(job.prompts)
    return f"{job.key[:12]}  {job.state:9}  {where:18}  {job.duration_s:7.1f} s  {prompts}"


key_commands = typer.Typer(help="Manage the keys for servers on the network.", no_args_is_help=True)


@key_commands.command()
def new() -> None:
    """Make this user's key and print its public half."""
    say(KeyRing().create().public)


# A key is in Z85, whose characters include those that begin an option.
@key_commands.command(context_settings={"ignore_unknown_options": True})
def authorize(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    key: Annotated[str, typer.Argument(help="The public key, as their `keys list` shows it.")],
) -> None:
    """Let the holder of a key use this user's servers."""
    KeyRing().authorize(name, key)


@key_commands.command()
def revoke(name: Annotated[str, typer.Argument(help="As it was authorised.")]) -> None:
    """Revoke a key; a running server notices at once."""
    KeyRing().revoke(name)


@key_commands.command("list")
def list_keys() -> None:
    """Show this user's public key and those that are authorised."""
    ring = KeyRing()
    say(f"own         {ring.identity().public}")
    for name, key in ring.authorized().items():
        say(f"authorised  {key}  {name}")
