"""How long the panel takes to open ten minutes: ``python -m tests.benchmark.panel_opening``.

From the command to its address, and from the request of a browser that is open to the last tile of
waveform and spectrogram of the whole song; with the processor time of the command, which others on
the machine do not lengthen.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
from playwright.sync_api import sync_playwright

from tests.support.panels import running_panel

SECONDS = 600
RATE = 44_100


def main():
    """Measure once and print."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "song.wav"
        noise = 0.1 * np.random.default_rng(0).standard_normal((SECONDS * RATE, 2))
        soundfile.write(path, noise, RATE, subtype="PCM_16")
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        begun = time.perf_counter()
        with running_panel(path, "-p", "drums") as panel:
            started = time.perf_counter()
            process = psutil.Process(panel.process.pid)
            before = sum(process.cpu_times()[:2])
            page.goto(panel.address, wait_until="networkidle")
            page.wait_for_selector(".lane.prompt")
            drawn = time.perf_counter() - 0.5  # what "networkidle" waits in vain
            spent = sum(process.cpu_times()[:2])
            memory = process.memory_info().rss
        browser.close()
    print(f"command to address: {started - begun:.1f} s ({before:.1f} s of processor time)")
    print(f"address to drawn:   {drawn - started:.1f} s ({spent - before:.1f} s of processor time)")
    print(f"memory of the command: {memory / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
