"""What a server does with peers that are wrong, slow, many or gone."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import strategies as st

from bridge.connection.connection import ask
from bridge.errors import Cancelled, InputError, ProtocolError
from bridge.request import Prompt, Settings, Span
from bridge.wire.codec import CHUNK_BYTES, MAX_FRAME_BYTES, MAX_HEADER_BYTES, encode
from bridge.wire.messages import (
    WINDOW_CHUNKS,
    Audio,
    Bye,
    Cancel,
    Credit,
    Failed,
    Fetch,
    Hello,
    JobProgress,
    Join,
    Joined,
    Message,
    Ok,
    Partial,
    Ping,
    Pong,
    Release,
    Result,
    SendAudio,
    Shutdown,
    Stem,
    Welcome,
)
from bridge.wire.sockets import private_address
from tests.support.peers import peer, submission
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

LONG = Settings(steps=1000, solver="midpoint")


@pytest.fixture(scope="module")
def server() -> Iterator[Sidecar]:
    with sidecar("--grace", "4") as running:
        yield running


def memory_bytes(server: Sidecar) -> int:
    assert server.process is not None
    return int(psutil.Process(server.process.pid).memory_info().rss)


def upload(one, submit, mixture: np.ndarray) -> None:
    """Send a mixture as credits allow."""
    data = memoryview(mixture).cast("B")
    one.send(submit)
    allowed = one.receive(SendAudio).credits
    for offset in range(0, len(data), CHUNK_BYTES):
        if allowed == 0:
            allowed = one.receive(Credit).credits
        one.send(Audio(request=submit.request, offset=offset), data[offset : offset + CHUNK_BYTES])
        allowed -= 1


def test_nothing_happens_before_joining(server: Sidecar) -> None:
    with peer(server) as one:
        one.send(submission(server, noise(1)))
        assert one.receive(Failed).code == "protocol"
        one.send(Join(session="made up"))
        assert "hello" in one.receive(Failed).message


def test_another_major_version_is_refused(server: Sidecar) -> None:
    with peer(server) as one:
        one.tell(Hello(protocol="2.0", client="test"))
        assert "protocol 2.0" in one.hear(Failed).message
        one.tell(Hello(protocol="1.7", client="test"))
        one.hear(Welcome)


def test_messages_on_the_wrong_channel_are_refused(server: Sidecar) -> None:
    with peer(server) as one:
        one.hello()
        one.send(Ping(session=one.session, number=1))
        assert "job channel" in one.receive(Failed).message
        one.tell(Release(request=1))
        assert "control channel" in one.hear(Failed).message


# Not without credit: how many there are depends on the disk, which gives them back; see
# `test_transfer`.
@pytest.mark.parametrize("wrong", ["offset", "size", "small", "beyond"])
def test_chunks_out_of_order_end_the_request(server: Sidecar, wrong: str) -> None:
    mixture = np.zeros((2, 160 * RATE), np.float32)
    assert mixture.nbytes > MAX_FRAME_BYTES * WINDOW_CHUNKS
    asked = submission(server, mixture)  # before the session, which hashing may outlast
    with peer(server) as one:
        one.hello()
        one.send(asked)
        granted = one.receive(SendAudio).credits
        if wrong == "offset":
            one.send(Audio(request=1, offset=CHUNK_BYTES), bytes(CHUNK_BYTES))
        elif wrong == "size":
            one.send(Audio(request=1, offset=0), bytes(MAX_FRAME_BYTES))
            one.send(Audio(request=1, offset=4), bytes(4))
        elif wrong == "small":
            one.send(Audio(request=1, offset=0), bytes(4))
        else:
            one.send(Audio(request=1, offset=0), bytes(MAX_FRAME_BYTES))
            allowed = granted - 1
            for offset in range(MAX_FRAME_BYTES, mixture.nbytes, MAX_FRAME_BYTES):
                if allowed == 0:
                    allowed = one.receive(Credit).credits
                one.send(Audio(request=1, offset=offset), bytes(MAX_FRAME_BYTES))
                allowed -= 1
        failed = one.receive(Failed)
        assert (failed.code, failed.request) == ("protocol", 1)
        one.send(Release(request=1))
        one.tell(Ping(session=one.session, number=9))
        assert one.hear(Pong).known


def test_audio_that_is_not_what_its_checksum_says_is_refused(server: Sidecar) -> None:
    mixture, other = noise(1, seed=20), noise(1, seed=21)
    with peer(server) as one:
        one.hello()
        upload(one, submission(server, mixture), other)
        failed = one.receive(Failed)
        assert failed.code == "bad_input"
        assert "checksum" in failed.message


@pytest.mark.slow
def test_stems_come_only_as_credits_allow_and_from_any_byte(server: Sidecar) -> None:
    mixture = noise(240, seed=22)
    with peer(server) as one:
        one.hello()
        cheap = Settings(steps=1, reconstruct="null")
        upload(one, submission(server, mixture, settings=cheap), mixture)
        result = one.receive(Result)
        assert [stem.name for stem in result.stems] == ["half", "residual"]
        one.send(Fetch(request=1, stem="half", offset=0))
        chunks = []
        for _ in range(4):
            chunks.append(one.receive(Stem).offset)
        assert one.silent()
        one.send(Credit(request=1, credits=2))
        chunks += [one.receive(Stem).offset for _ in range(2)]
        assert one.silent()
        assert chunks == [number * CHUNK_BYTES for number in range(6)]
        one.send(Credit(request=1, credits=1))
        one.receive(Stem)
        one.send(Fetch(request=1, stem="residual", offset=result.stems[1].size_bytes - 4))
        one.send(Credit(request=1, credits=1))
        assert one.receive(Stem).stem == "residual"
        one.send(Fetch(request=1, stem="drums", offset=0))
        assert one.receive(Failed).code == "bad_input"


def test_frames_that_are_too_large_never_arrive(server: Sidecar) -> None:
    before = memory_bytes(server)
    with peer(server) as one:
        one.hello()
        one.jobs.send_multipart([b"x" * (MAX_FRAME_BYTES + 1000)])
        assert one.silent()
    assert server.status().sessions >= 1
    assert memory_bytes(server) - before < 64 << 20


def test_a_thousand_frames_are_no_message(server: Sidecar) -> None:
    with peer(server) as one:
        one.hello()
        one.jobs.send_multipart([b"x"] * 1000)
        assert one.receive(Failed).code == "protocol"


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_messages_do_no_harm(server: Sidecar, count: int) -> None:
    mixture = noise(1, seed=30)
    with server.client() as client:
        expected = client.separate(mixture, RATE, ["half"])
    headers = [
        encode(message)[0]
        for message in (
            submission(server, mixture),
            Fetch(request=1, stem="half", offset=0),
            Credit(request=1, credits=1),
            Release(request=1),
            Join(session="x" * 32),
            Ping(session="y" * 32, number=3),
            Cancel(session="z", request=4),
        )
    ]
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=8,
    )
    bodies = _examples(st.binary(max_size=64) | values.map(msgspec.msgpack.encode), 500)
    dice = random.Random(7)
    before = 0
    with peer(server) as one, server.client() as client:
        one.hello()
        for number in range(count):
            header = bytearray(dice.choice(headers))
            kind = dice.randrange(5)
            if kind == 0:
                frames = [bytes(header[: dice.randrange(len(header))])]
            elif kind == 1:
                header[dice.randrange(len(header))] = dice.randrange(256)
                frames = [bytes(header)]
            elif kind == 2:
                frames = [dice.choice(bodies)]
            elif kind == 3:
                frames = [bytes(header), dice.choice(bodies)]
            else:
                frames = [dice.choice(bodies) for _ in range(dice.randrange(1, 6))]
            socket = one.control if dice.randrange(4) == 0 else one.jobs
            socket.send_multipart(frames)
            while one.jobs.poll(0):
                one.jobs.recv_multipart()
            while one.control.poll(0):
                one.control.recv_multipart()
            if number % (count // 4) == count // 10:
                result = client.separate(mixture, RATE, ["half"])
                assert result.stems["half"].tobytes() == expected.stems["half"].tobytes()
            if number == count // 5:
                before = memory_bytes(server)
        one.tell(Ping(session=one.session, number=11))
        wait_until(lambda: one.hear(Pong).number == 11)
    assert memory_bytes(server) - before < 16 << 20


def _examples(strategy: st.SearchStrategy, count: int) -> list[bytes]:
    """Draw from a strategy outside of a test that hypothesis drives."""
    from hypothesis import HealthCheck, Phase, given, settings

    drawn: list[bytes] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(value: bytes) -> None:
        drawn.append(value)

    draw()
    return drawn


@pytest.mark.slow
def test_a_silent_client_loses_its_jobs_after_the_grace_time(server: Sidecar) -> None:
    mixture = noise(240, seed=40)  # much longer in the making than the grace time
    with peer(server) as one:
        one.hello()
        upload(one, submission(server, mixture, settings=LONG), mixture)
        wait_until(lambda: "running" in server.jobs().values())
        key = next(key for key, state in server.jobs().items() if state == "running")
        wait_until(lambda: server.jobs()[key] == "cancelled")


@pytest.mark.slow
def test_a_kept_job_outlives_its_client_and_can_be_attached(server: Sidecar) -> None:
    mixture = noise(20, seed=41)
    client = server.client()
    handle = client.submit(mixture, RATE, ["half"], keep=True, steps=100)
    wait_until(lambda: handle.state == "running")
    client.close()
    with server.client() as other:
        attached = other.attach(str(handle.key))
        assert attached.result().report.steps == 100
        again = other.attach(str(handle.key))
        assert again.result().stems["half"].tobytes() == attached.result().stems["half"].tobytes()
        with pytest.raises(InputError, match="knows no job"):
            other.attach("0" * 64).result()


def test_who_asks_for_a_job_that_is_done_does_not_disturb_who_fetches_from_it(
    server: Sidecar,
) -> None:
    mixture = noise(1, seed=42)
    with peer(server) as one, server.client() as other:
        one.hello()
        upload(one, submission(server, mixture), mixture)
        result = one.receive(Result)
        for _ in range(3):
            assert other.attach(result.key).result().report == result.report
        assert one.silent()
        one.send(Fetch(request=1, stem="half", offset=0))
        assert one.receive(Stem).offset == 0


def test_bye_ends_a_session_at_once(server: Sidecar) -> None:
    with peer(server) as one:
        one.hello()
        one.tell(Bye(session=one.session))
        one.hear(Ok)
        one.tell(Ping(session=one.session, number=1))
        assert not one.hear(Pong).known


@pytest.mark.parametrize("channel", ["control", "jobs"])
def test_what_is_no_message_is_answered_and_the_connection_goes_on(
    server: Sidecar, channel: str
) -> None:
    with peer(server) as one:
        one.hello()
        socket = one.control if channel == "control" else one.jobs
        for frames in (
            [msgspec.msgpack.encode({"type": "from-the-future"})],
            [bytes(MAX_HEADER_BYTES + 1)],
            [encode(Ping(session=one.session, number=1))[0], bytes(4)],
        ):
            socket.send_multipart(frames)
            failed = one.hear(Failed) if channel == "control" else one.receive(Failed)
            assert (failed.code, failed.request) == ("protocol", None)
        one.tell(Ping(session=one.session, number=2))
        assert one.hear(Pong).known


def test_a_join_drops_the_requests_that_it_does_not_name(server: Sidecar) -> None:
    mixture = noise(20, seed=61)
    with peer(server) as one:
        one.hello()
        upload(one, submission(server, mixture, settings=LONG), mixture)
        key = wait_until(
            lambda: next((k for k, state in server.jobs().items() if state == "running"), None)
        )
        one.send(Join(session=one.session, requests=(1,)))
        one.receive(Joined)
        assert server.jobs()[key] == "running"
        one.send(Join(session=one.session))
        one.receive(Joined)
        wait_until(lambda: server.jobs()[key] == "cancelled")


def test_a_job_that_is_asked_for_while_it_ends_begins_anew(server: Sidecar) -> None:
    mixture = noise(10, seed=62)
    with server.client() as client:
        first = client.submit(mixture, RATE, ["half"], steps=150)
        wait_until(lambda: first.state == "running")
        first.cancel()
        second = client.submit(mixture, RATE, ["half"], steps=150)
        with pytest.raises(Cancelled):
            first.result(60)
        assert second.result(120).report.steps == 150
        assert second.key == first.key


def test_previews_come_as_credits_allow_and_stems_in_the_order_of_the_prompts(
    server: Sidecar,
) -> None:
    mixture = noise(30, seed=63)
    with server.client() as client:
        handle = client.submit(mixture, RATE, ["half"], partial=True, window_s=1.0)
        assert len(list(handle)) > WINDOW_CHUNKS
    texts = [Prompt("nothing"), Prompt("everything", name="all"), Prompt("half")]
    asked = submission(server, mixture, partial=True, settings=Settings(window_s=1.0))
    with peer(server) as one:
        one.hello()
        one.send(msgspec.structs.replace(asked, prompts=tuple(texts)))
        previews, progress = 0, [-1]
        while True:
            message = one.receive(Message)
            if isinstance(message, Result):
                break
            if isinstance(message, JobProgress):
                progress.append(message.number)
            previews += isinstance(message, Partial)
        # None was given back, so no more came than there were to begin with.
        assert previews == WINDOW_CHUNKS
        assert progress == sorted(set(progress))
        assert [stem.name for stem in message.stems] == ["nothing", "all", "half", "residual"]
        assert message.report.stems == ("nothing", "all", "half")
        one.send(Fetch(request=1, stem="half"))
        assert one.silent()
        while not isinstance(message, Stem):
            one.send(Credit(request=1, credits=1))
            message = one.receive(Message)
            assert isinstance(message, Partial | Stem)  # the previews that waited, and then it


def test_a_key_is_of_all_that_can_change_stems_and_of_no_more(server: Sidecar) -> None:
    mixture = noise(1, seed=64)
    other = mixture.copy()
    other[1, -1] += 1e-6
    spans = [Span(0.2, 0.5)]
    with server.client() as client, server.client() as stranger:

        def key(audio=mixture, rate=RATE, prompt=None, by=client, **options) -> str:
            handle = by.submit(audio, rate, [prompt or Prompt("half")], **options)
            handle.result(60)
            return str(handle.key)

        first = key()
        assert key(by=stranger, steps=2, solver=None, keep=True, partial=True) == first
        assert key(prompt=Prompt(" half ", "half")) == first
        keys = [
            first,
            key(audio=other),
            key(rate=RATE + 1),
            key(prompt=Prompt("half", "other")),
            key(prompt=Prompt("everything", "half")),
            key(prompt=Prompt("half", spans=spans)),
            key(seed=1),
            key(steps=3),
            key(reconstruct="raw"),
        ]
        assert len(set(keys)) == len(keys)


@pytest.mark.slow
def test_a_slow_reader_does_not_slow_others(server: Sidecar) -> None:
    big, small = noise(60, seed=50), noise(1, seed=51)
    with peer(server) as slow, server.client() as fast:
        slow.hello()
        upload(slow, submission(server, big), big)
        result = slow.receive(Result)
        slow.send(Fetch(request=1, stem=result.stems[0].name, offset=0))
        # It takes nothing from now on, but goes on sending heartbeats.
        began = time.monotonic()
        for number in range(20):
            slow.tell(Ping(session=slow.session, number=number))
            fast.separate(small, RATE, ["half"], seed=number)
        assert time.monotonic() - began < 20
        assert server.status().sessions >= 2
        assert slow.receive(Stem).offset == 0


@pytest.mark.slow
def test_jobs_of_many_clients_take_turns() -> None:
    with sidecar() as server:
        started: list[tuple[int, int]] = []
        clients = [server.client() for _ in range(3)]
        blocker = clients[0].submit(noise(20, seed=60), RATE, ["half"], steps=200)
        wait_until(lambda: blocker.state == "running")
        handles = []
        for index, client in enumerate(clients):
            for number in range(3):
                handle = client.submit(noise(1, seed=100 + 10 * index + number), RATE, ["half"])
                handle.add_done_callback(lambda _, which=(index, number): started.append(which))
                wait_until(lambda handle=handle: handle.position)
                handles.append(handle)
        for handle in handles:
            handle.result()
        blocker.result()
    # The first client had its turn with the long job, so the others come before it.
    assert started == [(1, 0), (2, 0), (0, 0), (1, 1), (2, 1), (0, 1), (1, 2), (2, 2), (0, 2)]


def test_what_a_client_may_not_have_open_is_refused(server: Sidecar) -> None:
    with peer(server) as one:
        welcome = one.hello()
        audio = submission(server, noise(1)).audio
        hours = msgspec.structs.replace(audio, samples=RATE * 60 * 601)
        one.send(msgspec.structs.replace(submission(server, noise(1)), audio=hours))
        failed = one.receive(Failed)
        assert failed.code == "bad_input"
        assert "600" in failed.message
        assert welcome.limits.open_jobs is not None
        for number in range(welcome.limits.open_jobs + 1):
            one.send(submission(server, noise(1), request=number, settings=Settings(seed=number)))
        assert f"{welcome.limits.open_jobs}" in one.receive(Failed).message


def test_a_session_of_another_socket_pair_cannot_be_taken(server: Sidecar) -> None:
    with peer(server) as one, peer(server) as other:
        one.hello()
        other.send(Join(session=hashlib.sha256(b"guess").hexdigest()[:32]))
        assert other.receive(Failed).code == "protocol"


def test_logs_jobs_and_shutdown_over_the_private_socket() -> None:
    with sidecar() as server:
        with server.client() as client:
            client.separate(noise(1), RATE, ["half"])
        status = server.status()
        assert status.provider == "CPUExecutionProvider"
        assert status.loaded == ("tiny",)
        assert status.finished == 1
        assert status.workers == 1
        assert list(server.jobs().values()) == ["done"]
        with pytest.raises(ProtocolError):
            ask(private_address(server.directory), Cancel(), Ok)
        ask(private_address(server.directory), Shutdown(), Ok)
        assert server.process is not None
        assert server.process.wait() == 0
