"""Who gets in: private directories, keys on loopback, CURVE keys, and nobody else."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import zmq

from bridge.bundles.bundle import ModelIndex, register
from bridge.connection.client import Client
from bridge.connection.local import LocalSidecar
from bridge.errors import InputError, ModelError, ServerError, StembridgeError
from bridge.files import runtime_directory
from bridge.wire.codec import VERSION, decode, encode
from bridge.wire.keys import KEYS_VARIABLE, KeyPair, KeyRing
from bridge.wire.messages import Failed, GetLogs, Hello, ModelRef, Shutdown
from bridge.wire.sockets import Address, dealer, is_loopback, tcp_address
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

HELLO = Hello(protocol=VERSION, client="test")


@dataclass
class Remote:
    """A server that others reach by key."""

    server: Sidecar
    ring: KeyRing
    endpoint: str
    model: str

    @property
    def address(self) -> Address:
        return Address(self.endpoint, server_key=self.ring.identity().public)


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    keys = tmp_path_factory.mktemp("keys")
    ring = KeyRing(keys)
    ring.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEYS_VARIABLE, str(keys))
        with sidecar(start=False) as server:
            server.start("--bind", "tcp://127.0.0.1:*", "--model", str(server.bundle))
            endpoint = server.status().endpoints[1]
            yield Remote(server, ring, endpoint, "tiny")


def guest(remote: Remote, tmp_path: Path, name: str) -> Path:
    """Keys of somebody who is let in."""
    pair = KeyRing(tmp_path / name).create()
    remote.ring.authorize(name, pair.public)
    return tmp_path / name


def say(one: zmq.Socket[bytes], *frames: bytes) -> None:
    """Send without waiting: who was refused already has nobody left to send to."""
    with contextlib.suppress(zmq.Again):
        one.send_multipart(frames, zmq.DONTWAIT)


def answers(address: Address, identity: KeyPair | None, patience_ms: int = 700) -> bool:
    """Whether a server says anything to a greeting."""
    with zmq.Context() as context, dealer(context, address, identity) as one:
        one.connect(address.control)
        say(one, *encode(HELLO))
        return bool(one.poll(patience_ms))


@pytest.mark.slow
def test_an_authorised_key_gets_stems(remote: Remote, tmp_path: Path) -> None:
    keys = guest(remote, tmp_path, "studio")
    mixture = noise(40)  # more than a chunk of the largest size, also when encrypted
    public = remote.ring.identity().public
    with Client.connect(remote.endpoint, remote.model, server_key=public, keys=keys) as client:
        result = client.separate(mixture, RATE, ["half"])
    with remote.server.client() as local:
        assert (
            result.residual.tobytes() == local.separate(mixture, RATE, ["half"]).residual.tobytes()
        )


@pytest.mark.slow
def test_strangers_hear_nothing(remote: Remote, tmp_path: Path) -> None:
    stranger = KeyRing(tmp_path / "stranger").create()
    good = KeyRing(guest(remote, tmp_path, "friend")).identity()
    assert answers(remote.address, good, 5000)
    assert not answers(remote.address, stranger)
    assert not answers(Address(remote.endpoint), None)
    assert not answers(Address(remote.endpoint, token="guess"), None)
    other = Address(remote.endpoint, server_key=stranger.public)
    assert not answers(other, good)


def test_a_replayed_handshake_is_worth_nothing(remote: Remote, tmp_path: Path) -> None:
    good = KeyRing(guest(remote, tmp_path, "victim")).identity()
    host, port = tcp_address(remote.endpoint)
    spoken, heard = bytearray(), bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends = threading.Thread(target=_relay, args=(listener, host, int(port), spoken, heard))
        ends.start()
        proxy = Address(
            f"tcp://127.0.0.1:{listener.getsockname()[1]}", server_key=remote.address.server_key
        )
        assert answers(proxy, good, 5000)
        ends.join()
    sessions = remote.server.status().sessions
    with socket.create_connection((host, int(port)), timeout=0.7) as again:
        again.sendall(bytes(spoken))
        answer = bytearray()
        try:
            while data := again.recv(65536):
                answer += data
        except OSError:
            pass
    # The greeting and the answer to the first command of a handshake, which anybody may get;
    # neither the end of the handshake nor anything that a client said in it.
    assert len(answer) < len(heard)
    assert len(answer) <= 64 + 170
    assert remote.server.status().sessions == sessions


def _relay(
    listener: socket.socket, host: str, port: int, spoken: bytearray, heard: bytearray
) -> None:
    """Pass bytes between a client and the server, and remember them."""
    client, _ = listener.accept()
    with client, socket.create_connection((host, port)) as server:

        def pump(source: socket.socket, target: socket.socket, memory: bytearray) -> None:
            try:
                while data := source.recv(65536):
                    memory += data
                    target.sendall(data)
            except OSError:
                pass
            finally:
                for end in (source, target):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

        back = threading.Thread(target=pump, args=(server, client, heard))
        back.start()
        pump(client, server, spoken)
        back.join()


@pytest.mark.slow
def test_a_revoked_key_is_out_at_once(remote: Remote, tmp_path: Path) -> None:
    keys = guest(remote, tmp_path, "former")
    public = remote.ring.identity().public
    with Client.connect(
        remote.endpoint, remote.model, server_key=public, keys=keys, connect_timeout_s=1
    ) as client:
        client.separate(noise(1), RATE, ["half"])
        remote.ring.revoke("former")
        with pytest.raises(StembridgeError):
            client.separate(noise(60, seed=3), RATE, ["half"], steps=1000)
    wait_until(lambda: remote.server.status().running == 0)
    with pytest.raises(InputError, match="no key named"):
        remote.ring.revoke("former")


@pytest.mark.parametrize("message", [GetLogs(), Shutdown()])
def test_guests_do_not_manage_the_server(
    remote: Remote, tmp_path: Path, message: GetLogs | Shutdown
) -> None:
    identity = KeyRing(guest(remote, tmp_path, f"guest-{type(message).__name__}")).identity()
    with zmq.Context() as context, dealer(context, remote.address, identity) as one:
        one.connect(remote.endpoint)
        one.send_multipart(encode(message))
        assert one.poll(5000)
        answer, _ = decode(one.recv_multipart())
    assert isinstance(answer, Failed)
    assert answer.code == "protocol"


def test_strangers_cost_no_memory(remote: Remote, tmp_path: Path) -> None:
    stranger = KeyRing(tmp_path / "crowd").create()
    before = remote.server.status()
    with zmq.Context() as context:
        crowd = [dealer(context, remote.address, stranger) for _ in range(200)]
        for one in crowd:
            one.connect(remote.endpoint)
            say(one, bytes(1 << 20))
        wait_until(
            lambda: answers(remote.address, KeyRing(guest(remote, tmp_path, "x")).identity(), 5000)
        )
        after = remote.server.status()
        for one in crowd:
            one.close()
    assert after.sessions <= before.sessions + 1
    assert after.memory_bytes - before.memory_bytes < 32 << 20


def test_the_network_is_not_served_without_keys(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "none"))
    with sidecar(start=False) as server:
        server.directory.mkdir(mode=0o700, exist_ok=True)
        from bridge.service.server import Server, ServerConfig

        config = ServerConfig(server.directory, server.cache, binds=("tcp://0.0.0.0:*",))
        with pytest.raises(InputError, match="keys new"):
            Server(config)


def test_without_bind_no_port_is_open() -> None:
    with sidecar() as server, server.client() as client:
        client.separate(noise(1), RATE, ["half"])
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        for each in (process, *process.children(recursive=True)):
            assert each.net_connections("inet") == []


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Give a folder whose path leaves room for a socket's name, as pytest's may not."""
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        yield Path(folder).resolve()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"STEMBRIDGE_RUNTIME_DIR": "own", "XDG_RUNTIME_DIR": "session"}, "own"),
        ({"XDG_RUNTIME_DIR": "session"}, "session/stembridge"),
        ({"XDG_RUNTIME_DIR": "gone"}, f"tmp/stembridge-{os.getuid()}"),
        ({}, f"tmp/stembridge-{os.getuid()}"),
    ],
)
def test_sockets_lie_where_the_document_says(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("tmp", "session"):
        (short_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(short_path / "tmp"))
    for name in ("STEMBRIDGE_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(short_path / value))
    assert runtime_directory() == short_path / expected
    assert stat.S_IMODE((short_path / expected).stat().st_mode) == 0o700


@pytest.mark.slow
def test_without_ipc_keys_in_the_private_folder_stand_in() -> None:
    with sidecar("--no-ipc") as server:
        place = LocalSidecar(server.directory, server.cache, ipc=False)
        assert place.address().token
        mode = (server.directory / "server.json").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        with Client(place, place.reference(server.bundle)) as client:
            client.separate(noise(1), RATE, ["half"])
        assert not answers(Address(place.address().control), None)
        own, other = place.address(), KeyRing(server.root / "other").create()
        assert answers(own, None, 5000)
        assert not answers(Address(own.control, token=other.secret), None)
        assert not answers(Address(own.control, None, other.secret, own.server_key), None)
        assert not answers(Address(own.control, None, own.token, other.public), None)


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)
    with pytest.raises(ServerError, match="chmod 700"):
        runtime_directory(open_to_all)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ServerError, match="not a directory of yours"):
        runtime_directory(tmp_path / "link")
    with pytest.raises(ServerError, match="too long"):
        runtime_directory(tmp_path / ("x" * 100))


