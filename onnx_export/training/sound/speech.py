"""Speech from espeak-ng, flite and festival: random sentences, voices, pitch and speed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from onnx_export.training.sound.render import require_packages

__all__ = [
    "VOICES",
    "Voice",
    "english_sentence",
    "made_up_sentence",
    "missing_voice_packages",
    "speak",
    "talk",
]


@dataclass(frozen=True)
class Voice:
    """A voice of a speech synthesiser.

    Parameters
    ----------
    engine
        `espeak-ng`, `flite` or `festival`.
    name
        What the engine calls it: language plus variant, or voice.
    language
        `en`, or a language whose words are made up from syllables.
    weight
        How often it is drawn.
    held_out
        Kept out of training, for validation and tests.
    """

    engine: str
    name: str
    language: str
    weight: float
    held_out: bool = False

    @property
    def source(self) -> str:
        """Short name for files."""
        return f"{self.engine.split('-')[0]}-{self.name}".replace("+", "-").replace("_", "-")


_FESTIVAL = Path("/usr/share/festival/voices")
_FESTIVAL_PACKAGES = {
    "ked_diphone": "festvox-kdlpc16k",
    "lp_diphone": "festvox-italp16k",
    "pc_diphone": "festvox-itapc16k",
    "suo_fi_lj_diphone": "festvox-suopuhe-lj",
    "hy_fi_mv_diphone": "festvox-suopuhe-mv",
    "kal_diphone": "festvox-kallpc16k",
    "cmu_us_slt_arctic_hts": "festvox-us-slt-hts",
}
_ESPEAK_LANGUAGES = {
    "en-us": 4.0,
    "en-gb": 3.0,
    "en-gb-scotland": 1.0,
    "en-gb-x-rp": 1.0,
    "en-029": 0.7,
    "en-us-nyc": 0.7,
    "de": 0.5,
    "es": 0.5,
    "fr-fr": 0.5,
    "it": 0.5,
    "pl": 0.3,
    "sv": 0.3,
    "tr": 0.3,
    "sw": 0.3,
}
_ESPEAK_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f4 f5 klatt klatt2 klatt4 klatt6 adam Alicia Andrea Annie "
    "belinda benjamin boris caleb david ed edward Gene grandma grandpa Henrique Hugo Jacky "
    "john Lee linda Marco Mario max miguel Nguyen pablo paul quincy rob robert sandro shelby "
    "steph travis victor zac"
)
_ESPEAK_HELD_OUT = "f3 Denis Michael steph3 Diogo anika"


def _voices() -> tuple[Voice, ...]:
    voices = []
    variants, held_out = _ESPEAK_VARIANTS.split(), _ESPEAK_HELD_OUT.split()
    for language, weight in _ESPEAK_LANGUAGES.items():
        spoken = "en" if language.startswith("en") else language
        for variant in variants:
            share = 0.36 * weight / sum(_ESPEAK_LANGUAGES.values()) / len(variants)
            voices.append(Voice("espeak-ng", f"{language}+{variant}", spoken, share))
    voices += [
        Voice("flite", "awb", "en", 0.14),
        Voice("flite", "rms", "en", 0.14),
        Voice("festival", "ked_diphone", "en", 0.1),
        Voice("festival", "lp_diphone", "it", 0.07),
        Voice("festival", "pc_diphone", "it", 0.06),
        Voice("festival", "suo_fi_lj_diphone", "fi", 0.07),
        Voice("festival", "hy_fi_mv_diphone", "fi", 0.06),
        # Never in training. kal of flite and of festival is one speaker, and so is slt.
        Voice("flite", "slt", "en", 0.25, held_out=True),
        Voice("flite", "kal16", "en", 0.1, held_out=True),
        Voice("festival", "kal_diphone", "en", 0.15, held_out=True),
        Voice("festival", "cmu_us_slt_arctic_hts", "en", 0.1, held_out=True),
    ]
    voices += [
        Voice("espeak-ng", f"en-us+{variant}", "en", 0.4 / len(held_out), held_out=True)
        for variant in held_out
    ]
    return tuple(voices)


#: All voices; those held out are for validation and tests only.
VOICES: tuple[Voice, ...] = _voices()


def missing_voice_packages(*, held_out: bool) -> set[str]:
    """Return the Debian packages that the voices of a split need and that are absent."""
    missing = set()
    for voice in VOICES:
        command = "text2wave" if voice.engine == "festival" else voice.engine
        if voice.held_out == held_out and shutil.which(command) is None:
            missing.add(voice.engine)
        folders = _FESTIVAL.glob(f"*/{voice.name}")
        if voice.held_out == held_out and voice.engine == "festival" and not any(folders):
            missing.add(_FESTIVAL_PACKAGES[voice.name])
    return missing


def speak(
    voice: Voice, text: str, *, speed: float = 1.0, pitch: float = 1.0
) -> tuple[NDArray[np.float32], int]:
    """Speak a text.

    Parameters
    ----------
    voice
        Which engine and voice.
    text
        What to say.
    speed
        Relative speed, 0.7 to 1.5.
    pitch
        Relative pitch, 0.7 to 1.4; festival ignores it.

    Returns
    -------
    audio : ndarray
        Mono float32 `(samples,)`.
    sample_rate : int

    Raises
    ------
    RuntimeError
        If the engine fails.
    """
    with tempfile.TemporaryDirectory(prefix="stembridge-") as folder:
        wav = f"{folder}/speech.wav"
        if voice.engine == "espeak-ng":
            command = ["espeak-ng", "-v", voice.name, "-s", str(round(165 * speed))]
            command += ["-p", str(int(np.clip(50 * pitch, 0, 99))), "-w", wav, text]
        elif voice.engine == "flite":
            base = {"awb": 120, "rms": 100, "slt": 170, "kal16": 105}.get(voice.name, 110)
            command = ["flite", "-voice", voice.name, "-t", text, "-o", wav]
            command += ["--setf", f"duration_stretch={1 / speed:.3f}"]
            command += ["--setf", f"int_f0_target_mean={base * pitch:.1f}"]
        else:
            Path(folder, "text").write_text(text, encoding="latin-1", errors="ignore")
            command = ["text2wave", "-o", wav, f"{folder}/text", "-eval", f"(voice_{voice.name})"]
            command += ["-eval", f"(Parameter.set 'Duration_Stretch {1 / speed:.3f})"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not Path(wav).is_file():
            raise RuntimeError(f"{voice.engine} failed with {voice.name}: {done.stderr[:300]}")
        audio, rate = soundfile.read(wav, dtype="float32", always_2d=True)
    return audio.mean(axis=1), int(rate)


def talk(
    rng: np.random.Generator,
    seconds: float,
    sample_rate: int,
    *,
    held_out: bool = False,
    voices: tuple[Voice, ...] = (),
) -> tuple[NDArray[np.float32], str]:
    """Let one random voice talk for a while, with pauses.

    Parameters
    ----------
    seconds
        Length of the result.
    held_out
        Use only the voices kept out of training (True), or only the others (False).
    voices
        Draw from these instead.

    Returns
    -------
    audio : ndarray
        `(samples,)` float32 at `sample_rate`.
    source : str
        Name of the voice.

    Raises
    ------
    FileNotFoundError
        If a synthesiser or a voice is not installed, with the Debian packages.
    """
    require_packages(missing_voice_packages(held_out=held_out))
    voices = voices or tuple(v for v in VOICES if v.held_out == held_out)
    weights = np.array([v.weight for v in voices])
    voice = voices[int(rng.choice(len(voices), p=weights / weights.sum()))]
    speed, pitch = float(rng.uniform(0.8, 1.3)), float(rng.uniform(0.75, 1.3))
    # Faster or slower playback moves the formants too: another size of speaker.
    size = 1.0 if held_out else float(np.exp(rng.normal(0, 0.1)))
    total = round(seconds * sample_rate)
    pause_s = float(rng.uniform(0.1, 0.9))
    sentences = max(2, round(seconds / (2.5 + pause_s)))
    audio = np.zeros(total, np.float32)
    at = round(float(rng.uniform(0, 2.5)) * sample_rate)
    say = english_sentence if voice.language == "en" else made_up_sentence
    # One to three sentences are spoken in one call, then comes a pause.
    for _ in range(3 * sentences):
        if at >= total:
            break
        text = " ".join(say(rng) for _ in range(rng.integers(1, 4)))
        spoken, rate = speak(voice, text, speed=speed, pitch=pitch)
        spoken = np.asarray(soxr.resample(spoken, rate * size, sample_rate), dtype=np.float32)
        loudest = float(np.max(np.abs(spoken), initial=0.0))
        if loudest < 1e-4:
            continue
        heard = np.flatnonzero(np.abs(spoken) > 0.01 * loudest)
        spoken = spoken[heard[0] : heard[-1] + 1] * np.float32(0.5 / loudest)
        piece = spoken[: total - at] * np.float32(rng.uniform(0.7, 1.0))
        audio[at : at + len(piece)] = piece
        pause = float(rng.exponential(pause_s)) + (2.5 if rng.random() < 0.12 else 0.1)
        at += len(piece) + round(pause * sample_rate)
    return audio, voice.source


_WORDS = {
    "who": (
        "the engineer; my neighbour; our old teacher; the captain; a tall stranger; "
        "the night nurse; her brother; the baker; every student; the committee; "
        "a tired driver; the young painter; their lawyer; nobody; the orchestra; a clever fox; "
        "the weather office; our visitor; the mayor"
    ),
    "did": (
        "carried; forgot; repaired; described; measured; painted; followed; ordered; "
        "questioned; sold; borrowed; examined; finished; noticed; recorded; promised; "
        "returned; opened; counted; moved"
    ),
    "what": (
        "the broken window; seven yellow boxes; a letter from Vienna; the last train ticket; "
        "every single page; a very heavy piano; the missing key; some fresh bread; "
        "the wrong number; the garden fence; an unusual machine; the final report; "
        "a bottle of water; their new plan; the green bicycle; a photograph of the harbour; "
        "thirty old records; the early show"
    ),
    "when": (
        "on Thursday; before breakfast; after the storm; last winter; in the afternoon; "
        "at midnight; without asking; as quickly as possible; in complete silence; "
        "for the second time; near the river; under the bridge; at the corner; "
        "behind the station; with great care"
    ),
    "say": (
        "I think; to be honest; as you know; believe me; in my opinion; well; listen; "
        "of course; however; by the way; strangely enough; first of all; in other words; "
        "for example"
    ),
    "ask": (
        "can you hear me; what time is it; where did they go; shall we start again; "
        "is that right; how much does it cost; who left the door open; why is it so quiet; "
        "are we still live"
    ),
}
_SYLLABLES = "ka ra to mi lo sen ta ri no ma pe du ve la si ne ko da ba fi ul ti an es or"


def english_sentence(rng: np.random.Generator) -> str:
    """Make up a sentence or a question from a small grammar."""

    def pick(kind: str) -> str:
        return str(rng.choice(_WORDS[kind].split("; ")))

    shape = rng.random()
    if shape < 0.15:
        return f"{pick('ask')}?".capitalize()
    if shape < 0.25:
        digits = " ".join(str(d) for d in rng.integers(0, 100, size=rng.integers(2, 5)))
        return f"{pick('say')}, {digits}.".capitalize()
    core = f"{pick('who')} {pick('did')} {pick('what')} {pick('when')}"
    if shape < 0.55:
        return f"{pick('say')}, {core}.".capitalize()
    if shape < 0.75:
        return f"{core}, and {pick('who')} {pick('did')} {pick('what')}.".capitalize()
    return f"{core}.".capitalize()


def made_up_sentence(rng: np.random.Generator) -> str:
    """Make up words of syllables that any language's rules can pronounce."""
    syllables = _SYLLABLES.split()
    words = ["".join(rng.choice(syllables, size=rng.integers(1, 4))) for _ in range(10)]
    return " ".join(words[: int(rng.integers(5, 11))]).capitalize() + "."
