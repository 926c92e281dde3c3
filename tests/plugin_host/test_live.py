"""The live insert under a real PipeWire, private to the test."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from host_audio import music

from plugin_host.cli import main

RATE = 48000


@pytest.fixture
def pipewire(tmp_path):
    """A PipeWire of our own with a session manager; gives the environment for its clients."""
    for program in ("pipewire", "wireplumber", "pw-jack", "dbus-run-session"):
        assert shutil.which(program), f"{program} is missing; apt-get install pipewire-jack dbus"
    with tempfile.TemporaryDirectory(prefix="pw") as runtime:
        environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": runtime,
            "PIPEWIRE_RUNTIME_DIR": runtime,
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            # Long cycles, so that a busy machine keeps up with them.
            "PIPEWIRE_QUANTUM": "8192/48000",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        environment.pop("DISPLAY", None)
        servers = subprocess.Popen(
            ["dbus-run-session", "--", "sh", "-c", "pipewire & wireplumber & wait"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 20
        while not (Path(runtime) / "pipewire-0").exists():
            assert time.monotonic() < deadline, "PipeWire did not start"
            time.sleep(0.1)
        time.sleep(1)
        yield environment
        os.killpg(servers.pid, signal.SIGTERM)
        servers.wait(timeout=20)


def test_the_second_pass_equals_the_offline_stem(pipewire, bundle, tmp_path):
    soundfile.write(tmp_path / "song.wav", music(5, RATE).T, RATE, subtype="FLOAT")
    harness = Path(__file__).with_name("live_harness.py")
    done = subprocess.run(
        ["pw-jack", sys.executable, harness, bundle, tmp_path / "song.wav", tmp_path],
        env=pipewire,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "done" in done.stdout, done.stdout + done.stderr

    def read(name):
        return soundfile.read(tmp_path / name, dtype="float32")[0]

    song = read("song.wav")
    assert np.array_equal(read("pass1.wav"), song)
    assert np.array_equal(read("pass2.wav"), read("offline.wav"))
    assert np.abs(read("pass2.wav") - song).max() > 0.05


def test_without_jack_there_is_one_clear_line(tmp_path, monkeypatch, capsys):
    for name in ("XDG_RUNTIME_DIR", "PIPEWIRE_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    assert main(["live", "-p", "drums", "--name", "nobody"]) == 2
    err = capsys.readouterr().err
    assert "JACK" in err.splitlines()[-1]
