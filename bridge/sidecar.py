"""The entry point that clients start in the background: ``python -m bridge.sidecar``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run a server in the background; return 0 also if one is running already.

    With ``--detach`` the started process exits at once and the server goes on detached, so that
    no client is left with a child process to wait for.
    """
    parser = argparse.ArgumentParser(prog="python -m bridge.sidecar")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--idle-timeout", type=float, default=600.0)
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--together", action="store_true", help="in one process, for a GPU")
    parser.add_argument("--cache-limit", type=int, default=10 << 30, help="bytes")
    parser.add_argument("--memory", type=int, help="bytes for a job")
    parser.add_argument("--provider", action="append", help="execution provider")
    parser.add_argument("--fallback", action="store_true", help="compute elsewhere without it")
    parser.add_argument("--ray", help="address of a cluster, or local")
    parser.add_argument("--metrics", help="HOST:PORT")
    parser.add_argument("--no-ipc", action="store_true", help="loopback ports and a password")
    parser.add_argument("--model", type=Path, action="append", default=[], help="bundle")
    parser.add_argument("--bind", action="append", default=[], help="tcp://HOST:PORT")
    parser.add_argument("--detach", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.detach and sys.platform != "win32":
        if os.fork():
            os._exit(0)
        os.setsid()

    from bridge.errors import StembridgeError
    from bridge.files import has_ipc
    from bridge.service.server import AlreadyRunning, ServerConfig, serve
    from bridge.workers.messages import EngineOptions

    config = ServerConfig(
        directory=arguments.directory.absolute(),
        cache=arguments.cache.absolute(),
        cache_limit_bytes=arguments.cache_limit,
        idle_timeout_s=arguments.idle_timeout,
        grace_s=arguments.grace,
        workers=arguments.workers,
        ray=arguments.ray,
        metrics=arguments.metrics,
        engine=EngineOptions(
            providers=None if arguments.provider is None else tuple(arguments.provider),
            memory_bytes=arguments.memory,
            fallback=arguments.fallback,
            together=arguments.workers if arguments.together else 1,
        ),
        models=tuple(path.absolute() for path in arguments.model),
        binds=tuple(arguments.bind),
        ipc=has_ipc() and not arguments.no_ipc,
    )
    try:
        serve(config)
    except AlreadyRunning:
        return 0
    except StembridgeError as error:
        print(f"stembridge: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
