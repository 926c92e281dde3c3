"""Peers that take more than their share, and strangers without a key: others are served on."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from bridge.connection.client import Client
from bridge.request import Settings
from bridge.service.sessions import MAX_SESSIONS, SESSIONS_OF_CONNECTION, SESSIONS_OF_KEY
from bridge.store import JOBS
from bridge.wire.codec import CHUNK_BYTES, VERSION, decode
from bridge.wire.keys import KEYS_VARIABLE, KeyPair, KeyRing
from bridge.wire.messages import (
    Accepted,
    Attach,
    Audio,
    Bye,
    Cancel,
    Credit,
    Failed,
    Fetch,
    GetJobs,
    Hello,
    Jobs,
    Join,
    Joined,
    Ok,
    Ping,
    Pong,
    Release,
    Result,
    SendAudio,
    Welcome,
)
from bridge.wire.sockets import Address, dealer, tcp_address
from tests.support.peers import Peer, peer, submission
from tests.support.sidecars import PATIENT_S, RATE, Sidecar, noise, sidecar, wait_until

LONG = Settings(steps=1000, solver="midpoint")
CHEAP = Settings(steps=1, reconstruct="null")
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)


@pytest.fixture(scope="module")
def server() -> Iterator[Sidecar]:
    with sidecar("--grace", "2") as running:
        yield running


class Guest(Peer):
    """A peer with a key."""

    def __init__(self, server: Sidecar, keys: KeyRing, pair: KeyPair) -> None:
        address = Address(server.status().endpoints[1], server_key=keys.identity().public)
        self.context = zmq.Context()
        self.control = dealer(self.context, address, pair)
        self.control.connect(address.control)
        self.jobs = dealer(self.context, address, pair)
        self.address = address
        self.session = ""

    def hello(self) -> Welcome:
        self.tell(Hello(protocol=VERSION, client="test"))
        welcome = self.hear(Welcome)
        self.session = welcome.session
        self.jobs.connect(self.address.jobs_endpoint(welcome.jobs_port))
        self.send(Join(session=self.session))
        self.receive(Joined)
        return welcome


@contextlib.contextmanager
def remote_server(tmp_path: Path, *options: str) -> Iterator[tuple[Sidecar, KeyRing]]:
    """A server for holders of keys as well."""
    ring = KeyRing(tmp_path / "keys")
    ring.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEYS_VARIABLE, str(tmp_path / "keys"))
        with sidecar(start=False) as server:
            server.start(
                *("--bind", "tcp://127.0.0.1:*", "--model", str(server.bundle), "--grace", "2"),
                *options,
            )
            yield server, ring


def new_guest(ring: KeyRing, name: str) -> KeyPair:
    """The key of somebody who is let in."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    ring.authorize(name, public)
    return KeyPair(public, secret)


def memory_bytes(server: Sidecar) -> int:
    assert server.process is not None
    return int(psutil.Process(server.process.pid).memory_info().rss)


def is_served(server: Sidecar, seed: int) -> None:
    """Whoever behaves gets stems."""
    with server.client() as client:
        client.separate(noise(1, seed=seed), RATE, ["half"])


