"""Stems of unlabelled recordings, which a teacher separates by prompts, as a pool to train on.

As in SAM Audio's data engine, most of what a teacher makes is thrown away: a stem stays if it
sounds for long enough, if judge and CLAP of the teacher's bundle score it well, and if the teacher
finds hardly more of it in what it left. Each piece of each recording is judged by itself.

``POOL/labels.jsonl`` has a line for every piece and prompt: where the stem lies, or why there is
none, the scores, the recording with its checksum, and the teacher.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from bridge.bundles.manifest import CLAP, JUDGE, BundleManifest
from bridge.engine import Engine
from bridge.errors import InputError
from bridge.files import sha256_of_file
from bridge.request import Prompt, Settings
from bridge.separation import Selection
from onnx_export.training.mixing import MIN_SPAN_S, SILENCE_RMS, stretches
from onnx_export.training.stem_pool import (
    AUDIO_SUFFIXES,
    POOL_RATE,
    family_of,
    keep_prompts,
    open_pool,
    write_stem,
)

__all__ = ["LABELS_FILE", "Label", "Limits", "pseudo_label", "tally"]

LABELS_FILE = "labels.jsonl"
_FRAME_S = 0.02
_SILENT_DB = -120.0


@dataclass(frozen=True)
class Limits:
    """What a stem has to reach.

    Attributes
    ----------
    active_s : float
        Time for which it sounds: above -40 dBFS, in stretches of 250 ms at least.
    spans_s : float
        Time for which the teacher's span predictor hears it, if the bundle has one.
    judge : float
        The judge's overall score, 1 to 5, if the bundle has one.
    similarity : float
        CLAP's of stem and prompt, -1 to 1, if the bundle has it.
    left_db : float
        The most that a second pass may find in the residual, relative to the stem.
    """

    active_s: float = 2.0
    spans_s: float = 1.0
    judge: float = 3.5
    similarity: float = 0.2
    left_db: float = -12.0


@dataclass(frozen=True)
class Label:
    """What became of one piece of a recording and one prompt.

    Attributes
    ----------
    recording, sha256 : str
        Path below the folder, and checksum of the file.
    start_s, seconds : float
        The piece.
    family, prompt : str
        The folder of the stem, and what the teacher was asked for.
    teacher, teacher_sha256, licence : str
        The bundle, and the licence of its weights, which what they make may be bound by.
    path : str or None
        The stem, below the pool; None if it was refused.
    reason : str
        Why it was; empty if it was not.
    active_s, left_db : float
    spans_s, judge, similarity : float or None
        See `Limits`; None for what the bundle lacks.
    """

    recording: str
    sha256: str
    start_s: float
    seconds: float
    family: str
    prompt: str
    teacher: str
    teacher_sha256: str
    licence: str
    path: str | None
    reason: str
    active_s: float
    left_db: float
    spans_s: float | None
    judge: float | None
    similarity: float | None


def pseudo_label(
    folder: Path,
    out: Path,
    prompts: Mapping[str, Sequence[str]],
    teacher: Engine,
    limits: Limits | None = None,
    *,
    piece_s: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Label]:
    """Make a pool of stems that a teacher separates from recordings.

    Recordings that are labelled already are left alone, so that a stopped run goes on.

    Parameters
    ----------
    folder
        Recordings, in folders or not.
    out
        Root of the pool; it may hold other stems.
    prompts
        By stem: what the teacher is asked for, followed by other words for the same, which training
        uses too.
    teacher
        An engine with the teacher's bundle.
    limits
        What a stem has to reach.
    piece_s
        Longest piece that is judged by itself.
    progress
        Called with ``(recordings done, recordings)``.

    Returns
    -------
    list of Label
        One for every piece and prompt, also those of earlier runs.

    Raises
    ------
    InputError
        If there are no recordings or no prompts, or a file cannot be read.
    ValueError
        If the pool is of another rate, or a stem's name has no letters.
    StembridgeError
        As `Engine.separate` says.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not files or not prompts:
        raise InputError(
            f"{folder}: expected recordings and at least one prompt, found {len(files)} files "
            f"({', '.join(AUDIO_SUFFIXES)}) and {len(prompts)} prompts"
        )
    families = {family_of(name): list(texts) for name, texts in prompts.items()}
    open_pool(out)
    keep_prompts(out, families)
    path = out / LABELS_FILE
    labels = _read_labels(path)
    done = {(label.recording, label.family) for label in labels}
    for number, file in enumerate(files):
        name = file.relative_to(folder).as_posix()
        wanted = {key: texts[0] for key, texts in families.items() if (name, key) not in done}
        if wanted:
            found = list(_label(file, name, out, wanted, teacher, limits or Limits(), piece_s))
            labels += found
            with path.open("a", encoding="utf-8") as log:
                log.writelines(json.dumps(dataclasses.asdict(each)) + "\n" for each in found)
        if progress:
            progress(number + 1, len(files))
    return labels


