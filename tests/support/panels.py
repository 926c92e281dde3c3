"""A panel in a process of its own, asked as a browser or a stranger would ask it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.sidecars import wait_until

PROGRAM = "import sys; from plugin_host.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Answer:
    """What came back for a request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RunningPanel:
    """The command, its address, and the folders that its sidecar, stores and settings are in."""

    def __init__(self, root: Path, arguments: Sequence[str | Path]) -> None:
        self.root = root
        self.environment = {
            **os.environ,
            "STEMBRIDGE_RUNTIME_DIR": str(root / "run"),
            "STEMBRIDGE_CACHE_DIR": str(root / "cache"),
            "XDG_DATA_HOME": str(root / "data"),
            "XDG_CONFIG_HOME": str(root / "config"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.process = self.start("panel", "--no-browser", *arguments)
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        found = re.search(r"http://\S+", first)
        assert found, first + self.process.stderr.read()
        self.address = found.group()

    @property
    def port(self) -> int:
        port = urlsplit(self.address).port
        assert port is not None
        return port

    @property
    def token(self) -> str:
        return urlsplit(self.address).path.strip("/")

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run another command in the same environment to its end."""
        process = self.start(*arguments)
        out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        target: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request, POST if it has a body.

        `path` is behind the secret; `target` is sent instead of both, and `headers` go over the
        usual ones.
        """
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(connection):
            connection.putrequest(
                method or ("GET" if body is None else "POST"),
                f"/{self.token}/{path}" if target is None else target,
                skip_host=True,
                skip_accept_encoding=True,
            )
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(None if body is None else content)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())

    def do(self, path: str, body: Any = None) -> Any:
        """Ask for something that is granted."""
        answer = self.ask(path, {} if body is None else body)
        assert answer.status == 200, answer.body
        return answer.json

    def states(self) -> Iterator[dict[str, Any]]:
        """What the panel shows now, and after every change, as a page gets it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(connection):
            connection.request("GET", f"/{self.token}/events")
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    def state(self) -> dict[str, Any]:
        """What the panel shows now."""
        return next(self.states())

    def take(self) -> dict[str, Any]:
        """The take that is looked at."""
        state = self.state()
        found: dict[str, Any] = next(t for t in state["takes"] if t["id"] == state["current"])
        return found

    def finished(self) -> dict[str, Any]:
        """The take that is looked at, once it is over."""
        wait_until(lambda: self.take()["state"] not in ("queued", "running"))
        return self.take()

    def sidecar_pid(self) -> int | None:
        """The process of the sidecar, or None while there is none."""
        told = self.run("status", "--json")
        return int(json.loads(told.stdout)["pid"]) if told.returncode == 0 else None

    def close(self) -> None:
        """End the panel as Ctrl-C does, and its sidecar."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate()
        self.run("stop")
        assert "Traceback" not in err, err

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start another command in the same environment."""
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextlib.contextmanager
def running_panel(*arguments: str | Path) -> Iterator[RunningPanel]:
    """A panel, until the block ends."""
    # A socket's address is short, so the folder of tests will not do.
    with tempfile.TemporaryDirectory(prefix="sb", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        root.chmod(0o700)
        (root / "run").mkdir(mode=0o700)
        panel = RunningPanel(root, arguments)
        try:
            yield panel
        finally:
            panel.close()
