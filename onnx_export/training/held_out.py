"""Makes test and tuning mixtures: stereo, full band, from timbres that training never used.

Each mixture is a folder with `mixture.wav` and one `<family>.wav` for each source as it sounds in
the mixture; the 16-bit stems sum to the mixture sample for sample. `index.json` lists them with
pan, level and activity. The mixture that `stembridge demo` separates is made here too: drums, a
bass line and a speaker.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from onnx_export.training.sound.families import FAMILIES, MAIN_FAMILIES, ancestors
from onnx_export.training.sound.render import (
    Instrument,
    missing_packages,
    render_parts,
    render_song,
    require_packages,
)
from onnx_export.training.sound.samples import render_made_drums
from onnx_export.training.sound.songs import (
    Part,
    Sheet,
    Song,
    compose,
    perform,
    weighted,
    write_drums,
    write_part,
)
from onnx_export.training.sound.speech import VOICES, Voice, missing_voice_packages, speak, talk
from onnx_export.training.sound.synths import render_synth
from onnx_export.training.sound.treatment import pan, to_pcm

__all__ = [
    "MIXTURE_SPLITS",
    "TUNING_FONT",
    "TUNING_VOICES",
    "activity",
    "make_demo",
    "make_long_song",
    "make_test_set",
    "pan",
    "render_tuning_song",
    "to_pcm",
]

# The tuning set: timbres neither in training nor in the test set, since choices such as the
# exponent of a mask are made on them. The soundfont is csound's, of which only programs are played
# that share no recording, or one of many, with the soundfont of the test set. Drums, bass, guitar
# and organ, where it has none of its own, come from the synthesisers, drawn anew each time.
TUNING_FONT = "csound"
_PROGRAMS = {
    "piano": {0: 1.0, 1: 1.0, 3: 0.4},
    "strings": {44: 0.5, 48: 1.5, 49: 0.8, 50: 0.4, 51: 0.4},
    "brass": {56: 1.0, 61: 1.2, 62: 0.4, 63: 0.4, 64: 0.5, 67: 0.6},
    "flute": {68: 0.8, 73: 1.6, 75: 0.6},
}
_SLOW = (44, 49, 50, 51)
_VARIANTS = "Alex Andy antonio aunty edward2 gustave iven Mike michel norbert pedro"
#: Variants of espeak-ng that neither training nor the test set hears.
TUNING_VOICES: tuple[Voice, ...] = tuple(
    Voice("espeak-ng", f"{language}+{variant}", "en", 1.0)
    for language in ("en-us", "en-gb")
    for variant in _VARIANTS.split()
)


def render_tuning_song(
    rng: np.random.Generator, song: Song, sample_rate: int
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """Render every part of a song with instruments of the tuning set.

    Parameters
    ----------
    song
        Of the main families.

    Returns
    -------
    list of tuple
        `(family, source, audio (1 or 2, samples))` for each part.
    """
    stems = []
    for part in song.parts:
        if part.family == "drums":
            stems.append((part.family, "made", render_made_drums(rng, part, song.seconds,
                                                                 sample_rate)))  # fmt: skip
        elif part.family in _PROGRAMS:
            programs = {
                str(program): weight
                for program, weight in _PROGRAMS[part.family].items()
                if not (part.style in ("arpeggio", "stabs") and program in _SLOW)
            }
            instrument = Instrument(0, int(weighted(rng, programs)), float(rng.normal(0, 6)))
            (audio,) = render_parts(TUNING_FONT, [part], [instrument], song.seconds, sample_rate)
            stems.append((part.family, TUNING_FONT, audio))
        else:
            stems.append((part.family, "made", render_synth(rng, part, song.seconds, sample_rate)))
    return stems


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
    # An instrument goes under the family that was asked for, of which it may be a kind.
    sources = [
        _Source(next(f for f in families if f in ancestors(kind)), name, audio.mean(axis=0))
        for kind, name, audio in rendered
    ]
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


_RATE = 44100
_FONT = "fluidr3"
_LINES = (
    "Good evening, and welcome back to the studio.",
    "Tonight the band is playing behind me, so let us see who can be heard.",
)


def _speech(samples: int) -> NDArray[np.float32]:
    """Speak two lines with a pause; returns `(samples,)`."""
    voice = next(v for v in VOICES if v.engine == "flite" and v.name == "rms")
    audio = np.zeros(samples, np.float32)
    at = round(0.6 * _RATE)
    for line in _LINES:
        spoken, rate = speak(voice, line, speed=1.1)
        spoken = np.asarray(soxr.resample(spoken, rate, _RATE), dtype=np.float32)
        piece = spoken[: max(0, samples - at)]
        audio[at : at + len(piece)] = piece
        at += len(piece) + round(0.4 * _RATE)
    return audio


def make_demo(out: Path, seed: int = 0) -> None:
    """Write `mixture.flac` and its true stems `drums.flac`, `bass.flac` and `speech.flac`.

    Stereo, 44.1 kHz, 16 bits, about 9 s. The stems sum to the mixture sample for sample. Rendered
    with FluidR3 (MIT) and flite's voice rms.

    Parameters
    ----------
    out
        Folder to write to.
    seed
        Decides what the players play.

    Raises
    ------
    FileNotFoundError
        If FluidSynth, the soundfont or flite is missing.
    """
    rng = np.random.default_rng(seed)
    chords = [(9, 0, 4), (9, 0, 4), (5, 9, 0), (7, 11, 2)]
    sheet = Sheet(
        bpm=106.0,
        beats_per_bar=4,
        bars=4,
        swing=0.0,
        scale=(9, 11, 0, 2, 4, 5, 7),
        chords=tuple(chord for chord in chords for _ in range(2)),
        sections=(0, 4),
        style="rock",
    )
    active = [True] * sheet.bars
    bass = FAMILIES["bass"]
    _, line = write_part(rng, sheet, active, "bass", (bass.lowest, bass.highest))
    parts = [
        Part("drums", sheet.style, perform(rng, sheet, write_drums(rng, sheet, active))),
        Part("bass", "bass", perform(rng, sheet, line)),
    ]
    seconds = sheet.seconds
    drums, low = render_parts(
        _FONT, parts, [Instrument(128, 0), Instrument(0, 33)], seconds, sample_rate=_RATE
    )
    speech = _speech(drums.shape[1])
    stems = {
        "drums": pan(drums.mean(axis=0), 0.0),
        "bass": pan(low.mean(axis=0), -0.3),
        "speech": pan(speech, 0.4),
    }
    for name, level in {"drums": 0.12, "bass": 0.12, "speech": 0.12}.items():
        rms = float(np.sqrt(np.mean(stems[name].astype(np.float64) ** 2)))
        stems[name] = stems[name] * np.float32(level / rms)
    mixture, rounded = to_pcm(list(stems.values()), peak=0.5)
    out.mkdir(parents=True, exist_ok=True)
    soundfile.write(out / "mixture.flac", mixture.T, _RATE, subtype="PCM_16")
    for name, stem in zip(stems, rounded, strict=True):
        soundfile.write(out / f"{name}.flac", stem.T, _RATE, subtype="PCM_16")