def tally(labels: Sequence[Label]) -> dict[str, Counter[str]]:
    """Count by family what was kept, under an empty reason, and refused for which reason."""
    counts: dict[str, Counter[str]] = {}
    for label in labels:
        counts.setdefault(label.family, Counter())[label.reason.partition(":")[0]] += 1
    return counts


def _read_labels(path: Path) -> list[Label]:
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Label(**row) for row in rows]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not the labels of a pool ({error}); choose another --out") from (
            error
        )


def _label(
    file: Path,
    name: str,
    out: Path,
    wanted: Mapping[str, str],
    teacher: Engine,
    limits: Limits,
    piece_s: float,
) -> Iterator[Label]:
    """Label all pieces of a recording; stems are for training alone, which true ones validate."""
    try:
        audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{file}: not audio that can be read ({error}); move it away") from error
    checksum = sha256_of_file(file)
    manifest = teacher.manifest
    length = max(1, round(piece_s * rate))
    for number, start in enumerate(range(0, len(audio), length)):
        piece = np.ascontiguousarray(audio[start : start + length].T)
        for family, prompt in wanted.items():
            stem, scores = _separate(teacher, piece, rate, prompt)
            reason = _reason(scores, limits)
            path = None
            if not reason:
                song = f"{family_of(str(Path(name).with_suffix('')))}-{number:03d}"
                mono = soxr.resample(stem.mean(axis=0), rate, POOL_RATE)
                write_stem(out / "train" / family, song, "pseudo", mono)
                path = f"train/{family}/{song}__pseudo.npy"
            yield Label(
                recording=name,
                sha256=checksum,
                start_s=start / rate,
                seconds=piece.shape[1] / rate,
                family=family,
                prompt=prompt,
                teacher=manifest.name,
                teacher_sha256=manifest.sha256,
                licence=manifest.licence,
                path=path,
                reason=reason,
                **scores,
            )


def _separate(
    teacher: Engine, piece: NDArray[np.float32], rate: int, prompt: str
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Separate a piece, score the stem, and look for more of it in what is left."""
    scoring = _scores(teacher.manifest)
    asked = [Prompt(prompt, "target")]
    found = teacher.separate(piece, rate, asked, Settings(judge=scoring))
    stem = found.stems["target"]
    selection = next(iter(found.report.selections), Selection("target", 0))
    spans = [each.spans for each in found.report.predicted]
    left_db = _SILENT_DB
    if stem.any() and found.residual.any():
        more = teacher.separate(found.residual, rate, asked).stems["target"]
        left_db = max(_level_db(more) - _level_db(stem), _SILENT_DB)
    scores = {
        "active_s": _active_s(stem, rate),
        "left_db": left_db,
        "spans_s": sum(span.end_s - span.start_s for span in spans[0]) if spans else None,
        "judge": selection.scores.overall if selection.scores else None,
        "similarity": selection.similarity,
    }
    return stem, scores


def _scores(manifest: BundleManifest) -> bool:
    return JUDGE in manifest.graphs or CLAP in manifest.graphs


def _reason(scores: Mapping[str, Any], limits: Limits) -> str:
    """Say why a stem is refused; empty if it is not. What comes before the colon is the kind."""
    if scores["active_s"] < limits.active_s:
        return f"sounds too shortly: {scores['active_s']:.2f} s, expected {limits.active_s:g} s"
    if scores["spans_s"] is not None and scores["spans_s"] < limits.spans_s:
        return f"heard too shortly: {scores['spans_s']:.2f} s, expected {limits.spans_s:g} s"
    if scores["judge"] is not None and scores["judge"] < limits.judge:
        return f"judged badly: {scores['judge']:.2f}, expected {limits.judge:g}"
    if scores["similarity"] is not None and scores["similarity"] < limits.similarity:
        return f"unlike its prompt: {scores['similarity']:.2f}, expected {limits.similarity:g}"
    if scores["left_db"] > limits.left_db:
        return f"left behind: {scores['left_db']:.1f} dB, expected {limits.left_db:g} dB at most"
    return ""


def _active_s(stem: NDArray[np.float32], rate: int) -> float:
    """Seconds for which a stem (channels, samples) sounds, in any channel."""
    frame = max(1, round(_FRAME_S * rate))
    frames = -(-stem.shape[1] // frame)
    padded = np.zeros((len(stem), frames * frame), np.float32)
    padded[:, : stem.shape[1]] = stem
    energy = np.square(padded.reshape(len(stem), frames, frame)).mean(axis=2).max(axis=0)
    shortest = math.ceil(MIN_SPAN_S / _FRAME_S)
    return float(np.count_nonzero(stretches(energy > SILENCE_RMS**2, shortest)) * _FRAME_S)


def _level_db(audio: NDArray[np.float32]) -> float:
    return 10 * math.log10(max(float(np.mean(np.square(audio, dtype=np.float64))), 1e-20))
