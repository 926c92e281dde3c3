"""A stream whose sidecar is killed: the audio goes on dry, visibly, and comes back wet."""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from bridge.connection.client import Client
from bridge.connection.local import LocalSidecar, Remote
from bridge.errors import ServerError
from bridge.wire.sockets import private_address
from plugin_host import Chain, Separate
from tests.support.host_audio import RATE, music

BLOCK = 2205
SEGMENT_S = 0.25


class Sidecar:
    """A real sidecar in a directory of its own, which can be killed and started again."""

    def __init__(self, directory):
        self.directory = directory / "run"
        self.cache = directory / "cache"
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "bridge.sidecar"]
        options = ["--directory", self.directory, "--cache", self.cache]
        self.process = subprocess.Popen([*command, *options])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def sidecar():
    with tempfile.TemporaryDirectory(prefix="sb") as directory:
        sidecar = Sidecar(Path(directory))
        yield sidecar
        sidecar.kill()


def wait_for_server(client):
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.separate(np.ones((1, 800), np.float32), 16000, ["half"])
        except ServerError:
            assert time.monotonic() < deadline


@pytest.fixture
def client(sidecar, bundle):
    reference = LocalSidecar(sidecar.directory, sidecar.cache).reference(bundle)
    sidecar.start()
    with Client(
        Remote(private_address(sidecar.directory)), reference, connect_timeout_s=1.5
    ) as client:
        wait_for_server(client)
        yield client


class Player:
    """Feeds a stream block by block and keeps what comes out."""

    def __init__(self, chain, audio):
        self.chain = chain
        self.audio = audio
        self.fed = 0
        self.out = []
        self.slowest_s = 0.0

    def play(self, until):
        """Feed at about real time until ``until()``; the audio is long enough."""
        deadline = time.monotonic() + 90
        while not until():
            assert time.monotonic() < deadline
            assert self.fed < self.audio.shape[1]
            block = self.audio[:, self.fed : self.fed + BLOCK]
            before = time.monotonic()
            self.out.append(self.chain.process(block, RATE, reset=False))
            self.slowest_s = max(self.slowest_s, time.monotonic() - before)
            self.fed += block.shape[1]
            time.sleep(0.05)

    @property
    def given(self):
        return sum(part.shape[1] for part in self.out)


@pytest.mark.slow
def test_a_killed_sidecar_makes_dry_audio_and_a_new_one_recovers(sidecar, client):
    chain = Chain([Separate("nothing", segment_s=SEGMENT_S, separator=client)])
    player = Player(chain, music(240))

    player.play(lambda: player.given > RATE)
    assert chain.dry_reason is None
    wet = player.given

    sidecar.kill()
    player.play(lambda: chain.dry_reason is not None)
    first_dry = player.given
    player.play(lambda: player.given > first_dry + 2 * RATE)
    reason = chain.dry_reason
    dry = player.given

    sidecar.start()
    player.play(lambda: chain.dry_reason is None and player.given > dry)
    recovered = player.given
    player.play(lambda: player.given > recovered + RATE)
    player.out.append(chain.flush())

    out = np.concatenate(player.out, axis=1)
    mixture = player.audio[:, : player.fed]
    assert out.shape == mixture.shape
    assert "server" in reason or "answer" in reason
    # The prompt takes nothing, so that wet is near silence and dry is the mixture.
    assert np.abs(out[:, : wet - RATE]).max() < 0.05
    assert np.array_equal(out[:, first_dry : dry - RATE], mixture[:, first_dry : dry - RATE])
    assert np.abs(out[:, recovered:]).max() < 0.05
    assert player.slowest_s < 1.0


@pytest.mark.slow
def test_a_whole_buffer_without_a_sidecar_fails_loudly(sidecar, client):
    sidecar.kill()
    with pytest.raises(ServerError):
        Separate("half", separator=client)(music(0.5), RATE)
