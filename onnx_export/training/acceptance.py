"""All that a bundled model has to reach, measured by one call and laid out as tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bridge.engine import Engine
from onnx_export.training.measures import (
    Change,
    compare_prompts,
    measure_seams,
    song_against_pieces,
)
from onnx_export.training.test_set import make_long_song, make_test_set
from plugin_host.evaluation import Case, Score, by_stem, evaluate, find_cases, summarise

#: Songs for what windows do, beside the short mixtures.
LONG = "long"
_LONG_FAMILIES = (
    ["drums", "bass", "piano", "speech"],
    ["guitar", "strings", "brass"],
    ["organ", "flute", "drums"],
)
_LEADERS = ("drums", "bass", "speech")


@dataclass(frozen=True)
class Criterion:
    """One number with its goal.

    Attributes
    ----------
    name : str
    value : float or None
        None if it could not be measured.
    goal : float
    at_least : bool
        Whether the goal is a lower or an upper bound.
    unit : str
    """

    name: str
    value: float | None
    goal: float
    at_least: bool = True
    unit: str = "dB"

    @property
    def passed(self) -> bool:
        """Whether the goal is reached."""
        if self.value is None or not np.isfinite(self.value):
            return False
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True)
class Acceptance:
    """Everything measured of one model.

    Attributes
    ----------
    about : dict
        Model, checksum, settings, set and time.
    criteria : list of Criterion
    scores : list of Score
    changes : dict of str to list of Change
        By ``phrasing`` and ``spans``.
    song_changes_db : list of list of float
        For each long song by stem, see `song_against_pieces`.
    """

    about: dict[str, Any]
    criteria: list[Criterion]
    scores: list[Score]
    changes: dict[str, list[Change]] = field(default_factory=dict)
    song_changes_db: list[list[float]] = field(default_factory=list)


def prepare_set(
    folder: Path, mixtures: int, seed: int, split: str
) -> tuple[list[Case], list[Case]]:
    """Make the mixtures and the long songs of a set that are missing, and list them."""
    if not (folder / "index.json").is_file():
        make_test_set(folder, mixtures, seed, split=split)
    # A set that is there says itself of what timbres it is.
    split = json.loads((folder / "index.json").read_text()).get("split", split)
    for number, families in enumerate(_LONG_FAMILIES):
        song = folder / LONG / f"{number:03d}"
        if not (song / "mixture.wav").is_file():
            make_long_song(song, families, seed + number, split=split)
    return find_cases(folder), find_cases(folder / LONG)


def measure(
    engine: Engine,
    cases: Sequence[Case],
    songs: Sequence[Case],
    *,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> Acceptance:
    """Measure everything with the model's own defaults, one prompt at a time.

    Parameters
    ----------
    engine : Engine
    cases : sequence of Case
        Short mixtures.
    songs : sequence of Case
        Long ones, compared with their pieces; they also tell about seams.
    progress : callable
        Receives stage, done and total.
    """
    started = time.perf_counter()
    total = len(cases)
    scores = list(evaluate(engine, cases, on_case=lambda done: progress("mixtures", done, total)))
    plain = {(score.case, score.stem): score.estimate_db for score in scores}
    done = iter(range(1, total + 1))
    changes: dict[str, list[Change]] = {"phrasing": [], "spans": []}
    for kind, change in compare_prompts(
        engine, cases, plain, lambda: progress("prompts", next(done), total)
    ):
        changes[kind].append(change)
    song_changes = [song_against_pieces(engine, song) for song in songs]
    progress("song", 1, 2)
    seams = measure_seams(engine, songs) if songs else None
    progress("song", 2, 2)

    all_, stems = summarise(scores), by_stem(scores)
    held_out = [plain[c.case, c.stem] + c.change_db for c in changes["phrasing"]]
    named = [plain[c.case, c.stem] for c in changes["phrasing"]]
    rare = [c.change_db for c in changes["spans"] if c.activity < 0.5]
    size_mb = sum(info.size_bytes for info in engine.manifest.files.values()) / 1e6
    criteria = [
        Criterion("SI-SDR improvement, median", all_.improvement_db, 8.0),
        Criterion("share of the ideal ratio mask's", all_.oracle_share, 0.5, unit=""),
        *(
            Criterion(f"{name}, median", stems[name].improvement_db, 10.0)
            for name in _LEADERS
            if name in stems
        ),
        Criterion("lowest family, median", min(s.improvement_db for s in stems.values()), 3.0),
        Criterion("worst stem of any mixture", all_.worst_db, -3.0),
        Criterion("right less wrong prompt, median", all_.wrong_drop_db, 10.0),
        Criterion("absent target against mixture, median", all_.absent_db, -25.0, False),
        Criterion(
            "held-out phrasings lose, difference of medians",
            float(np.median(named) - np.median(held_out)) if held_out else None,
            1.0,
            False,
        ),
        Criterion(
            "spans add where the target sounds less than half, median",
            float(np.median(rare)) if rare else None,
            1.0,
        ),
        Criterion(
            "spans, worst change of any stem",
            min((c.change_db for c in changes["spans"]), default=None),
            -0.3,
        ),
        Criterion("image error, median", all_.image_error_db, 1.0, False),
        Criterion(
            "60 s song through windows less its 6 s pieces, the worst song",
            min((float(np.mean(stems)) for stems in song_changes if stems), default=None),
            -0.3,
        ),
        Criterion(
            "error at window edges, ratio to elsewhere",
            seams.elsewhere if seams else None, 1.1, False, "",
        ),
        Criterion(
            "error at window edges, ratio to shifted windows",
            seams.shifted if seams else None, 1.1, False, "",
        ),
        Criterion("size of the bundle", size_mb, 25.0, False, "MB"),
    ]  # fmt: skip
    manifest = engine.manifest
    about = {
        "model": manifest.name,
        "sha256": manifest.sha256,
        "provider": engine.provider,
        "solver": manifest.solver,
        "steps": manifest.steps,
        "window_s": manifest.window_s,
        "overlap_s": manifest.overlap_s,
        "reconstruct": manifest.reconstruct,
        "seed": 0,
        "mixtures": total,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return Acceptance(about, criteria, scores, changes, song_changes)


def to_json(result: Acceptance) -> str:
    """Write everything down."""
    stems = {name: asdict(total) for name, total in by_stem(result.scores).items()}
    return json.dumps(
        {
            "about": result.about,
            "criteria": [{**asdict(c), "passed": c.passed} for c in result.criteria],
            "all": asdict(summarise(result.scores)),
            "stems": stems,
            "song_changes_db": result.song_changes_db,
            "scores": [asdict(score) for score in result.scores],
            "changes": {k: [asdict(c) for c in v] for k, v in result.changes.items()},
        },
        indent=1,
    )


def criteria_rows(result: Acceptance) -> list[tuple[str, str, str, str]]:
    """Return name, value, goal and verdict of every criterion as text."""
    rows = []
    for item in result.criteria:
        digits = 2 if item.unit == "" or abs(item.goal) < 1 else 1
        unit = f" {item.unit}" if item.unit else ""
        value = "-" if item.value is None else f"{item.value:.{digits}f}{unit}"
        sign = "at least" if item.at_least else "at most"
        rows.append(
            (item.name, value, f"{sign} {item.goal:g}{unit}", "yes" if item.passed else "no")
        )
    return rows


def stem_rows(result: Acceptance) -> list[tuple[str, ...]]:
    """Return stem, count, improvement, ideal mask, worst and cost of a wrong prompt as text."""
    totals = {**by_stem(result.scores), "all": summarise(result.scores)}
    return [
        (
            name,
            str(total.stems),
            f"{total.improvement_db:.1f}",
            f"{total.oracle_improvement_db:.1f}",
            f"{total.worst_db:.1f}",
            "-" if total.wrong_drop_db is None else f"{total.wrong_drop_db:.1f}",
        )
        for name, total in totals.items()
    ]


CRITERIA_TITLES = ("measure", "reached", "goal", "met")
STEM_TITLES = ("family", "n", "improvement", "ideal ratio mask", "worst", "wrong prompt costs")


def to_markdown(result: Acceptance) -> str:
    """Lay both tables out for the model card."""
    about = result.about
    head = (
        f"{about['model']}, {about['mixtures']} mixtures, {about['provider']}, "
        f"{about['solver']} {about['steps']}, windows of {about['window_s']:g} s with "
        f"{about['overlap_s']:g} s of overlap, `{about['reconstruct']}`, seed {about['seed']}; "
        f"bundle {about['sha256'][:12]}"
    )
    parts = [head]
    for titles, rows in (
        (CRITERIA_TITLES, criteria_rows(result)),
        (STEM_TITLES, stem_rows(result)),
    ):
        lines = [titles, tuple("---" for _ in titles), *rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"
