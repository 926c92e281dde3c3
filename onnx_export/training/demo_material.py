"""Makes the mixture that `stembridge demo` separates: drums, a bass line and a speaker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from onnx_export.training.families import FAMILIES
from onnx_export.training.grooves import write_drums
from onnx_export.training.parts import write_part
from onnx_export.training.performance import perform
from onnx_export.training.render import Instrument, render_parts
from onnx_export.training.songs import Part, Sheet
from onnx_export.training.speech import VOICES, speak
from onnx_export.training.test_set import pan, to_pcm

__all__ = ["make_demo"]

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