# -- messages that do not end ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["control", "jobs"])
@pytest.mark.parametrize("size_bytes", [1000, CHUNK_BYTES])
def test_a_message_that_does_not_end_is_cut_off(
    server: Sidecar, channel: str, size_bytes: int
) -> None:
    is_served(server, 1)
    before = memory_bytes(server)
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(server.directory / f"{channel}.sock"))
        one.sendall(GREETING)
        one.recv(64, socket.MSG_WAITALL)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        one.sendall(b"\x04" + bytes([len(ready)]) + ready)
        frame = b"\x03" + struct.pack(">Q", size_bytes) + bytes(size_bytes)
        with pytest.raises(ConnectionError):
            one.sendall(frame * ((256 << 20) // size_bytes))
    assert memory_bytes(server) - before < 64 << 20
    is_served(server, 2)


@pytest.mark.slow
def test_who_reads_nothing_is_sent_no_more_than_a_little(server: Sidecar) -> None:
    mixture = noise(120, seed=3)
    with peer(server) as one:
        one.hello()
        _upload(one, submission(server, mixture, settings=CHEAP), mixture)
        key = one.receive(Result).key
        before = memory_bytes(server)
        # The transport takes what it can; the rest stays on the disk, however it is asked for.
        one.jobs.setsockopt(zmq.RCVHWM, 1)
        for number in range(2, 40):
            one.send(Attach(request=number, key=key))
            one.send(Fetch(request=number, stem="half"))
            one.send(Credit(request=number, credits=4))
            if number % 2:
                one.send(Release(request=number))
        for number in range(20):
            one.tell(Ping(session=one.session, number=number))
            one.hear(Pong)
        assert memory_bytes(server) - before < 128 << 20
        is_served(server, 4)


def _upload(one: Peer, submit, mixture) -> None:
    data = memoryview(mixture).cast("B")
    one.send(submit)
    allowed = one.receive(SendAudio).credits
    for offset in range(0, len(data), CHUNK_BYTES):
        if allowed == 0:
            allowed = one.receive(Credit).credits
        one.send(Audio(request=submit.request, offset=offset), data[offset : offset + CHUNK_BYTES])
        allowed -= 1


# -- sessions ----------------------------------------------------------------------------------


def test_one_connection_opens_a_few_sessions(server: Sidecar) -> None:
    with peer(server) as one:
        for _ in range(SESSIONS_OF_CONNECTION):
            one.tell(Hello(protocol=VERSION, client="test"))
            one.hear(Welcome)
        one.tell(Hello(protocol=VERSION, client="test"))
        assert "sessions" in one.hear(Failed).message
        is_served(server, 5)


def test_sessions_that_were_left_make_room(server: Sidecar) -> None:
    with peer(server) as one:
        for _ in range(SESSIONS_OF_CONNECTION):
            one.tell(Hello(protocol=VERSION, client="test"))
            first = one.hear(Welcome)

        def opens() -> bool:
            one.tell(Hello(protocol=VERSION, client="test"))
            return isinstance(decode(one.control.recv_multipart())[0], Welcome)

        wait_until(opens)
        one.tell(Ping(session=first.session, number=1))
        one.hear(Pong)


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["control", "jobs"])
def test_a_connection_that_says_nothing_is_closed(server: Sidecar, channel: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(60)
        one.connect(str(server.directory / f"{channel}.sock"))
        while one.recv(100):
            pass


def test_a_job_of_several_is_not_one_s_to_cancel_nor_another_s_to_see(tmp_path: Path) -> None:
    mixture = noise(20, seed=17)
    with remote_server(tmp_path) as (server, ring), contextlib.ExitStack() as stack:
        one, other, third = (
            stack.enter_context(Guest(server, ring, new_guest(ring, name)))
            for name in ("one", "other", "third")
        )
        for each in (one, other, third):
            each.hello()
        _upload(one, submission(server, mixture, settings=LONG), mixture)
        key = one.receive(Accepted).key if one.jobs.poll(0) else ""
        other.send(submission(server, mixture, settings=LONG))
        key = other.receive(Accepted).key or key

        def seen(by: Guest) -> list[str]:
            by.tell(GetJobs())
            return [job.key for job in by.hear(Jobs).jobs]

        assert (seen(one), seen(other), seen(third)) == ([key], [key], [])
        for each in (one, other, third):
            each.tell(Cancel(key=key))
            assert "not yours alone" in each.hear(Failed).message
        other.send(Release(request=1))
        wait_until(lambda: seen(other) == [])
        one.tell(Cancel(key=key))
        assert one.hear(Ok).count == 1


def test_one_key_takes_not_all_seats_and_the_user_gets_in(tmp_path: Path) -> None:
    with remote_server(tmp_path) as (server, ring), contextlib.ExitStack() as stack:
        pair = new_guest(ring, "greedy")
        refused = opened = 0
        for _ in range(SESSIONS_OF_KEY // SESSIONS_OF_CONNECTION + 1):
            guest = stack.enter_context(Guest(server, ring, pair))
            for _ in range(SESSIONS_OF_CONNECTION):
                guest.tell(Hello(protocol=VERSION, client="test"))
                message, _ = decode(guest.control.recv_multipart())
                opened += isinstance(message, Welcome)
                refused += isinstance(message, Failed)
        assert opened == SESSIONS_OF_KEY
        assert refused == SESSIONS_OF_CONNECTION
        assert SESSIONS_OF_KEY < MAX_SESSIONS // 2
        other = stack.enter_context(Guest(server, ring, new_guest(ring, "modest")))
        other.hello()
        is_served(server, 6)


def test_a_session_is_of_use_to_its_key_only(tmp_path: Path) -> None:
    with remote_server(tmp_path) as (server, ring):
        owner, thief = new_guest(ring, "owner"), new_guest(ring, "thief")
        with Guest(server, ring, owner) as one, Guest(server, ring, thief) as other:
            one.hello()
            other.hello()
            other.tell(Ping(session=one.session, number=1))
            assert not other.hear(Pong).known
            other.tell(Bye(session=one.session))
            other.hear(Ok)
            other.tell(Cancel(session=one.session, request=1))
            assert other.hear(Ok).count == 0
            other.send(Join(session=one.session))
            assert "unknown session" in other.receive(Failed).message
            one.tell(Ping(session=one.session, number=2))
            assert one.hear(Pong).known


# -- what one may have open --------------------------------------------------------------------


def test_a_job_counts_until_it_is_released(server: Sidecar) -> None:
    mixture = noise(1, seed=13)
    with peer(server) as one:
        most = one.hello().limits.open_jobs
        assert most is not None
        _upload(one, submission(server, mixture, settings=CHEAP), mixture)
        key = one.receive(Result).key
        for number in range(2, most + 1):
            one.send(Attach(request=number, key=key))
            one.receive(Result)
        one.send(Attach(request=most + 1, key=key))
        assert "not fetched" in one.receive(Failed).message
        one.send(submission(server, mixture, most + 2, settings=LONG))
        assert "not fetched" in one.receive(Failed).message
        one.send(Release(request=2))
        one.send(Attach(request=most + 3, key=key))
        assert one.receive(Result).key == key


def test_a_kept_job_counts_for_its_key_when_its_session_is_over(tmp_path: Path) -> None:
    mixture = noise(1, seed=14)
    with remote_server(tmp_path) as (server, ring):
        pair = new_guest(ring, "tenant")
        with Guest(server, ring, pair) as one:
            most = one.hello().limits.open_jobs
            assert most is not None
            for seed in range(most):
                settings = Settings(steps=1000, solver="midpoint", seed=seed)
                one.send(submission(server, mixture, seed, settings=settings, keep=True))
                one.receive(Accepted)
            one.tell(Bye(session=one.session))
            one.hear(Ok)
        # Those whose audio never came are gone; bring it, and they stay.
        with Guest(server, ring, pair) as one:
            one.hello()
            _upload(one, submission(server, mixture, 0, settings=LONG, keep=True), mixture)
            for seed in range(1, most):
                settings = Settings(steps=1000, solver="midpoint", seed=seed)
                one.send(submission(server, mixture, seed, settings=settings, keep=True))
                one.receive(Accepted)
            wait_until(lambda: server.status().queued + server.status().running == most)
            one.tell(Bye(session=one.session))
            one.hear(Ok)
        with Guest(server, ring, pair) as one:
            one.hello()
            settings = Settings(steps=1000, solver="midpoint", seed=most)
            one.send(submission(server, mixture, 1, settings=settings))
            assert f"allows a client {most}" in one.receive(Failed).message
            one.tell(GetJobs())
            jobs = [job for job in one.hear(Jobs).jobs if job.state in ("queued", "running")]
            assert len(jobs) == most
            for job in jobs:
                one.tell(Cancel(key=job.key))
                assert one.hear(Ok).count == 1
            one.send(submission(server, mixture, 2, settings=CHEAP))
            assert one.receive(Result).request == 2


@pytest.mark.slow
def test_stems_that_nobody_fetches_do_not_fill_the_disk() -> None:
    limit = 2_000_000
    with sidecar("--cache-limit", str(limit)) as server, peer(server) as one:
        one.hello()
        for number in range(20):
            mixture = noise(2, seed=200 + number)
            _upload(one, submission(server, mixture, number, settings=CHEAP), mixture)
            one.receive(Result)
        # The newest of them may be over it until it is read.
        wait_until(lambda: server.status().cache_bytes < 1.5 * limit)
        # Whoever reads its stems at once gets them, however small the cache is.
        is_served(server, 15)
        one.send(Fetch(request=0, stem="half"))
        assert "submit the job again" in one.receive(Failed).message


def test_an_upload_that_stalls_is_taken_over(server: Sidecar) -> None:
    mixture = noise(1, seed=16)
    with peer(server) as one, peer(server) as other, peer(server) as third:
        one.hello()
        one.send(submission(server, mixture))
        one.receive(SendAudio)  # and nothing comes
        other.hello()
        other.send(submission(server, mixture))
        while not other.jobs.poll(100) or not isinstance(
            decode(other.jobs.recv_multipart())[0], SendAudio
        ):
            one.tell(Ping(session=one.session, number=0))
            other.tell(Ping(session=other.session, number=0))
        # Now the other does nothing either, and somebody brings it for another job.
        third.hello()
        _upload(third, submission(server, mixture, settings=CHEAP), mixture)
        waiting = [one, other, third]
        while waiting:
            # All of them go on being there, not only the one that is listened to.
            for each in (one, other, third):
                each.tell(Ping(session=each.session, number=1))
            for each in tuple(waiting):
                if each.jobs.poll(50) and isinstance(decode(each.jobs.recv_multipart())[0], Result):
                    waiting.remove(each)


# -- keys that are revoked ---------------------------------------------------------------------


def test_a_revoked_key_is_out_on_the_job_channel_too(tmp_path: Path) -> None:
    # With a grace time in which a session that is merely silent would not be over.
    with remote_server(tmp_path, "--grace", "600") as (server, ring):
        pair = new_guest(ring, "former")
        with Guest(server, ring, pair) as one:
            one.hello()
            mixture = noise(60, seed=7)
            _upload(one, submission(server, mixture, settings=LONG, keep=True), mixture)
            wait_until(lambda: server.status().running == 1)
            ring.revoke("former")
            wait_until(lambda: server.status().sessions == 0)
            wait_until(lambda: server.status().running == 0)
            # Not a word in answer, on either channel.
            while one.jobs.poll(300):
                one.jobs.recv_multipart()
            for number in range(2, 5):
                one.send(submission(server, mixture, number))
                one.send(Credit(request=number, credits=1))
            one.tell(Hello(protocol=VERSION, client="test"))
            assert not one.jobs.poll(500)
            assert not one.control.poll(0)
            assert server.status().sessions == 0
            assert not list((server.cache / "records" / JOBS).glob("*"))


# -- strangers and file descriptors ------------------------------------------------------------


@pytest.mark.slow
def test_strangers_who_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(_limited(tmp_path, 256)))
        with remote_server(tmp_path) as (server, ring), contextlib.ExitStack() as crowd:
            assert server.process is not None
            friend = KeyRing(tmp_path / "friend")
            ring.authorize("friend", friend.create().public)
            endpoint = server.status().endpoints[1]
            host, port = tcp_address(endpoint)
            flooding = threading.Event()

            def flood() -> None:
                ends: list[socket.socket] = []
                while not flooding.is_set():
                    with contextlib.suppress(OSError):
                        one = socket.create_connection((host, int(port)), timeout=1)
                        ends.append(crowd.enter_context(one))
                    if len(ends) > 600:
                        ends.pop(0).close()

            thread = threading.Thread(target=flood)
            thread.start()
            try:
                is_served(server, 8)
                # A friend may have to wait for strangers to be shown out, and does: it tries again.
                with Client.connect(
                    endpoint,
                    "tiny",
                    server_key=ring.identity().public,
                    keys=tmp_path / "friend",
                    connect_timeout_s=PATIENT_S,
                ) as client:
                    client.separate(noise(1, seed=8), RATE, ["half"])
                with socket.create_connection((host, int(port))) as web:
                    web.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    with contextlib.suppress(ConnectionError):
                        assert web.recv(100) == b""
            finally:
                flooding.set()
                thread.join()
            assert server.process.poll() is None
            is_served(server, 9)
    assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)


def _limited(folder: Path, descriptors: int) -> Path:
    """A Python that may open so many files."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nulimit -n {descriptors}\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


def test_without_file_descriptors_the_server_refuses_and_lives() -> None:
    with sidecar() as server, peer(server) as one:
        assert server.process is not None
        is_served(server, 10)
        one.hello()
        process = psutil.Process(server.process.pid)
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + 1, before[1]))
        with contextlib.ExitStack() as crowd:
            for number in range(40):
                one.send(submission(server, noise(1, seed=100 + number), number))
                stranger = crowd.enter_context(socket.socket(socket.AF_UNIX))
                stranger.setblocking(False)
                with contextlib.suppress(OSError):
                    stranger.connect(str(server.directory / "control.sock"))
                    stranger.send(GREETING)
            assert "Too many open files" in one.receive(Failed).message
            for number in range(5):
                one.tell(Ping(session=one.session, number=number))
                assert one.hear(Pong).known
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        for number in range(40):
            one.send(Release(request=number))
        is_served(server, 11)
        assert server.process.poll() is None


@pytest.mark.slow
def test_a_worker_that_cannot_be_started_is_tried_again_and_told_of() -> None:
    with sidecar() as server, server.client() as client:
        assert server.process is not None
        handle = client.attach("0" * 64)  # connects, without a job
        wait_until(handle.done)
        process = psutil.Process(server.process.pid)
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        # Room for the audio, but not for the pipes of a process.
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + 2, before[1]))
        job = client.submit(noise(1, seed=12), RATE, ["half"])
        log = server.directory / "server.log"
        wait_until(lambda: "no worker can be started" in log.read_text())
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        wait_until(lambda: "no worker can be started" in " ".join(server.status().problems))
        job.result()
        assert server.status().problems == ()