def test_models_are_registered_by_note_and_checksum_only(tmp_path: Path) -> None:
    with sidecar(start=False) as server:
        reference = register(tmp_path / "notes", server.bundle)
        model_index = ModelIndex(tmp_path / "notes")
        assert model_index.find(reference)[0] == server.bundle.resolve()
        with pytest.raises(ModelError, match="unknown model"):
            model_index.find(ModelRef(str(server.bundle)))
        with pytest.raises(ModelError, match="checksum"):
            model_index.find(ModelRef("tiny", "0" * 64))
        # A note that leads elsewhere counts for nothing.
        (tmp_path / "notes" / ("1" * 64)).write_text(str(server.bundle))
        with pytest.raises(ModelError, match="checksum"):
            model_index.find(ModelRef("tiny", "1" * 64))


def test_keys_on_disk_are_private_and_checked(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    with pytest.raises(InputError, match="keys new"):
        ring.identity()
    pair = ring.create()
    assert ring.identity() == pair
    assert stat.S_IMODE((tmp_path / "keys" / "identity.json").stat().st_mode) == 0o600
    with pytest.raises(InputError, match="already"):
        ring.create()
    with pytest.raises(InputError, match="40 characters"):
        ring.authorize("friend", "short")
    with pytest.raises(InputError, match="letters"):
        ring.authorize("../identity.json", pair.public)
    ring.authorize("friend", pair.public)
    ring.authorize("friend", pair.public)
    with pytest.raises(InputError, match="another key"):
        ring.authorize("friend", "x" * 40)
    assert ring.allows(pair.public)
    ring.revoke("friend")
    assert not ring.allows(pair.public)


@pytest.mark.parametrize("endpoint", ["tcp://*:1", "tcp://a:0", "ipc:///x", "tcp://a", "tcp://a:b"])
def test_endpoints_that_are_none(endpoint: str) -> None:
    if endpoint == "tcp://*:1":
        assert tcp_address(endpoint) == ("*", "1")
    else:
        with pytest.raises(InputError, match="expected tcp"):
            tcp_address(endpoint)


def test_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("[::1]")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("*")
    assert not is_loopback("example.org")
