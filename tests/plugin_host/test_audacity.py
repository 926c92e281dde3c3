"""A real Audacity under Xvfb: tracks and labels read, stems imported at the right place."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bridge import InputError
from plugin_host.cli import main
from plugin_host.daw.audacity import Audacity, AudacitySession
from plugin_host.daw.session import SessionError
from tests.support.host_audio import music

pytestmark = [pytest.mark.needs("audacity", "xvfb"), pytest.mark.slow]

RATE = 44100
MODULE = Path("/usr/lib/audacity/modules/mod-script-pipe.so")
PIPES = [Path(f"/tmp/audacity_script_pipe.{way}.{os.getuid()}") for way in ("to", "from")]
DISPLAY = ":87"


def configuration(home):
    made = datetime.fromtimestamp(int(MODULE.stat().st_mtime)).isoformat()
    return (
        "NewPrefsInitialized=1\n[Module]\nmod-script-pipe=1\n"
        f"[ModulePath]\nmod-script-pipe={MODULE}\n[ModuleDateTime]\nmod-script-pipe={made}\n"
        f"[GUI]\nShowSplashScreen=0\n[Directories]\nTempDir={home / 'tmp'}\n"
    )


class Program:
    """Audacity with settings of its own."""

    def __init__(self, home):
        self.home = home
        self.settings = home / "config" / "audacity"
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "DISPLAY": DISPLAY,
            **{f"XDG_{k}_HOME": str(home / k.lower()) for k in ("CONFIG", "DATA", "CACHE")},
            # No plug-ins to look at.
            **{f"{k}_PATH": str(home / "empty") for k in ("LV2", "LADSPA", "VST")},
        }

    def start(self):
        shutil.rmtree(self.home / "tmp", ignore_errors=True)
        for folder in (self.settings, self.home / "tmp", self.home / "empty"):
            folder.mkdir(parents=True, exist_ok=True)
        for pipe in PIPES:
            pipe.unlink(missing_ok=True)
        (self.settings / "audacity.cfg").write_text(configuration(self.home))
        self.process = subprocess.Popen(
            ["audacity"],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in PIPES:
            pipe.unlink(missing_ok=True)


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def settled(registry):
    """Wait until the first launch has looked at all plug-ins, as its list of them tells."""
    wait_for(registry.exists, 60, "Audacity did not start")
    size, since = -1, time.monotonic()
    while size <= 0 or time.monotonic() - since < 15:
        # It is written anew, and for a moment not there.
        now = registry.stat().st_size if registry.exists() else -1
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.5)


def open_with(program, file):
    """Start Audacity with a file; again if it was still busy with plug-ins and does not answer."""
    for last in (False, False, True):
        program.start()
        wait_for(lambda: all(p.exists() for p in PIPES), 60, "Audacity made no pipes")
        time.sleep(8)
        try:
            with Audacity(timeout_s=20) as connection:
                connection.do("Import2", Filename=file)
            return
        except SessionError:
            program.end()
            if last:
                raise


@pytest.fixture(scope="module")
def audacity(tmp_path_factory):
    """A running Audacity with one track, "take"; gives its environment."""
    home = tmp_path_factory.mktemp("audacity")
    screen = subprocess.Popen(
        ["Xvfb", DISPLAY, "-screen", "0", "1280x800x24"], stderr=subprocess.DEVNULL
    )
    program = Program(home)
    try:
        time.sleep(1)
        # The first launch looks at plug-ins, makes its pipes twice and then hangs.
        program.start()
        settled(program.settings / "pluginregistry.cfg")
        program.end()
        file = home / "take.wav"
        soundfile.write(file, music(4, RATE).T, RATE, subtype="PCM_16")
        open_with(program, file)
        yield file
    finally:
        program.end()
        screen.terminate()
        screen.wait()


def clips():
    with Audacity() as connection:
        return {
            track.name: (track.start, track.end, bool(track.mute))
            for track in connection.tracks()
            if track.kind == "wave"
        }


def apply(bundle, *arguments):
    options = ["--track", "take", "--model", str(bundle), "--in-process", *arguments]
    return main(["session", "apply", "audacity", *options])


def test_labels_and_a_range_become_stems_in_place(audacity, bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data ö"))
    with Audacity() as connection:
        connection.do("Select", Track=0, TrackCount=1, Mode="Set", Start=1.5, End=2.0)
        connection.do("AddLabel")
        connection.do("SetLabel", Label=0, Text="vox: half")
    assert main(["session", "list", "audacity"]) == 0
    assert "take" in capsys.readouterr().out
    assert apply(bundle, "--range", "1:3", "--mute-source") == 0, capsys.readouterr().err
    assert clips() == {
        "take": (0.0, 4.0, True),
        "take vox": (1.0, 3.0, False),
        "take residual": (1.0, 3.0, False),
    }
    # What Audacity plays there is what the track played. It exports 16 bits with shaped dither,
    # here on the way in and on the way out; a shift by one sample would differ by 0.1.
    out = tmp_path / "sum.wav"
    with Audacity() as connection:
        number = AudacitySession(connection).find("take vox").number - 1
        connection.do("Select", Track=number, TrackCount=2, Mode="Set", Start=1.0, End=3.0)
        connection.do("Export2", Filename=out, NumChannels=2)
    total = soundfile.read(out)[0]
    played = soundfile.read(audacity)[0][RATE : 3 * RATE]
    assert np.abs(total - played).max() < 1e-3


def test_what_audacity_refuses_is_told(audacity, bundle, capsys):
    assert audacity.exists()
    assert apply(bundle, "-p", "half", "--range", "100:101") == 2
    assert "plays nothing from 100 to 101 s" in capsys.readouterr().err
    with Audacity() as connection:
        with pytest.raises(SessionError, match="no track 'bass'"):
            AudacitySession(connection).find("bass")
        with pytest.raises(SessionError, match="refuses"):
            connection.do("NoSuchCommand")
        with pytest.raises(InputError, match="quotes"):
            connection.do("SetTrack", Name='a"b')
        with pytest.raises(SessionError, match="not there"):
            connection.add_track(Path("/nowhere.wav"), "x", 0.0)


def test_no_audacity_is_told(tmp_path):
    with pytest.raises(SessionError, match="mod-script-pipe"):
        Audacity(folder=tmp_path)


def test_a_second_range_is_numbered_and_undo_takes_both_away(
    audacity, bundle, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert audacity.exists()
    before = clips()
    assert main(["session", "undo", "audacity"]) == 2
    assert "nothing to undo" in capsys.readouterr().err
    options = ["-p", "part=half", "--range", "0.5:1.25", "--mute-source"]
    assert apply(bundle, *options) == 0, capsys.readouterr().err
    assert apply(bundle, *options) == 0, capsys.readouterr().err
    after = clips()
    added = {name: times for name, times in after.items() if name not in before}
    assert sorted(name.split()[1] for name in added) == ["part", "part", "residual", "residual"]
    for start, end, _ in added.values():
        assert (start, end) == pytest.approx((0.5, 1.25), abs=0.5 / RATE)
    assert after["take"][2]
    assert main(["session", "undo", "audacity"]) == 0
    assert main(["session", "undo", "audacity"]) == 0
    assert set(clips()) == set(before)
    assert not clips()["take"][2] or before["take"][2]


def play(folder, tracks):
    """Return what Audacity plays of its first tracks from 1 to 3 s."""
    out = folder / "played.wav"
    out.unlink(missing_ok=True)
    with Audacity() as connection:
        connection.do("Select", Track=0, TrackCount=tracks, Mode="Set", Start=1.0, End=3.0)
        connection.do("Export2", Filename=out, NumChannels=2)
    return soundfile.read(out)[0]


def test_volume_and_pan_are_those_of_the_track_and_solo_of_another_does_not_count(
    audacity, bundle, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    one, other = tmp_path / "one.wav", tmp_path / "other.wav"
    soundfile.write(one, music(4, RATE, channels=1).T, RATE, subtype="PCM_16")
    soundfile.write(other, music(4, RATE, seed=1).T, RATE, subtype="PCM_16")
    with Audacity() as connection:
        while connection.tracks():
            connection.remove_track(0)
        connection.add_track(one, "left", 0.0)
        connection.set_track(0, Pan=-100.0, Gain=-6.0)
        before = play(tmp_path, 1)
        assert np.abs(before).max(axis=0)[1] < 1e-3
        connection.add_track(other, "other", 0.0)
        connection.set_track(1, Solo=1)
    options = ["--track", "left", "-p", "half", "--model", str(bundle), "--in-process"]
    arguments = ["session", "apply", "audacity", *options, "--mute-source"]
    assert main(arguments) == 0, capsys.readouterr().err
    with Audacity() as connection:
        tracks = {t.name: t for t in connection.tracks() if t.kind == "wave"}
        assert [(t.solo, t.mute) for t in tracks.values()] == [(0, 1), (1, 0), (0, 0), (0, 0)]
        assert {t.channels for name, t in tracks.items() if name.startswith("left")} == {1}
        assert {t["pan"] for t in connection.info("Tracks") if "left" in t["name"]} == {-1}
        connection.set_track(1, Solo=0, Mute=1)
        after = play(tmp_path, 4)
    # 16 bits with dither, on the way out and of each stem.
    assert np.abs(after - before).max() < 1e-3
    assert audacity.exists()
