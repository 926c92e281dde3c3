"""How soon something is heard: a preview and a draft beside the whole job.

Run as ``python -m tests.benchmark.first_sound [--model NAME_OR_DIR] [--minutes 4]``. Prints
processor seconds of this process and their ratios to the whole (goals: 0.10 for a preview of 15 s,
0.15 for a draft), since wall time says nothing on a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bridge.engine import Engine
from plugin_host.cli.demo import read_demo_audio
from plugin_host.cli.separate import DEFAULT_S, find_stretch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--minutes", type=float, default=4.0)
    asked = parser.parse_args()
    demo, rate = read_demo_audio("mixture")
    song = np.resize(demo.T, (round(60 * asked.minutes * rate), len(demo))).T.copy()
    start, end = find_stretch(f"{DEFAULT_S:g}", song, rate)
    seconds = {}
    with Engine(asked.model, threads=1) as engine:
        engine.separate(song[:, :rate], rate, ["drums"])  # loads the networks
        for name, audio, options in (
            ("preview", song[:, start:end], {}),
            ("draft", song, {"quality": "draft"}),
            ("whole", song, {}),
        ):
            began = time.process_time()
            report = engine.separate(audio, rate, ["drums"], **options).report
            seconds[name] = time.process_time() - began
            print(
                f"{name}: {seconds[name]:.1f} s of processor for {audio.shape[1] / rate:.0f} s of "
                f"stereo ({report.model}, NFE {report.nfe}, {report.windows} windows of "
                f"{report.window_s:g} s, {report.listen}, {report.provider}, one thread)",
                flush=True,
            )
    for name in ("preview", "draft"):
        print(f"{name} / whole: {seconds[name] / seconds['whole']:.3f}")


if __name__ == "__main__":
    main()
