"""Makes test and tuning mixtures: stereo, full band, from timbres that training never used.

Each mixture is a folder with `mixture.wav` and one `<family>.wav` for each source as it sounds in
the mixture; the 16-bit stems sum to the mixture sample for sample. `index.json` lists them with
pan, level and activity.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from onnx_export.training.compose import compose
from onnx_export.training.families import FAMILIES, MAIN_FAMILIES
from onnx_export.training.panning import pan, to_pcm
from onnx_export.training.render import missing_packages, require_packages
from onnx_export.training.speech import missing_voice_packages, talk
from onnx_export.training.stems import render_song
from onnx_export.training.tuning import TUNING_FONT, TUNING_VOICES, render_tuning_song

__all__ = ["MIXTURE_SPLITS", "activity", "make_long_song", "make_test_set", "pan", "to_pcm"]

MIXTURE_SPLITS = ("test", "tune")

_LEAST_ACTIVE = 0.3
_ATTEMPTS = 40


@dataclass(frozen=True)
class _Source:
    family: str
    name: str
    audio: NDArray[np.float32]  # mono, the whole song


def activity(
    audio: NDArray[np.float32], sample_rate: int, floor_db: float = -40.0
) -> NDArray[np.bool_]:
    """Say in which 25 ms frames a signal sounds.

    Parameters
    ----------
    audio
        Mono `(samples,)`.
    floor_db
        Frames this far below the loudest one are silent.

    Returns
    -------
    ndarray
        `(frames,)` bool; all False for silence.
    """
    size = round(0.025 * sample_rate)
    frames = len(audio) // size
    power = np.mean(audio[: frames * size].reshape(frames, size).astype(np.float64) ** 2, axis=1)
    loudest = float(power.max(initial=0.0))
    return np.asarray(power > max(loudest * 10 ** (floor_db / 10), 1e-12))


def _deal(rng: np.random.Generator, mixtures: int) -> list[list[str]]:
    """Deal families to mixtures of 2, 3 and 4 sources so that all of them come equally often."""
    counts = dict.fromkeys(MAIN_FAMILIES, 0)
    dealt = []
    for index in range(mixtures):
        order = sorted(MAIN_FAMILIES, key=lambda name: (counts[name], rng.random()))
        chosen = order[: 2 + index % 3]
        for name in chosen:
            counts[name] += 1
        dealt.append(sorted(chosen, key=MAIN_FAMILIES.index))
    return dealt


def _render(
    rng: np.random.Generator,
    families: list[str],
    sample_rate: int,
    split: str,
    seconds: tuple[float, float] = (14.0, 18.0),
) -> list[_Source]:
    """Render a song with the families, and let someone talk if speech is one."""
    music = tuple(name for name in families if name != "speech")
    song = compose(rng, seconds, families=music)
    tuning = split == "tune"
    rendered = (
        render_tuning_song(rng, song, sample_rate)
        if tuning
        else render_song(rng, song, sample_rate, held_out=True)
    )
    sources = [_Source(family, name, audio.mean(axis=0)) for family, name, audio in rendered]
    if "speech" in families:
        voices = TUNING_VOICES if tuning else ()
        speech, name = talk(rng, song.seconds, sample_rate, held_out=True, voices=voices)
        sources.append(_Source("speech", name, speech))
    return sorted(sources, key=lambda source: families.index(source.family))


def _window(
    rng: np.random.Generator, sources: list[_Source], samples: int, sample_rate: int
) -> int | None:
    """Draw a start at which every source sounds often enough; None if there is none."""
    length = min(len(source.audio) for source in sources)
    starts = np.arange(0, length - samples + 1, sample_rate // 4)
    fits = [
        int(start)
        for start in starts
        if all(
            activity(s.audio[start : start + samples], sample_rate).mean() >= _LEAST_ACTIVE
            and np.abs(s.audio[start : start + samples]).max() > 0.1 * np.abs(s.audio).max()
            for s in sources
        )
    ]
    return int(rng.choice(fits)) if fits else None


def _enter_late(
    rng: np.random.Generator, audio: NDArray[np.float32], sample_rate: int
) -> NDArray[np.float32]:
    """Let a source sound in about two fifths of the clip, by a late entry or an early end."""
    keep = round(len(audio) * float(rng.uniform(0.36, 0.46)))
    first = 0 if rng.random() < 0.5 else len(audio) - keep
    edge = round(0.01 * sample_rate)
    gate = np.zeros(len(audio), np.float32)
    gate[first : first + keep] = 1.0
    ramp = np.sin(np.linspace(0, np.pi / 2, edge, dtype=np.float32)) ** 2
    if first:
        gate[first : first + edge] = ramp
    else:
        gate[keep - edge : keep] = ramp[::-1]
    gated = audio * gate
    enough = activity(gated, sample_rate).mean() >= _LEAST_ACTIVE
    return gated.astype(np.float32) if enough else audio


def _place(
    rng: np.random.Generator,
    sources: list[_Source],
    clips: list[NDArray[np.float32]],
    sample_rate: int,
) -> tuple[list[NDArray[np.float32]], dict[str, dict[str, object]]]:
    """Give every clip a level and a place; returns stereo stems and what `index.json` says."""
    places = np.linspace(-0.85, 0.85, len(clips)) + rng.uniform(-0.12, 0.12, len(clips))
    places = rng.permutation(places)
    stems: list[NDArray[np.float32]] = []
    facts: dict[str, dict[str, object]] = {}
    for source, clip, place in zip(sources, clips, places, strict=True):
        sounding = np.repeat(activity(clip, sample_rate), round(0.025 * sample_rate))
        rms = float(np.sqrt(np.mean(clip[: len(sounding)][sounding].astype(np.float64) ** 2)))
        spread_db = 8.0 if source.family == "speech" else 5.0
        level_db = float(rng.uniform(-spread_db, spread_db))
        stems.append(pan(clip * np.float32(10 ** (level_db / 20) / rms), float(place)))
        facts[source.family] = {
            "prompt": FAMILIES[source.family].phrasings[0],
            "source": source.name,
            "pan": round(float(place), 3),
            "level_db": round(level_db, 2),
            "activity": round(float(activity(clip, sample_rate).mean()), 3),
        }
    return stems, facts


def _write(
    folder: Path, sources: list[_Source], stems: list[NDArray[np.float32]], sample_rate: int
) -> None:
    """Write mixture and stems as 16-bit files that sum."""
    mixture, rounded = to_pcm(stems)
    folder.mkdir(parents=True, exist_ok=True)
    for source, stem in zip(sources, rounded, strict=True):
        path = folder / f"{source.family}.wav"
        soundfile.write(path, stem.T, sample_rate, subtype="PCM_16")
    # Last, since a folder with a mixture counts as complete.
    soundfile.write(folder / "mixture.wav", mixture.T, sample_rate, subtype="PCM_16")


def _require(split: str) -> None:
    if split not in MIXTURE_SPLITS:
        raise ValueError(f"expected a split of {', '.join(MIXTURE_SPLITS)}, got {split!r}")
    font = TUNING_FONT if split == "tune" else "timgm6mb"
    require_packages(missing_packages((font,)) | missing_voice_packages(held_out=True))


def make_long_song(
    folder: Path, families: list[str], seed: int, seconds: float = 60.0, split: str = "test"
) -> None:
    """Write a whole song with its stems, stereo at 44.1 kHz, as one more folder of that kind.

    Parameters
    ----------
    folder
        Where its files go.
    families
        Who plays; `speech` talks all along.
    seed
        The song.
    seconds
        Length.
    split
        As for `make_test_set`.
    """
    _require(split)
    rate = 44100
    rng = np.random.default_rng([seed, 60])
    sources = _render(rng, families, rate, split, (seconds + 1.0, seconds + 6.0))
    samples = min(round(seconds * rate), *(len(source.audio) for source in sources))
    stems, _ = _place(rng, sources, [source.audio[:samples] for source in sources], rate)
    _write(folder, sources, stems, rate)


def make_test_set(
    out: Path,
    mixtures: int,
    seed: int,
    seconds: float = 6.0,
    sample_rate: int = 44100,
    split: str = "test",
) -> None:
    """Write test mixtures of two to four sources of different families.

    Every third mixture has one source that sounds in less than half of the clip.

    Parameters
    ----------
    out
        Folder to write to; mixtures that are there are made again.
    mixtures
        How many.
    seed
        A mixture depends on the seed and its number.
    seconds, sample_rate
        Length and rate of the files, stereo, 16 bits.
    split
        `test`, or `tune`: other timbres, for choices that the test set must not decide.

    Raises
    ------
    ValueError
        For an unknown split.
    FileNotFoundError
        If FluidSynth, the test soundfont or speech synthesisers are missing.
    RuntimeError
        If no song was found in which all sources sound long enough.
    """
    _require(split)
    samples = round(seconds * sample_rate)
    entries = []
    for index, families in enumerate(_deal(np.random.default_rng([seed, 0]), mixtures)):
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([seed, 1 + index, attempt])
            sources = _render(rng, families, sample_rate, split)
            start = _window(rng, sources, samples, sample_rate) if sources else None
            if start is not None and len(sources) == len(families):
                break
        else:
            raise RuntimeError(
                f"mixture {index}: no song in {_ATTEMPTS} had {', '.join(families)} sounding in "
                f"{_LEAST_ACTIVE:.0%} of {seconds} s; use another seed or longer mixtures"
            )
        clips = [source.audio[start : start + samples] for source in sources]
        if index % 3 == 0:
            late = int(rng.integers(len(clips)))
            clips[late] = _enter_late(rng, clips[late], sample_rate)
        stems, facts = _place(rng, sources, clips, sample_rate)
        _write(out / f"{index:03d}", sources, stems, sample_rate)
        entries.append({"id": f"{index:03d}", "stems": facts})
    index_text = json.dumps(
        {
            "seed": seed,
            "split": split,
            "seconds": seconds,
            "sample_rate": sample_rate,
            "mixtures": entries,
        },
        indent=1,
    )
    (out / "index.json").write_text(index_text + "\n")
