"""A client and a real server: results, progress, cancelling, joining, errors, and ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from msgspec import structs

from bridge.bundles.bundle import load_manifest, write_manifest
from bridge.bundles.manifest import Level
from bridge.connection.client import Client
from bridge.connection.local import Remote
from bridge.engine import Engine
from bridge.errors import Cancelled, InputError, ModelError, ProtocolError, ServerError
from bridge.request import Prompt, Settings, Span
from bridge.separation import Progress, Separation
from bridge.wire.codec import VERSION, decode, encode
from bridge.wire.messages import Hello, Join, Joined, Limits, ModelRef, Ping, Pong, Welcome
from bridge.wire.sockets import Address
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

PROMPTS = [Prompt("half"), Prompt("everything", name="all", spans=[Span(0.5, 1.0, "-")])]
LONG = {"steps": 1000, "solver": "midpoint"}


@pytest.fixture(scope="module")
def server() -> Iterator[Sidecar]:
    with sidecar() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Sidecar) -> Client:
    return server.client()


def same(one: Separation, other: Separation) -> bool:
    return list(one.stems) == list(other.stems) and all(
        a.dtype == np.float32 and a.tobytes() == b.tobytes()
        for a, b in zip(
            [*one.stems.values(), one.residual],
            [*other.stems.values(), other.residual],
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("channels", "rate", "samples"),
    [(1, RATE, 1), (2, 44_100, 100_000), (8, 192_000, 4_000), (2, 48_000, 700_001)],
)
def test_stems_are_those_of_the_engine_to_the_bit(
    server: Sidecar, client: Client, channels: int, rate: int, samples: int
) -> None:
    mixture = noise(samples / rate + 1, channels=channels, rate=rate)[:, :samples]
    prompts = PROMPTS if samples > rate else PROMPTS[:1]
    with Engine(server.bundle) as engine:
        expected = engine.separate(mixture, rate, prompts, seed=5, steps=3)
    result = client.separate(mixture, rate, prompts, seed=5, steps=3)
    assert same(result, expected)
    assert result.report.seed == 5
    assert result.report.model_sha256 == expected.report.model_sha256


def test_progress_tells_every_evaluation_in_order(client: Client) -> None:
    seen: list[Progress] = []
    client.separate(noise(3, seed=1), RATE, ["half"], progress=seen.append, steps=5)
    solve = [item.done for item in seen if item.stage == "solve"]
    assert solve == list(range(solve[-1] + 1))
    stages = list(dict.fromkeys(item.stage for item in seen))
    assert stages[-4:] == ["encode", "solve", "decode", "reconstruct"]


def test_the_same_job_again_comes_from_the_cache(client: Client) -> None:
    mixture = noise(2, seed=2)
    first = client.submit(mixture, RATE, ["half"])
    first.result()
    again = client.submit(mixture, RATE, ["half"], steps=2)  # 2 is the model's default
    assert same(again.result(), first.result())
    assert (first.cached, again.cached) == (False, True)
    assert first.key == again.key


def test_the_same_job_at_the_same_time_is_computed_once(server: Sidecar) -> None:
    mixture = noise(20, seed=3)
    before = server.status().finished
    with server.client() as one, server.client() as other:
        handles = [peer.submit(mixture, RATE, ["half"], steps=50) for peer in (one, other, one)]
        results = [handle.result() for handle in handles]
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    assert server.status().finished == before + 1


def test_cancelling_ends_the_job_and_the_server_goes_on(server: Sidecar, client: Client) -> None:
    handle = client.submit(noise(20, seed=4), RATE, ["half"], **LONG)
    wait_until(lambda: handle.progress and handle.progress.stage == "solve")
    handle.cancel()
    with pytest.raises(Cancelled):
        handle.result(timeout_s=5)
    assert handle.state == "cancelled"
    wait_until(lambda: server.jobs().get(handle.key) == "cancelled")
    client.separate(noise(1, seed=4), RATE, ["half"])


def test_cancelling_a_shared_job_leaves_it_to_the_others(server: Sidecar, client: Client) -> None:
    mixture = noise(20, seed=5)
    with server.client() as other:
        mine = client.submit(mixture, RATE, ["half"], steps=100)
        theirs = other.submit(mixture, RATE, ["half"], steps=100)
        wait_until(lambda: mine.state == "running" and theirs.state == "running")
        mine.cancel()
        with pytest.raises(Cancelled):
            mine.result()
        assert theirs.result().report.steps == 100


def test_what_the_progress_callback_raises_cancels(server: Sidecar, client: Client) -> None:
    def refuse(progress: Progress) -> None:
        if progress.stage == "solve":
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        client.separate(noise(20, seed=6), RATE, ["half"], progress=refuse, **LONG)
    wait_until(lambda: server.status().running == 0)


def test_bad_requests_are_told_as_by_the_engine(client: Client) -> None:
    with pytest.raises(InputError, match="no prompts"):
        client.separate(noise(1), RATE, [])
    with pytest.raises(InputError, match="NaN"):
        client.separate(np.full((1, 10), np.nan, np.float32), RATE, ["half"])
    with pytest.raises(InputError, match="unknown setting"):
        client.separate(noise(1), RATE, ["half"], stpes=3)
    with pytest.raises(InputError, match="tokens"):
        client.separate(noise(1), RATE, ["half half half half half half half"])


def test_an_unknown_model_is_refused_before_anything_starts() -> None:
    with pytest.raises(ModelError, match="unknown model"):
        Client.local("no-such-model")


def test_a_damaged_bundle_is_refused_by_the_server() -> None:
    with sidecar() as server, server.client() as client:
        (server.bundle / "velocity.onnx").write_bytes(b"not a graph")
        with pytest.raises(ModelError, match="damaged"):
            client.separate(noise(1), RATE, ["half"])


def test_many_threads_share_a_client(client: Client) -> None:
    results: dict[int, float] = {}

    def run(seed: int) -> None:
        mixture = noise(1, seed=seed)
        result = client.separate(mixture, RATE, ["everything"])
        results[seed] = float(np.abs(result.stems["everything"] - mixture).max())

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(100, 108)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(100, 108))
    assert max(results.values()) < 0.05


def test_no_progress_for_too_long_is_an_error(client: Client) -> None:
    with pytest.raises(ServerError, match="no progress"):
        client.separate(noise(20, seed=7), RATE, ["half"], timeout_s=0.0, **LONG)


def test_a_closed_client_fails_its_open_jobs(server: Sidecar) -> None:
    client = server.client()
    handle = client.submit(noise(20, seed=8), RATE, ["half"], **LONG)
    wait_until(lambda: handle.state == "running")
    client.close()
    with pytest.raises(ServerError, match="closed"):
        handle.result()
    wait_until(lambda: server.jobs().get(handle.key) == "cancelled")


# Each opens clients, with a server or none, in a process that has few files or threads left.
SHORT_OF = """
import contextlib, os, resource, sys
from pathlib import Path
from bridge.connection.client import Client
from bridge.errors import ServerError, StembridgeError
import filelock, concurrent.futures.thread
import numpy as np

