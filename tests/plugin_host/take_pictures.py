"""Take the pictures of the DAW pages from real programs: ``python take_pictures.py [DIR]``.

Ardour and Audacity run under Xvfb, each with a track of the bundled demonstration that stems were
added to by ``stembridge session apply``.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr
import test_ardour
import test_audacity
from PIL import Image, ImageGrab

from plugin_host.cli import main
from plugin_host.cli.demo import read_demo_audio
from plugin_host.daw.audacity import Audacity

PICTURES = Path(__file__).parents[2] / "plugin_host" / "daw" / "pictures"
SIZE = (1280, 720)
LIMIT_BYTES = 150_000
RATE = 48000

# The engine without a sound card, and no dialog about it.
ARDOUR_CONFIG = """<?xml version="1.0" encoding="UTF-8"?>
<Ardour><Config>
<Option name="try-autostart-engine" value="1"/><Option name="hide-dummy-backend" value="0"/>
</Config><Extra><AudioMIDISetup><EngineStates>
<State backend="None (Dummy)" driver="Normal Speed" device="Silence" input-device=""
 output-device="" sample-rate="48000" buffer-size="1024" n-periods="0" input-latency="0"
 output-latency="0" input-channels="0" output-channels="0" active="1" use-buffered-io="0"
 midi-option="" lm-input=""><MIDIDevices/></State>
</EngineStates></AudioMIDISetup></Extra></Ardour>
"""


def demonstration(path):
    """Write the bundled mixture as a stereo file at the sessions' rate."""
    audio, rate = read_demo_audio("mixture")
    audio = soxr.resample(np.broadcast_to(audio, (2, audio.shape[1])).T, rate, RATE)
    soundfile.write(path, audio, RATE, subtype="PCM_24")
    return path


@contextmanager
def screen(display):
    """A screen without a monitor."""
    program = subprocess.Popen(
        ["Xvfb", display, "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24"], stderr=subprocess.DEVNULL
    )
    time.sleep(1)
    try:
        yield
    finally:
        program.terminate()
        program.wait()


def take(display, target, box=None):
    """Save what the screen shows, in few colours, so that the file stays small."""
    image = ImageGrab.grab(xdisplay=display)
    if box:
        image = image.crop(box)
    image.quantize(96, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        target, optimize=True
    )
    size = target.stat().st_size
    print(f"{target}: {size} bytes")
    if size > LIMIT_BYTES:
        raise SystemExit(f"{target} has {size} bytes; expected at most {LIMIT_BYTES}")


def ardour(folder, target):
    """Picture of Ardour with the stems of a track."""
    display = ":91"
    home = folder / "home"
    (home / "ardour7").mkdir(parents=True)
    (home / "ardour7" / ".a7").write_text("")
    (home / "ardour7" / "config").write_text(ARDOUR_CONFIG)
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "DISPLAY": display}
    session = folder / "song"
    script = folder / "create.lua"
    script.write_text(test_ardour.CREATE.replace("Gitarre ö", "Band"))
    subprocess.run(
        ["ardour7-lua", script, session], env=environment, check=True, capture_output=True
    )
    test_ardour.put_region(session / "song.ardour", demonstration(folder / "band.wav"), "band")
    test_ardour.mark(
        session,
        ("session", 0.0, 9.0, "IsSessionRange"),
        ("vox: person speaking", 0.5, 6.0, "IsRangeMarker"),
        ("drums: drums", 6.0, 9.0, "IsRangeMarker"),
    )
    command = ["session", "apply", str(session), "--track", "Band", "--mute-source"]
    assert main([*command, "--in-process"]) == 0
    with screen(display):
        program = subprocess.Popen(
            ["ardour", "--no-splash", "--no-announcements", session / "song.ardour"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            time.sleep(20)
            for words in (
                ["search", "--name", "song - Ardour", "windowfocus"],
                ["mousemove", "700", "600", "click", "1"],
                ["mousemove", "1251", "106", "click", "1"],
                ["mousemove", "700", "640"],
            ):
                subprocess.run(["xdotool", *words], env=environment, check=False)
                time.sleep(1.5)
            time.sleep(20)
            take(display, target)
        finally:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def audacity(folder, target):
    """Picture of Audacity with the stems of a track, in place of its labels."""
    program = test_audacity.Program(folder)
    with screen(test_audacity.DISPLAY):
        try:
            program.start()
            test_audacity.settled(program.settings / "pluginregistry.cfg")
            program.end()
            test_audacity.open_with(program, demonstration(folder / "band.wav"))
            with Audacity() as connection:
                connection.do("Select", Track=0, TrackCount=1, Mode="Set", Start=0.5, End=6.0)
                connection.do("AddLabel")
                connection.do("SetLabel", Label=0, Text="vox: person speaking")
            command = ["session", "apply", "audacity", "--track", "band", "--mute-source"]
            assert main([*command, "--in-process"]) == 0
            with Audacity() as connection:
                connection.do("SelectNone")
                connection.do("FitInWindow")
                connection.do("FitV")
            time.sleep(4)
            take(test_audacity.DISPLAY, target)
        finally:
            program.end()


if __name__ == "__main__":
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    to.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[2:] or ["ardour", "audacity"]
    for name in wanted:
        with tempfile.TemporaryDirectory() as place:
            {"ardour": ardour, "audacity": audacity}[name](Path(place), to / f"{name}.png")
