"""All that a bundled model has to reach, measured by one call and laid out as tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridge.bundles.manifest import resolve
from bridge.engine import Engine
from bridge.flow.windows import plan_windows, window_frames
from bridge.request import Prompt, Settings, Span
from onnx_export.evaluation import Case, Score, by_stem, evaluate, find_cases, summarise
from onnx_export.evaluation.cases import Audio, read_audio
from onnx_export.evaluation.sdr import si_sdr_db
from onnx_export.training.held_out import activity, make_long_song, make_test_set
from onnx_export.training.mixing import MIN_SPAN_S, stretches
from onnx_export.training.sound.families import FAMILIES

_FRAME_S = 0.025
_EDGE_S = 0.5
#: How people might put it who never saw the lists of phrasings: none of them is in training, alone
#: or in a template (tested).
FREE_WORDINGS = {
    "drums": (
        "whatever the drummer hits", "the guy behind the kit", "boom boom clap rhythm",
        "stuff hit with sticks", "percussive hits keeping time", "snare hits and cymbal crashes",
        "the backbeat",
    ),
    "bass": (
        "the deep plucked notes", "low frequency groove instrument", "rumbling four string riff",
        "what the bassist does down low", "sub heavy melodic line", "the lowest instrument",
        "slap and fingerstyle low notes",
    ),
    "piano": (
        "hammered keys melody", "the grand in the room", "chords on the ivories",
        "whatever the pianist plays", "tinkling keyboard", "classical keys", "a jazz trio's keys",
    ),
    "guitar": (
        "six string strumming", "plucked steel strings chords", "fretboard licks",
        "the axe", "campfire strumming", "whatever the guitarist plays", "fingerpicked chords",
    ),
    "strings": (
        "the orchestra's violins", "sweeping bowed melody", "sustained violin chords",
        "symphonic fiddles", "lush bowed background", "whatever is played with a bow",
        "cinematic violins swelling",
    ),
    "brass": (
        "blaring trumpets", "big band blowers", "trombone and trumpet hits", "fanfare instruments",
        "funky horn punches", "whatever the saxophonist blows",
    ),
    "organ": (
        "sustained hammond chords", "church keyboard with pipes", "swirling rotary keys",
        "gospel keyboard", "the big instrument in the cathedral", "held chords on drawbars",
    ),
    "flute": (
        "breathy high melody", "airy wind melody", "somebody blowing a clarinet",
        "soft woodwind tune", "whistling wooden pipe", "the oboe or flute line",
    ),
    "speech": (
        "words someone says", "the guy who talks", "a lady telling a story",
        "whatever is being said", "the voice of a newsreader", "chatter of a person",
        "an interview voice",
    ),
}  # fmt: skip
#: An offset of -20 dBFS.
_OFFSET = 0.1
#: How much softer than the rest a passage is.
_SOFTER_DB = 26.0
#: Of the mixtures every fourth is heard in other ways.
_EVERY = 4
#: A piece in which a stem is this far below the mixture says nothing about it.
_FAINT_DB = 30.0


@dataclass(frozen=True)
class Change:
    """What another prompt than the stem's name changed.

    Attributes
    ----------
    case, stem : str
    prompt : str
        What was asked instead.
    change_db : float
        SI-SDR with it less SI-SDR with the name alone.
    activity : float
        Share of the time in which the stem sounds.
    """

    case: str
    stem: str
    prompt: str
    change_db: float
    activity: float


def _ask(engine: Engine, audio: Audio, rate: int, name: str) -> Audio:
    """Separate the stem of a name, by that name."""
    return engine.separate(audio, rate, [Prompt(name, name)]).stems[name]


def true_spans(truth: Audio, sample_rate: int) -> tuple[list[Span], float]:
    """Mark where a stem sounds, as a careful user would.

    Returns
    -------
    spans : list of Span
        Stretches of at least 250 ms within 40 dB of the loudest frame.
    share : float
        Share of the time they cover.
    """
    sounding = stretches(
        activity(truth.mean(axis=0), sample_rate), max(1, round(MIN_SPAN_S / _FRAME_S))
    )
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sounding, [False]])))
    length_s = truth.shape[1] / sample_rate
    spans = [
        Span(float(start * _FRAME_S), min(float(stop * _FRAME_S), length_s))
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]
    return spans, float(sounding.mean())


def compare_prompts(
    engine: Engine,
    cases: Sequence[Case],
    plain: dict[tuple[str, str], float],
    on_case: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, Change]]:
    """Ask for every stem by a held-out phrasing, freely worded, and by its name with spans.

    Parameters
    ----------
    plain : dict of (case, stem) to float
        SI-SDR that the name alone brought, in dB.

    Yields
    ------
    kind : str
        ``"phrasing"``, ``"wording"`` or ``"spans"``.
    change : Change
    """
    turn: dict[str, int] = {}
    for case in cases:
        mixture, sample_rate = read_audio(case.mixture)
        for name, path in case.stems.items():
            if (case.name, name) not in plain:
                continue
            truth = read_audio(path)[0]
            spans, share = true_spans(truth, sample_rate)
            prompts = {"spans": Prompt(name, name, tuple(spans))} if spans else {}
            if name in FAMILIES:
                turn[name] = turn.get(name, -1) + 1  # in turn, so that all are heard
                lists = {"phrasing": FAMILIES[name].held_out, "wording": FREE_WORDINGS.get(name)}
                for kind, phrases in lists.items():
                    if phrases:
                        prompts[kind] = Prompt(phrases[turn[name] % len(phrases)], name)
            for kind, prompt in prompts.items():
                stem = engine.separate(mixture, sample_rate, [prompt]).stems[name]
                change_db = si_sdr_db(stem, truth) - plain[case.name, name]
                yield kind, Change(case.name, name, prompt.text, change_db, share)
        on_case()


def hear_otherwise(engine: Engine, cases: Sequence[Case]) -> Iterator[tuple[str, Change]]:
    """Separate the same music in mono, with an offset, and with a soft second half.

    Yields
    ------
    kind : str
        ``"mono"``, whose `Change.change_db` is the improvement over the mono mixture; ``"offset"``
        and ``"soft"``, whose change is against the music as it is, the latter in its second half.
    change : Change
    """
    for case in cases:
        mixture, rate = read_audio(case.mixture)
        half = mixture.shape[1] // 2
        gain = np.ones(mixture.shape[1], np.float32)
        gain[half:] = 10 ** (-_SOFTER_DB / 20)
        single = np.ascontiguousarray(mixture.mean(axis=0, keepdims=True))
        for name, path in case.stems.items():
            truth = read_audio(path)[0]
            share = true_spans(truth, rate)[1]
            plain = _ask(engine, mixture, rate, name)
            alone = truth.mean(axis=0, keepdims=True)
            if np.any(alone):
                answer = _ask(engine, single, rate, name)
                improved = si_sdr_db(answer, alone) - si_sdr_db(single, alone)
                yield "mono", Change(case.name, name, name, improved, share)
            raised = _ask(engine, mixture + _OFFSET, rate, name)
            lost = si_sdr_db(raised, truth) - si_sdr_db(plain, truth)
            yield "offset", Change(case.name, name, name, lost, share)
            if np.any(truth[:, half:]):
                later = truth[:, half:]
                soft = _ask(engine, mixture * gain, rate, name)[:, half:]
                lost = si_sdr_db(soft, later) - si_sdr_db(plain[:, half:], later)
                yield "soft", Change(case.name, name, name, lost, share)


def song_against_pieces(engine: Engine, song: Case, piece_s: float = 6.0) -> list[float]:
    """Compare a song through windows with its pieces, each separated alone.

    Both are scored piece by piece, so that the difference is the windows' alone.

    Returns
    -------
    list of float
        For each stem the mean over pieces of SI-SDR in the song less that of the piece, in dB.
    """
    mixture, sample_rate = read_audio(song.mixture)
    size = round(piece_s * sample_rate)
    differences = []
    for name, path in song.stems.items():
        truth = read_audio(path)[0]
        whole = _ask(engine, mixture, sample_rate, name)
        changes = []
        for start in range(0, mixture.shape[1] - size + 1, size):
            part = slice(start, start + size)
            level = [float(np.mean(x[:, part].astype(np.float64) ** 2)) for x in (truth, mixture)]
            if level[0] <= level[1] * 10 ** (-_FAINT_DB / 10):
                continue
            alone = _ask(engine, np.ascontiguousarray(mixture[:, part]), sample_rate, name)
            expected = truth[:, part]
            changes.append(si_sdr_db(whole[:, part], expected) - si_sdr_db(alone, expected))
        if changes:
            differences.append(float(np.mean(changes)))
    return differences


def window_edges_s(engine: Engine, seconds: float) -> tuple[list[float], float]:
    """Say where the default windows begin and end inside a clip, and by how much they advance."""
    manifest = engine.manifest
    settings = resolve(Settings(), manifest)
    window, overlap = window_frames(settings, manifest)
    plan = plan_windows(int(seconds * manifest.frame_rate_hz), window, overlap)
    edges = {start for start in plan.starts if start > 0}
    edges |= {start + plan.length for start in plan.starts if start + plan.length < plan.frames}
    frame_s = 1.0 / manifest.frame_rate_hz
    return sorted(edge * frame_s for edge in edges), (window - overlap) * frame_s


@dataclass(frozen=True)
class Seams:
    """Error near the edges of windows as a ratio of amplitudes.

    Attributes
    ----------
    elsewhere : float
        To the error everywhere else; this also has in it what the music does there.
    shifted : float
        To the error of the very same moments with windows that lie half a stride apart.
    """

    elsewhere: float
    shifted: float


def measure_seams(engine: Engine, songs: Sequence[Case], seconds: float = 40.0) -> Seams | None:
    """Compare the error within 0.5 s of window edges with the error elsewhere.

    Parameters
    ----------
    songs : sequence of Case
        At least as long as `seconds`.

    Returns
    -------
    Seams or None
        None where the windows have no edges, or nothing lies between them.
    """
    near_power, far_power, same_power, moved_power = (0.0, 0.0, 0.0, 0.0)
    near_count = far_count = 0
    for song in songs:
        mixture, sample_rate = read_audio(song.mixture)
        rate = sample_rate
        mixture = np.ascontiguousarray(mixture[:, : round(seconds * rate)])
        samples = mixture.shape[1]
        edges, stride_s = window_edges_s(engine, samples / rate)
        shift = round(stride_s / 2 * rate)
        moved_edges, _ = window_edges_s(engine, (samples - shift) / rate)
        near = _near(edges, samples, rate)
        moved = np.zeros(samples, bool)
        moved[shift:] = _near(moved_edges, samples - shift, rate)
        later = np.arange(samples) >= shift + round(_EDGE_S * rate)
        only_near = near & ~moved & later
        for name, path in song.stems.items():
            truth = read_audio(path)[0][:, :samples]
            error = _error(_ask(engine, mixture, rate, name), truth)
            cut = np.ascontiguousarray(mixture[:, shift:])
            other = np.zeros(samples)
            other[shift:] = _error(_ask(engine, cut, rate, name), truth[:, shift:])
            scale = 1.0 / max(float(error.mean()), 1e-12)  # every stem counts alike
            near_power += scale * float(error[near].sum())
            far_power += scale * float(error[~near].sum())
            near_count += int(near.sum())
            far_count += int((~near).sum())
            same_power += scale * float(error[only_near].sum())
            moved_power += scale * float(other[only_near].sum())
    if min(near_power, far_power, moved_power) <= 0.0:
        return None
    return Seams(
        float(np.sqrt(near_power / near_count / (far_power / far_count))),
        float(np.sqrt(same_power / moved_power)),
    )


def _near(edges_s: Sequence[float], samples: int, rate: int) -> NDArray[np.bool_]:
    near = np.zeros(samples, bool)
    for edge in edges_s:
        near[max(0, round((edge - _EDGE_S) * rate)) : round((edge + _EDGE_S) * rate)] = True
    return near


def _error(estimate: Audio, truth: Audio) -> NDArray[np.float64]:
    """Error power per sample (samples,), summed over the channels."""
    return np.asarray(np.sum((estimate.astype(np.float64) - truth) ** 2, axis=0))


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
        By ``phrasing``, ``wording``, ``spans``, ``mono``, ``offset`` and ``soft``, see
        `compare_prompts` and `hear_otherwise`.
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
    plain = {
        (score.case, score.stem): score.estimate.si_sdr_db
        for score in scores
        if score.estimate.si_sdr_db is not None
    }
    done = iter(range(1, total + 1))
    changes: dict[str, list[Change]] = {
        kind: [] for kind in ("phrasing", "wording", "spans", "mono", "offset", "soft")
    }
    for kind, change in compare_prompts(
        engine, cases, plain, lambda: progress("prompts", next(done), total)
    ):
        changes[kind].append(change)
    for kind, change in hear_otherwise(engine, cases[::_EVERY]):
        changes[kind].append(change)
    song_changes = [song_against_pieces(engine, song) for song in songs]
    progress("song", 1, 2)
    seams = measure_seams(engine, songs) if songs else None
    progress("song", 2, 2)

    all_, stems = summarise(scores), by_stem(scores)
    medians = {
        kind: float(np.median([c.change_db for c in found])) if found else None
        for kind, found in changes.items()
    }

    def loses(kind: str) -> float | None:
        """Say what other words cost, as a difference of medians."""
        if not changes[kind]:
            return None
        named = [plain[c.case, c.stem] for c in changes[kind]]
        changed = [plain[c.case, c.stem] + c.change_db for c in changes[kind]]
        return float(np.median(named) - np.median(changed))

    rare = [c.change_db for c in changes["spans"] if c.activity < 0.5]
    size_mb = sum(info.size_bytes for info in engine.manifest.files.values()) / 1e6
    criteria = [
        Criterion("SI-SDR improvement, median", all_.improvement_db, 11.0),
        Criterion("share of the ideal ratio mask's", all_.oracle_share, 0.63, unit=""),
        *(
            Criterion(f"{name}, median", stems[name].improvement_db, 10.0)
            for name in _LEADERS
            if name in stems
        ),
        Criterion("lowest family, median", min(s.improvement_db for s in stems.values()), 3.0),
        Criterion("worst stem of any mixture", all_.worst_db, -10.0),
        Criterion("right less wrong prompt, median", all_.wrong_drop_db, 10.0),
        Criterion("absent target against mixture, median", all_.absent_db, -25.0, False),
        Criterion("held-out phrasings lose, difference of medians", loses("phrasing"), 1.0, False),
        Criterion("free wording loses, difference of medians", loses("wording"), 3.0, False),
        Criterion("in mono, improvement, median", medians["mono"], 6.0),
        Criterion("change by an offset of -20 dBFS, median", medians["offset"], -0.5),
        Criterion("change in a passage 26 dB softer, median", medians["soft"], -0.5),
        Criterion(
            "spans add where the target sounds less than half, median",
            float(np.median(rare)) if rare else None,
            1.0,
        ),
        Criterion(
            "spans, worst change of any stem",
            min((c.change_db for c in changes["spans"]), default=None),
            -1.0,
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
        Criterion("size of the bundle", size_mb, 60.0, False, "MB"),
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
