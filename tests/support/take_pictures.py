"""Take the pictures of the pages from real programs: ``python -m tests.support.take_pictures``.

The README's is what ``stembridge demo`` draws, in fewer colours and pixels. The panel's is the page
in chromium; in other sizes and colours, and with a clip, it goes to the temporary folder, to be
looked at. Ardour and Audacity run under Xvfb, each with a track of the bundled demonstration that
stems were added to by ``stembridge session apply``. Names as arguments (``separated``, ``panel``,
``clips``) take only those.
"""

import os
import shutil
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
from PIL import Image, ImageGrab
from playwright.sync_api import sync_playwright

from plugin_host.cli import main
from plugin_host.cli.demo import read_demo_audio
from plugin_host.daw.audacity import Audacity
from plugin_host.files.stem_files import PICTURE
from tests.plugin_host import test_ardour, test_audacity
from tests.plugin_host.panel.test_clips import LOADING_MS, click
from tests.plugin_host.panel.test_marking import drop
from tests.plugin_host.test_video_files import write_clip
from tests.support import sam2, tiny_bundle
from tests.support.panels import running_panel

SIZE = (1280, 720)
LIMIT_BYTES = 250_000
DEMO_WIDTH = 980
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
    save(image, target, 96)


def save(image, target, colours):
    """Write a picture in few colours."""
    image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        target, optimize=True
    )
    size = target.stat().st_size
    print(f"{target}: {size} bytes")
    if size > LIMIT_BYTES:
        raise SystemExit(f"{target} has {size} bytes; expected at most {LIMIT_BYTES}")


def separated(folder, target):
    """What the demonstration draws."""
    assert main(["demo", "--in-process", "-o", str(folder / "demo")]) == 0
    image = Image.open(folder / "demo" / PICTURE).convert("RGB")
    height = round(image.height * DEMO_WIDTH / image.width)
    save(image.resize((DEMO_WIDTH, height), Image.Resampling.LANCZOS), target, 64)


#: Widths and heights of a window beside a DAW and of one below it, in CSS pixels.
WINDOWS = {"wide": (1280, 850), "narrow": (640, 1180)}


def panel(folder, target):
    """The panel on the demonstration, separated and marked; all sizes and themes beside it."""
    prompts = ("-p", "drums", "-p", "bass=bass guitar", "-p", "voice=person speaking")
    chromium = {"executable_path": "/usr/bin/chromium", "args": ["--no-sandbox"]}
    with running_panel(*prompts) as running, sync_playwright() as playwright:
        here = [{"start_s": 0.7, "end_s": 3.6}, {"start_s": 4.1, "end_s": 8.3}]
        gone = {"start_s": 8.35, "end_s": 9.05, "polarity": "-"}
        running.do("edit", {"do": "set-spans", "id": "p3", "spans": [*here, gone]})
        running.do("select", {"stretch": [4.1, 6.0]})
        running.do("run", {"whole": True})
        running.finished()
        browser = playwright.chromium.launch(**chromium)
        for theme in ("dark", "light"):
            for name, (width, height) in WINDOWS.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=theme
                )
                page.goto(running.address)
                page.wait_for_selector(".lane.residual")
                page.wait_for_load_state("networkidle")
                page.evaluate("() => { stembridge.activate('p3'); stembridge.seek(4.1); }")
                page.wait_for_timeout(1000)
                picture = folder / f"{name}-{theme}.png"
                page.screenshot(path=picture)
                if (name, theme) == ("wide", "dark"):
                    save(Image.open(picture).convert("RGB"), target, 160)
                else:
                    shutil.copy(picture, Path(tempfile.gettempdir()) / f"panel-{picture.name}")
                page.close()
        browser.close()


def clips(folder, _target):
    """A clip in the panel with a click and a painted mask, in all sizes and themes, to look at."""
    width, height = 320, 180
    shade = np.linspace(60, 120, width, dtype=np.uint8)[None, :, None]
    frames = []
    for number in range(60):
        frame = np.broadcast_to(shade, (height, width, 3)).copy()
        frame[60:120, 40 + 3 * number : 100 + 3 * number] = (250, 200, 30)
        frames.append(frame)
    clip = write_clip(folder / "street.mkv", frames)
    model = tiny_bundle.build(folder / "sees", tiny_bundle.Tiny(video=True, input_rms_db=None))
    network = folder / "sam2"
    network.mkdir()
    sam2.build(network)
    song = demonstration(folder / "song.wav")
    options = ("--model", model, "-p", "half", "-p", "two=half", "--network", network)
    chromium = {"executable_path": "/usr/bin/chromium", "args": ["--no-sandbox"]}
    with running_panel(song, *options) as running, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**chromium)
        for theme in ("dark", "light"):
            for name, (wide, high) in WINDOWS.items():
                page = browser.new_page(
                    viewport={"width": wide, "height": high}, color_scheme=theme
                )
                page.goto(running.address)
                page.wait_for_selector(".lane.prompt")
                if running.state()["prompts"][0]["shown"] is None:
                    drop(page, '.lane[data-key="p1"] .view', clip.name, clip.read_bytes())
                else:
                    page.locator('.lane[data-key="p1"] .film').click()
                page.wait_for_selector("#clip-dialog[open]")
                page.wait_for_timeout(1500)
                if not running.state()["prompts"][0]["shown"]["clicks"]:
                    click(page, 0.2, 0.5)
                    click(page, 0.8, 0.2, button="right")
                    page.wait_for_selector("#clip-masks:has-text('Followed')", timeout=LOADING_MS)
                page.screenshot(path=Path(tempfile.gettempdir()) / f"clip-{name}-{theme}.png")
                page.keyboard.press("Escape")
                page.wait_for_timeout(300)
                page.screenshot(path=Path(tempfile.gettempdir()) / f"lanes-{name}-{theme}.png")
                page.close()
        browser.close()


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


HOST = Path(__file__).parents[2] / "plugin_host"
TAKEN = {
    HOST / "demo" / "separated.png": separated,
    HOST / "panel" / "panel.png": panel,
    Path("clips"): clips,
    HOST / "daw" / "pictures" / "ardour.png": ardour,
    HOST / "daw" / "pictures" / "audacity.png": audacity,
}

if __name__ == "__main__":
    for target, take_one in TAKEN.items():
        if not sys.argv[1:] or target.stem in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as place:
                take_one(Path(place), target)
