"""A server whose folders, threads or disk fail: it goes on where it can, else ends and says why."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from bridge.connection.client import Client
from bridge.connection.local import LocalSidecar, Remote
from bridge.errors import ServerError
from bridge.files import private_directory, take_failure
from bridge.store import Store
from bridge.wire.codec import decode, encode
from bridge.wire.keys import KeyRing
from bridge.wire.messages import Audio, Hello, Join, Joined, Limits, ModelRef, Ping, Pong, Welcome
from bridge.wire.sockets import Address, find_address
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

# A server one of whose threads fails as soon as there is a file of that name.
FAULTY = """
import sys
from pathlib import Path
from bridge.service.control import Control
from bridge.service.relay import Relay
from bridge.service.requests import Requests
from bridge.sidecar import main
from bridge.workers.local import Pool

place, flag = sys.argv[1], Path(sys.argv[2])
owner, name = {
    "control": (Control, "_serve"),
    "jobs": (Requests, "tick"),
    "relay": (Relay, "_move"),
    "workers": (Pool, "_watch"),
}[place]
whole = getattr(owner, name)

def faulty(*arguments):
    if flag.exists():
        raise OSError(5, "a fault for the test")
    return whole(*arguments)

setattr(owner, name, faulty)
sys.exit(main(sys.argv[3:]))
"""


def one_quick(*values: str) -> list[Any]:
    """Return parameters of which only the first is tried in the quick tests."""
    return [values[0], *(pytest.param(value, marks=pytest.mark.slow) for value in values[1:])]


def start_faulty(server: Sidecar, place: str) -> tuple[subprocess.Popen[bytes], Path]:
    flag = server.root / "fail"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", FAULTY, place, str(flag)),
            *("--directory", str(server.directory), "--cache", str(server.cache)),
            *("--model", str(server.bundle)),
        ],
        stderr=subprocess.DEVNULL,
    )
    wait_until((server.directory / "server.json").exists)
    return process, flag


@pytest.mark.slow
@pytest.mark.parametrize("place", one_quick("jobs", "control", "relay", "workers"))
def test_a_thread_that_fails_ends_the_server_and_the_next_says_why(place: str) -> None:
    mixture = noise(20, seed=1)
    with sidecar(start=False) as server:
        process, flag = start_faulty(server, place)
        with server.client() as client:
            client.separate(noise(1), RATE, ["half"])
            handle = client.submit(mixture, RATE, ["half"], steps=300)
            wait_until(lambda: handle.state == "running")
            flag.touch()
            assert process.wait() != 0
            # Whoever waited gets its stems from the next, which the client has started.
            assert handle.result().report.steps == 300
            assert any("a fault for the test" in one for one in server.status().problems)


@pytest.mark.parametrize("place", one_quick("control", "jobs", "workers"))
def test_the_reason_is_in_the_error_of_whoever_waits(place: str) -> None:
    with sidecar(start=False) as server:
        process, flag = start_faulty(server, place)
        address = find_address(server.directory, ipc=True)
        with Client(Remote(address), ModelRef("tiny"), connect_timeout_s=1) as client:
            handle = client.submit(noise(20, seed=2), RATE, ["half"], steps=1000)
            wait_until(lambda: handle.state == "running")
            flag.touch()
            assert process.wait() != 0
            with pytest.raises(ServerError, match="a fault for the test"):
                handle.result()
        assert "a fault for the test" in take_failure(server.directory, started=True)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["idle", "running"])
def test_a_cache_that_is_removed_is_made_again(when: str) -> None:
    mixture = noise(20, seed=3)
    with sidecar() as server, server.client() as client:
        client.separate(noise(1, seed=4), RATE, ["half"])
        if when == "running":
            handle = client.submit(mixture, RATE, ["half"], steps=200)
            wait_until(lambda: handle.progress and handle.progress.stage == "solve")
        server.cache.rename(server.root / "removed")
        if when == "idle":
            handle = client.submit(mixture, RATE, ["half"], steps=2)
        handle.result()
        client.separate(noise(1, seed=4), RATE, ["half"])
        for folder in (server.cache, server.cache / "objects", server.cache / "incoming"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_server_whose_folder_is_removed_leaves() -> None:
    with sidecar() as server:
        assert server.process is not None
        shutil.rmtree(server.directory)
        assert server.process.wait() != 0


def test_why_a_sidecar_cannot_start_is_said_at_once() -> None:
    with sidecar(start=False) as server:
        server.cache.write_text("not a folder")
        with (
            server.client(connect_timeout_s=60) as client,
            pytest.raises(ServerError, match=r"could not be started.*cache"),
        ):
            client.submit(noise(1), RATE, ["half"]).result()
        server.cache.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if sys.platform != "linux":
        pytest.skip("only Linux makes a file system in memory")
    place = tmp_path / "small"
    place.mkdir()
    options = "size=6m,mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "stembridge", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a file system takes more rights: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_makes_room_by_what_was_used_longest_ago(small_disk: Path) -> None:
    pinned: set[str] = set()
    store = Store(small_disk, pinned=lambda: pinned)
    names = [store.put(bytes([number]) * 1_000_000) for number in range(4)]
    pinned.add(names[0])
    names += [store.put(bytes([number]) * 1_000_000) for number in range(4, 12)]
    assert store.path(names[0]).exists()
    assert not store.path(names[1]).exists()
    assert store.path(names[-1]).exists()
    with pytest.raises(ServerError, match="disk is full"):
        store.put(bytes(6_000_000))
    assert store.path(names[0]).exists()


@pytest.mark.slow
def test_jobs_go_on_when_the_disk_is_full_of_old_entries(small_disk: Path) -> None:
    with sidecar(start=False) as server:
        server.cache.symlink_to(small_disk)
        server.start()
        with server.client() as client:
            for seed in range(12):
                client.separate(noise(4, seed=seed), RATE, ["half"], steps=1)
        server.stop()


def test_folders_are_private_whatever_the_umask() -> None:
    # Not below tmp_path: a socket's path may have some hundred bytes, and that can be longer.
    with tempfile.TemporaryDirectory(prefix="stembridge-test-") as folder:
        _check_private_folders(Path(folder))


def _check_private_folders(under: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; os.umask(int(sys.argv[2], 8));"
        "from bridge.wire.keys import KeyRing; from bridge.store import Store;"
        "from bridge.files import runtime_directory;"
        "root = Path(sys.argv[1]); ring = KeyRing(root / 'config' / 'keys'); ring.create();"
        "ring.authorize('one', ring.identity().public); Store(root / 'cache' / 'ours').put(b'x');"
        "runtime_directory(root / 'run' / 'ours')"
    )
    for umask in ("000", "022", "077", "277"):
        root = under / umask
        root.mkdir()
        subprocess.run([sys.executable, "-c", script, str(root), umask], check=True)
        folders = [path for path in root.rglob("*") if path.is_dir()]
        assert len(folders) > 8
        for folder in folders:
            assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0, folder
        for folder in (root / "config", root / "config" / "keys", root / "cache" / "ours"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_folders_that_others_could_write_are_refused(tmp_path: Path, mode: int) -> None:
    ring = KeyRing(tmp_path / "keys")
    public = ring.create().public
    ring.authorize("one", public)
    assert ring.allows(public)
    for folder in (tmp_path / "keys", tmp_path / "keys" / "authorized"):
        folder.chmod(mode)
        assert not ring.allows(public)
        with pytest.raises(ServerError, match="chmod 700"):
            ring.authorized()
        folder.chmod(0o700)
        assert ring.allows(public)
    Store(tmp_path / "cache")
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(ServerError, match="chmod 700"):
        Store(tmp_path / "cache")


def test_a_folder_of_somebody_else_is_refused_and_an_open_one_closed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    private_directory(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700
    (tmp_path / "foreign").mkdir()
    if os.getuid() != 0:
        pytest.skip("only root gives folders away")
    os.chown(tmp_path / "foreign", 12345, 12345)
    with pytest.raises(ServerError, match="another user"):
        private_directory(tmp_path / "foreign")


@pytest.mark.slow
@pytest.mark.parametrize("kind", one_quick("curve", "null", "plain"))
def test_whoever_takes_the_port_of_a_dead_server_gets_nothing(kind: str) -> None:
    with sidecar("--no-ipc") as server:
        server.kill()
        place = LocalSidecar(server.directory, server.cache, ipc=False)
        address = place.address()
        got: list[bytes] = []
        ending = threading.Event()
        thread = threading.Thread(target=_impostor, args=(address, kind, got, ending))
        thread.start()

        class NoStart(LocalSidecar):
            def missing(self) -> None:
                """Leave it: the port is taken."""

        patient = NoStart(server.directory, server.cache, ipc=False)
        with (
            Client(patient, place.reference(server.bundle), connect_timeout_s=3) as client,
            pytest.raises(ServerError, match="no server answers"),
        ):
            client.separate(noise(1), RATE, ["half"])
        ending.set()
        thread.join()
        assert got == []


def _impostor(address: Address, kind: str, got: list[bytes], ending: threading.Event) -> None:
    """Answer as the server would, to whoever comes; knows all but the server's secret key."""
    with zmq.Context() as context:
        gate = context.socket(zmq.REP)
        gate.bind("inproc://zeromq.zap.01")
        ends = []
        for endpoint in (address.control, str(address.jobs)):
            end = context.socket(zmq.ROUTER)
            end.linger = 0
            if kind == "plain":
                end.plain_server = True
            elif kind == "curve":
                end.curve_server = True
                end.curve_secretkey = zmq.curve_keypair()[1]
            end.bind(endpoint)
            ends.append(end)
        poller = zmq.Poller()
        for one in (gate, *ends):
            poller.register(one, zmq.POLLIN)
        while not ending.is_set():
            for one, _ in poller.poll(50):
                frames = one.recv_multipart()
                if one is gate:
                    got.append(frames[-1])
                    gate.send_multipart([*frames[:2], b"200", b"OK", b"x", b""])
                    continue
                got.append(frames[1])
                _answer(one, frames)
        gate.close()
        for end in ends:
            end.close()


def _answer(one: zmq.Socket[bytes], frames: list[bytes]) -> None:
    message, _ = decode(frames[1:])
    answers = {
        Hello: Welcome(
            protocol="1.0",
            server="x",
            server_id="x",
            session="x",
            jobs_port=None,
            settings=(),
            capabilities=(),
            models=(),
            limits=Limits(),
            heartbeat_s=0.5,
            grace_s=10.0,
        ),
        Ping: Pong(number=0, known=True),
        Join: Joined(server_id="x"),
    }
    if type(message) in answers:
        one.send_multipart([frames[0], *encode(answers[type(message)])])
    assert not isinstance(message, Audio)
