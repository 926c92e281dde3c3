"""How much memory ``stembridge separate`` takes for one, ten or more minutes of stereo.

Run as ``python -m tests.benchmark.memory [MINUTES ...] [-- OPTIONS OF SEPARATE]``; without minutes
it is 1 and 10. Separates FLAC files with ``mini``, each in a process of its own, and prints the
time, the peak of resident memory, and both as ratios to the first. Input and output lie in files,
so that all that is resident is beyond them (goals: time in proportion within 5 %, memory within
10 %, and two hours within 1.2 GB).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE = 44_100
PROGRAM = "import sys; from plugin_host.cli import main; sys.exit(main())"


def write_song(path: Path, minutes: float) -> None:
    """Write a FLAC of two channels: beats, a bass line and a chord that moves across the stage."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 2, subtype="PCM_16") as file:
        for second in range(round(60 * minutes)):
            at = second + np.arange(RATE) / RATE
            beat = np.exp(-12 * (at % 0.5)) * generator.standard_normal(RATE)
            bass = np.sin(2 * np.pi * (55 + 5 * (second % 4)) * at)
            chord = sum(np.sin(2 * np.pi * f * at) for f in (220, 277, 330))
            side = 0.5 + 0.4 * np.sin(0.3 * at)
            left = 0.15 * beat + 0.15 * bass + 0.1 * side * chord
            right = 0.15 * beat + 0.15 * bass + 0.1 * (1 - side) * chord
            file.write(np.stack([left, right], axis=1))


def separate(song: Path, output: Path, options: list[str]) -> tuple[float, int]:
    """Return the seconds and the peak in bytes of one call of the command."""
    words = [
        sys.executable, "-c", PROGRAM, "separate", str(song), "--prompt", "drums",
        "--in-process", "--overwrite", "-o", str(output), *options,
    ]  # fmt: skip
    began = time.perf_counter()
    pid = os.posix_spawn(sys.executable, words, os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit("separate failed")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", nargs="*", type=float, default=[1.0, 10.0])
    own, options = sys.argv[1:], []
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    asked = parser.parse_args(own)
    first: tuple[float, int] | None = None
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        for minutes in asked.minutes:
            song = Path(name, f"song-{minutes:g}.flac")
            write_song(song, minutes)
            seconds, peak = separate(song, Path(name, "stems"), options)
            first = first or (seconds, peak)
            print(
                f"{minutes:g} min of stereo: {seconds:.1f} s ({seconds / first[0]:.2f}), "
                f"peak {peak / 1e6:.0f} MB ({peak / first[1]:.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
