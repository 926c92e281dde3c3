"""How a server is to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bridge.places import has_ipc
from bridge.service.tasks import EngineOptions
from bridge.wire.descriptors import Limits


@dataclass(frozen=True)
class ServerConfig:
    """How a server runs.

    Attributes
    ----------
    directory : Path
        Its private runtime directory.
    cache : Path
        Its disk store.
    cache_limit_bytes : int
    models : tuple of Path
        Bundles that can be asked for by name beside the installed ones.
    engine : EngineOptions
        Execution providers and memory for the workers.
    idle_timeout_s : float or None
        It leaves after so long without clients and jobs; None stays.
    grace_s : float
        How long a silent client's jobs go on.
    workers : int
        Jobs computed at a time.
    binds : tuple of str
        Endpoints ``tcp://HOST:PORT`` for holders of authorised keys.
    keys : Path or None
        Directory of the keys, if not the user's.
    ipc : bool
        Whether this user's clients come through ipc sockets, or through loopback ports.
    limits : Limits
        Per client.
    ray : str or None
        Address of a Ray cluster that computes instead of processes here.
    metrics : str or None
        ``HOST:PORT`` of the Prometheus endpoint, if one is wanted.
    console : bool
        Whether the log also goes to standard error.
    """

    directory: Path
    cache: Path
    cache_limit_bytes: int = 10 << 30
    models: tuple[Path, ...] = ()
    engine: EngineOptions = field(default_factory=EngineOptions)
    idle_timeout_s: float | None = None
    grace_s: float = 10.0
    workers: int = 1
    binds: tuple[str, ...] = ()
    keys: Path | None = None
    ipc: bool = field(default_factory=has_ipc)
    limits: Limits = field(default_factory=Limits)
    ray: str | None = None
    metrics: str | None = None
    console: bool = False
