"""The live insert under a real PipeWire, private to the test."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from bridge.errors import ServerError
from bridge.request import Prompt, Settings
from plugin_host.cli import main
from plugin_host.cli.live import LiveInsert, LiveTake, draft_of
from plugin_host.effects.segments import SeparationPlan
from tests.support.host_audio import music

pytestmark = [
    pytest.mark.needs("pipewire", "wireplumber", "pipewire-jack", "dbus"),
    pytest.mark.slow,
]

# A low rate and the longest cycle of JACK, so that a busy machine has a second for each.
RATE, CYCLE = 8000, 8192


@pytest.fixture
def pipewire(tmp_path):
    """A PipeWire of our own with a session manager; gives the environment for its clients."""
    settings = tmp_path / "config" / "pipewire" / "pipewire.conf.d"
    settings.mkdir(parents=True)
    (settings / "clock.conf").write_text(
        f"context.properties = {{ default.clock.rate = {RATE} default.clock.quantum = {CYCLE} }}"
    )
    with tempfile.TemporaryDirectory(prefix="pw") as runtime:
        environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": runtime,
            "PIPEWIRE_RUNTIME_DIR": runtime,
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "PIPEWIRE_QUANTUM": f"{CYCLE}/{RATE}",
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
    harness = Path(__file__).parents[1] / "support" / "live_harness.py"
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


def test_drafts_of_all_that_waits_come_first_and_then_the_stems(monkeypatch):
    """The worker of the insert without JACK: what it asks for, and in which order."""
    insert = object.__new__(LiveInsert)
    rate, length = 1000, 1000
    insert.rate, insert._position = rate, None
    insert._stop, insert._busy, insert.dry_reason, insert._drafted = Event(), False, None, []
    insert.take = LiveTake(1, length, 100, lambda lanes: lanes["half"])
    plan = SeparationPlan((Prompt("half"),), Settings(steps=4), 1.0)
    insert._effect = SimpleNamespace(plan=plan, separator=None)
    insert._draft = replace(plan, settings=Settings(quality="draft"))
    asked = []

    def separate_segment(_separator, plan, audio, _rate, start):
        asked.append((start, plan.settings.quality))
        if len(asked) == 2 and plan.settings.quality == "draft":
            raise ServerError("busy")  # what is left goes on after it
        loud = 0.25 if plan.settings.quality == "draft" else 0.5
        if asked.count((0, None)) and asked.count((900, None)):
            insert._stop.set()
        return {"half": loud * audio}

    monkeypatch.setattr("plugin_host.cli.live.separate_segment", separate_segment)
    monkeypatch.setattr("plugin_host.cli.live._RETRY_S", 0.0)
    monkeypatch.setattr("plugin_host.cli.live._LOOK_S", 0.0)
    song = np.ones((1, 2000), np.float32)
    insert.take.pass_through(0, song)
    insert._work()
    assert asked == [(0, "draft"), (900, "draft"), (0, None), (900, "draft"), (900, None)]
    np.testing.assert_array_equal(insert.take.pass_through(0, song), 0.5 * song)


def test_there_is_no_draft_where_it_would_be_the_stem(bundle):
    plan = SeparationPlan((Prompt("half"),), Settings(steps=4), 1.0)
    assert draft_of(plan, "mini").settings == Settings(quality="draft")
    # The model of formulas says nothing of drafts: they are its defaults.
    assert draft_of(replace(plan, settings=Settings()), str(bundle)) is None