directory, bundle, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
audio = np.full((1, 100), 0.1, np.float32)
held, outcomes = [], set()
if what == "files":
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
else:
    import _thread, threading

    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    threading._start_new_thread = _thread.start_new_thread = refuse
    # Newer Pythons start threads by another function.
    threading._start_joinable_thread = refuse
for free in range(40 if held else 1):
    options = {"directory": directory / "run", "cache": directory / "cache"}
    try:
        with Client.local(bundle, connect_timeout_s=1, **options) as client:
            client.submit(audio, 16_000, ["half"], steps=1).result(timeout_s=60)
        outcomes.add("done")
    except ServerError as error:
        assert "raise the limit" in str(error), error
        outcomes.add("refused")
    if held:
        os.close(held.pop())
print(*sorted(outcomes))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit on Windows")
@pytest.mark.parametrize("running", [True, False])
def test_a_client_that_gets_no_more_files_says_so(running: bool) -> None:
    with sidecar(start=running) as server:
        command = [sys.executable, "-c", SHORT_OF, str(server.root), str(server.bundle), "files"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split() == ["done", "refused"]


def test_a_client_that_gets_no_thread_says_so(server: Sidecar) -> None:
    command = [sys.executable, "-c", SHORT_OF, str(server.root), str(server.bundle), "threads"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "refused\n")


def test_two_clients_that_miss_the_server_start_one() -> None:
    with sidecar(start=False) as server:
        clients = [server.client() for _ in range(4)]
        mixture = noise(1)
        handles = [client.submit(mixture, RATE, ["half"]) for client in clients]
        for handle in handles:
            handle.result(timeout_s=60)
        assert len([pid for pid in server.pids() if pid]) == 2  # the server and its worker


@pytest.mark.slow
def test_an_idle_server_leaves() -> None:
    with sidecar(start=False) as server:
        with server.client(idle_timeout_s=2) as client:
            client.separate(noise(1), RATE, ["half"])
            assert server.pids()
        wait_until(lambda: not server.pids())
        assert not (server.directory / "server.json").exists()


def test_importing_the_client_loads_no_engine() -> None:
    script = """
import sys
import bridge
bridge.Client, bridge.Prompt
heavy = {"onnxruntime", "pedalboard", "torch", "soxr"} & set(sys.modules)
sys.exit(", ".join(heavy) or 0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_cancelling_costs_at_most_one_more_evaluation(server: Sidecar, client: Client) -> None:
    # One window over all, so that an evaluation takes long compared with a message.
    seconds = 150
    handle = client.submit(
        noise(seconds, seed=9, channels=1), RATE, ["half"], steps=1000, window_s=float(seconds)
    )
    news: list[Progress] | None = None
    while not (news and news[-1].stage == "solve" and news[-1].done >= 2):
        news = handle.wait_progress()
        assert news, handle.result()  # the job must not end before it is cancelled
    handle.cancel()
    found = wait_until(
        lambda: [
            job for job in server.job_infos() if job.key == handle.key and job.state == "cancelled"
        ]
    )
    assert found[0].done <= news[-1].done + 1
    assert found[0].total == 1000


def test_a_closed_client_says_so(server: Sidecar) -> None:
    client = server.client()
    client.close()
    for ask in (
        lambda: client.submit(np.zeros((1, 8000), np.float32), 8000, ["drums"]),
        lambda: client.separate(np.zeros((1, 8000), np.float32), 8000, ["drums"]),
        lambda: client.attach("0" * 64),
    ):
        with pytest.raises(InputError, match="the client is closed"):
            ask()


@pytest.fixture(scope="module")
def drafting() -> Iterator[Sidecar]:
    """A server with a model that has a draft of one step."""
    levels = {"draft": Level(solver="euler", steps=1)}
    with sidecar(start=False) as waiting:
        described = structs.replace(load_manifest(waiting.bundle), qualities=levels)
        write_manifest(described, waiting.bundle)
        waiting.start()
        yield waiting


@pytest.mark.slow
def test_a_draft_of_all_of_it_comes_first(drafting: Sidecar) -> None:
    mixture = noise(20, seed=30)
    with drafting.client() as client:
        handle = client.submit(mixture, RATE, ["half"], draft_first=True, steps=50)
        assert handle.draft is not None
        draft = handle.draft.result()
        assert not handle.done()
        final = handle.result()
    assert (draft.report.steps, final.report.steps) == (1, 50)
    assert draft.stems["half"].shape == final.stems["half"].shape == mixture.shape
    with Engine(drafting.bundle) as engine:
        assert same(draft, engine.separate(mixture, RATE, ["half"], quality="draft"))
        assert same(final, engine.separate(mixture, RATE, ["half"], steps=50))


def test_a_draft_that_is_the_final_one_is_computed_once(drafting: Sidecar) -> None:
    before = drafting.status().finished
    with drafting.client() as client:
        handle = client.submit(noise(3, seed=31), RATE, ["half"], draft_first=True, steps=1)
        assert same(handle.result(), handle.draft.result())
        assert handle.key == handle.draft.key
    assert drafting.status().finished == before + 1


def test_cancelling_gives_up_the_draft_too(drafting: Sidecar) -> None:
    with drafting.client() as client:
        # The one before keeps both in the queue.
        busy = client.submit(noise(20, seed=32), RATE, ["half"], **LONG)
        handle = client.submit(noise(3, seed=33), RATE, ["half"], draft_first=True, steps=9)
        handle.cancel()
        for one in (handle, handle.draft):
            with pytest.raises(Cancelled):
                one.result(timeout_s=20)
        busy.cancel()


def test_what_is_wrong_with_a_request_shows_in_both(drafting: Sidecar) -> None:
    with drafting.client() as client:
        handle = client.submit(noise(1), RATE, ["half"], draft_first=True, steps=0)
        for one in (handle, handle.draft):
            with pytest.raises(InputError, match="steps is 0"):
                one.result(timeout_s=20)


@contextlib.contextmanager
def server_of_another_version(folder: Path, **changes: Any) -> Iterator[tuple[Client, list[Any]]]:
    """A client, at a server whose greeting is another; and what is asked of it."""
    welcome = Welcome(
        protocol=VERSION,
        server="another",
        server_id="1",
        session="s",
        jobs_port=None,
        settings=tuple(field.name for field in structs.fields(Settings)),
        capabilities=(),
        models=(),
        limits=Limits(),
        heartbeat_s=1.0,
        grace_s=10.0,
    )
    asked: list[Any] = []
    ends = threading.Event()
    address = Address(f"ipc://{folder}/control", f"ipc://{folder}/jobs")

    def serve() -> None:
        with (
            zmq.Context() as context,
            context.socket(zmq.ROUTER) as control,
            context.socket(zmq.ROUTER) as jobs,
        ):
            control.bind(address.control)
            jobs.bind(str(address.jobs))
            while not ends.is_set():
                for socket in zmq.select([control, jobs], [], [], 0.05)[0]:
                    peer, *frames = socket.recv_multipart()
                    message, _ = decode(frames)
                    if isinstance(message, Hello):
                        answer: Any = structs.replace(welcome, **changes)
                    elif isinstance(message, Join):
                        answer = Joined(server_id="1")
                    elif isinstance(message, Ping):
                        answer = Pong(number=message.number, known=True)
                    else:
                        asked.append(message)
                        continue
                    socket.send_multipart([peer, *encode(answer)])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with Client(Remote(address), ModelRef("any")) as client:
            yield client, asked
    finally:
        ends.set()
        thread.join()


def test_a_server_of_another_major_version_is_refused(tmp_path: Path) -> None:
    with (
        server_of_another_version(tmp_path, protocol="2.0") as (client, asked),
        pytest.raises(ProtocolError, match=r"speaks protocol 2\.0"),
    ):
        client.separate(noise(1), RATE, ["half"])
    assert asked == []


@pytest.mark.slow
def test_what_a_server_does_not_know_is_not_asked_of_it(tmp_path: Path) -> None:
    with server_of_another_version(tmp_path, settings=("seed", "steps")) as (client, asked):
        with pytest.raises(ProtocolError, match="does not know the setting 'reconstruct'"):
            client.separate(noise(1), RATE, ["half"], reconstruct="mask")
        handle = client.submit(noise(1), RATE, ["half"], steps=3, draft_first=True)
        assert handle.draft is not None
        with pytest.raises(ProtocolError, match="does not know the setting 'quality'"):
            handle.draft.result(60)
        wait_until(lambda: asked)
        assert [message.settings for message in asked] == [Settings(steps=3)]
