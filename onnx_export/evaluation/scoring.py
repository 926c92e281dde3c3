"""Separating every stem of every test mixture, scoring what comes back, and drawing the scores."""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridge.errors import printable
from bridge.request import Settings
from bridge.separation import Scores, Selection, Separator
from onnx_export.evaluation.cases import Audio, Case
from onnx_export.evaluation.sdr import (
    SHORTEST_SAMPLES,
    LogWmse,
    Sdr,
    bleedless_and_fullness,
    ideal_ratio_mask,
    image_error_db,
    si_sar_db,
    si_sdr_db,
    stft_distance,
)


@dataclass(frozen=True)
class Quality:
    """How near a signal is to a true stem; None for what is not defined, or was not asked.

    Attributes
    ----------
    si_sdr_db, si_sar_db, sdr_db : float or None
        In dB, higher is better.
    stft_distance : float or None
        Multi-resolution STFT distance, lower is better.
    log_wmse : float or None
        Higher is better; the only one that a silent stem has.
    bleedless, fullness : float or None
        0 to 100, higher is better.
    """

    si_sdr_db: float | None = None
    si_sar_db: float | None = None
    sdr_db: float | None = None
    stft_distance: float | None = None
    log_wmse: float | None = None
    bleedless: float | None = None
    fullness: float | None = None


#: The measures, in the order in which they are shown.
MEASURES = tuple(field.name for field in dataclasses.fields(Quality))

#: ``(signal, truth, mixture, other true stems, sample_rate)``, all (channels, samples).
Measure = Callable[[Audio, Audio, Audio, Sequence[Audio], int], Quality]


def measure_si_sdr(
    signal: Audio, truth: Audio, mixture: Audio, others: Sequence[Audio], sample_rate: int
) -> Quality:
    """Measure SI-SDR alone."""
    del mixture, others, sample_rate
    return Quality(si_sdr_db(signal, truth)) if truth.any() else Quality()


def measure_all(sdr: Sdr | None, log_wmse: LogWmse | None) -> Measure:
    """Return the function that measures everything.

    Parameters
    ----------
    sdr, log_wmse : callable or None
        From `onnx_export.evaluation.sdr`; None leaves that column empty.
    """

    def measure(
        signal: Audio, truth: Audio, mixture: Audio, others: Sequence[Audio], sample_rate: int
    ) -> Quality:
        weighted = log_wmse(mixture, signal, truth, sample_rate) if log_wmse else None
        if not truth.any():
            return Quality(log_wmse=weighted)
        sounding = truth.any(axis=1)
        long_enough = truth.shape[1] > SHORTEST_SAMPLES
        bleedless, fullness = bleedless_and_fullness(signal, truth, sample_rate)
        return Quality(
            si_sdr_db(signal, truth),
            si_sar_db(signal, truth, others),
            sdr(signal, truth, sample_rate) if sdr else None,
            stft_distance(signal[sounding], truth[sounding]) if long_enough else None,
            weighted,
            bleedless,
            fullness,
        )

    return measure


@dataclass(frozen=True)
class Score:
    """How one stem of one mixture came out.

    Attributes
    ----------
    case, stem : str
    mixture, estimate, oracle : Quality
        Of the mixture, the model's stem and the ideal ratio mask's.
    wrong_db : float or None
        Mean SI-SDR against this stem of what the prompts of the other stems brought.
    absent_db : float or None
        Level, relative to the mixture, of what a prompt for something that is not there brought.
    image_error_db : float or None
        Error of the level difference between the two channels.
    judged : Scores or None
        What the model's judge says, if it was asked.
    similarity : float or None
        How alike CLAP finds stem and prompt, if it was asked.
    """

    case: str
    stem: str
    mixture: Quality
    estimate: Quality
    oracle: Quality
    wrong_db: float | None = None
    absent_db: float | None = None
    image_error_db: float | None = None
    judged: Scores | None = None
    similarity: float | None = None

    @property
    def improvement_db(self) -> float | None:
        """SI-SDR improvement over the mixture; None for a silent stem."""
        return _difference(self.estimate.si_sdr_db, self.mixture.si_sdr_db)

    @property
    def oracle_improvement_db(self) -> float | None:
        """The improvement that the ideal ratio mask reaches."""
        return _difference(self.oracle.si_sdr_db, self.mixture.si_sdr_db)


def evaluate(
    separator: Separator,
    cases: Sequence[Case],
    prompts: Mapping[str, str] | None = None,
    *,
    rest: str | None = None,
    measure: Measure = measure_si_sdr,
    spans: bool = True,
    settings: Settings | None = None,
    side: int | None = None,
    on_case: Callable[[int], None] = lambda _done: None,
    attempt: Callable[[Path], AbstractContextManager[None]] = lambda _mixture: nullcontext(),
) -> Iterator[Score]:
    """Separate every stem of every mixture by a prompt of its own, and score it.

    Stems that are silent throughout count only where a measure is defined for them, and of what
    has no true stem only what the judge and CLAP say is known.

    Parameters
    ----------
    separator : Separator
        An engine or a client.
    cases : sequence of Case
    prompts : mapping of str to str, optional
        Prompt by stem name; the name itself where there is none.
    rest : str, optional
        Stem that no prompt names: what is left when all others are taken, such as MUSDB's
        ``other``.
    measure : callable
        What is measured: `measure_si_sdr`, or one of `measure_all`.
    spans : bool
        Whether the model is told where the set says that a stem is heard.
    on_case : callable
        Called with the number of mixtures done.
    attempt : callable
        Given the file of a mixture, returns the context in which it is separated and scored. One
        that swallows what goes wrong has the others go on.
    settings : Settings, optional
        As for ``separate``.
    side : int, optional
        Pixels of the pictures that the model takes; None shows it no videos.
    """
    texts = dict(prompts or {})
    names = sorted({name for case in cases for name in case.stems} - {rest})
    for index, case in enumerate(cases):
        others = [name for name in names if name not in case.stems]
        absent = others[index % len(others)] if others else None
        with attempt(case.mixture):
            # All of a mixture's scores or none.
            yield from list(
                _score(separator, case, texts, absent, rest, measure, spans, settings, side)
            )
        on_case(index + 1)


def _score(
    separator: Separator,
    case: Case,
    texts: Mapping[str, str],
    absent: str | None,
    rest: str | None,
    measure: Measure,
    spans: bool,
    settings: Settings | None,
    side: int | None,
) -> Iterator[Score]:
    """Score the stems of one mixture, and what a stem that is absent from it gives."""
    mixture, truths, sample_rate = case.read()
    asked_about: dict[str, Selection] = {}

    def ask(*wanted: str) -> list[Audio]:
        asked = [case.prompt(name, texts.get(name), spans=spans) for name in wanted]
        result = separator.separate(mixture, sample_rate, asked, settings)
        asked_about.update({each.stem: each for each in result.report.selections})
        return [*(result.stems[name] for name in wanted), result.residual]

    for name in case.wanted:
        seen = None if side is None else case.video(side)
        asked = [case.prompt(name, texts.get(name), spans=spans)]
        more: dict[str, Any] = {} if seen is None else {"video": seen}
        found = separator.separate(mixture, sample_rate, asked, settings, **more)
        said = next(iter(found.report.selections), Selection(name, 0))
        yield Score(
            case.name,
            name,
            Quality(),
            Quality(),
            Quality(),
            judged=said.scores,
            similarity=said.similarity,
        )
    sounding = {name for name, truth in truths.items() if truth.any()}
    estimates = {
        name: ask(name)[0]
        for name, truth in truths.items()
        if name != rest
        and (name in sounding or measure(truth, truth, mixture, (), sample_rate) != Quality())
    }
    if rest in sounding and estimates.keys() & sounding:
        estimates[str(rest)] = ask(*(name for name in estimates if name in sounding))[-1]
    absent_db = None
    if absent is not None:
        absent_db = level_db(ask(absent)[0]) - level_db(mixture)
    unnamed = mixture - np.sum(list(truths.values()), axis=0) if truths else mixture
    for name, estimate in estimates.items():
        truth = truths[name]
        others = [other for key, other in truths.items() if key != name]
        oracle = ideal_ratio_mask(mixture, truth, sample_rate)
        wrong = [
            si_sdr_db(estimates[other], truth)
            for other in estimates
            if name in sounding and name != rest and other in sounding - {name, rest}
        ]
        others.append(unnamed)
        said = asked_about.get(name, Selection(name, 0))
        yield Score(
            case.name,
            name,
            measure(mixture, truth, mixture, others, sample_rate),
            measure(estimate, truth, mixture, others, sample_rate),
            measure(oracle, truth, mixture, others, sample_rate),
            wrong_db=float(np.mean(wrong)) if wrong else None,
            absent_db=absent_db,
            image_error_db=image_error_db(estimate, truth),
            judged=said.scores,
            similarity=said.similarity,
        )


def level_db(audio: Audio) -> float:
    """Mean power in dB relative to full scale, at least -120."""
    return float(10 * np.log10(max(float(np.mean(audio.astype(np.float64) ** 2)), 1e-12)))


@dataclass(frozen=True)
class Summary:
    """Medians over a test set; the fields are those of `Score`.

    Attributes
    ----------
    stems : int
        How many scores.
    improvement_db, oracle_improvement_db : float
        Not a number where every stem is silent or unknown.
    oracle_share : float
        The improvement as a share of the ideal ratio mask's.
    worst_db : float
        The lowest improvement.
    wrong_drop_db : float or None
        What a wrong prompt costs.
    """

    stems: int
    improvement_db: float
    oracle_improvement_db: float
    oracle_share: float
    worst_db: float
    wrong_drop_db: float | None
    absent_db: float | None
    image_error_db: float | None
    mixture: Quality
    estimate: Quality
    oracle: Quality
    judged: Scores | None
    similarity: float | None


def summarise(scores: Sequence[Score]) -> Summary:
    """Take medians of one score or more; a level that belongs to a mixture counts once."""
    gains = [score.improvement_db for score in scores]
    gain_db, ideal_db = (
        math.nan if value is None else value
        for value in (_median(gains), _median([s.oracle_improvement_db for s in scores]))
    )
    absent = {score.case: score.absent_db for score in scores}
    judged = [score.judged for score in scores if score.judged is not None]
    return Summary(
        stems=len(scores),
        improvement_db=gain_db,
        oracle_improvement_db=ideal_db,
        oracle_share=gain_db / ideal_db if ideal_db > 0.0 else math.nan,
        worst_db=min((gain for gain in gains if gain is not None), default=math.nan),
        wrong_drop_db=_median([_difference(s.estimate.si_sdr_db, s.wrong_db) for s in scores]),
        absent_db=_median(list(absent.values())),
        image_error_db=_median([s.image_error_db for s in scores]),
        mixture=_median_quality([s.mixture for s in scores]),
        estimate=_median_quality([s.estimate for s in scores]),
        oracle=_median_quality([s.oracle for s in scores]),
        judged=Scores(
            *(
                float(np.median([getattr(each, name) for each in judged]))
                for name in Scores.__struct_fields__
            )
        )
        if judged
        else None,
        similarity=_median([s.similarity for s in scores]),
    )


def by_stem(scores: Sequence[Score]) -> dict[str, Summary]:
    """Summarise each stem's scores, in order of name."""
    names = sorted({score.stem for score in scores})
    return {name: summarise([s for s in scores if s.stem == name]) for name in names}


def _median_quality(qualities: Sequence[Quality]) -> Quality:
    return Quality(*(_median([getattr(each, name) for each in qualities]) for name in MEASURES))


def _difference(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


_BACKGROUND, _INK, _FAINT = "#14151a", "#e8e8ec", "#8b8d98"
_MODEL, _IDEAL = "#5fb2d3", "#3a3d49"


def draw_bars(title: str, scores: Sequence[Score]) -> bytes:
    """Draw the median improvement of each stem between its two ends.

    Zero is the mixture itself; the wide bar behind is the ideal ratio mask; every score is a dot.

    Returns
    -------
    A PNG.
    """
    import matplotlib

    # Not by the settings in the current folder, which may be anybody's and have names run as TeX.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        return _draw(title, scores)


def _draw(title: str, scores: Sequence[Score]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stems = by_stem([score for score in scores if score.improvement_db is not None])
    figure = Figure(figsize=(max(6.0, 1.6 + 0.9 * len(stems)), 4.6), dpi=130,
                    facecolor=_BACKGROUND, layout="constrained")  # fmt: skip
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_facecolor(_BACKGROUND)
    for place, (name, total) in enumerate(stems.items()):
        axis.bar(place, total.oracle_improvement_db, width=0.8, color=_IDEAL, zorder=1)
        axis.bar(place, total.improvement_db, width=0.5, color=_MODEL, zorder=2)
        gains = [
            score.improvement_db
            for score in scores
            if score.stem == name and score.improvement_db is not None
        ]
        # Spread sideways by rank, so that equal scores do not hide each other.
        offsets = [place + 0.3 * ((i * 7) % 11 - 5) / 5 for i in range(len(gains))]
        axis.plot(offsets, gains, ".", color=_INK, markersize=3, alpha=0.6, zorder=3)
        axis.annotate(f"{total.improvement_db:.1f}", (place, max(0.0, total.improvement_db)),
                      (0, 3), textcoords="offset points", ha="center", color=_INK,
                      fontsize=9, weight="bold", zorder=4)  # fmt: skip
    axis.axhline(0.0, color=_FAINT, linewidth=1)
    names = [printable(name) for name in stems]
    axis.set_xticks(range(len(stems)), names, color=_INK, fontsize=9, parse_math=False)
    axis.set_ylabel("SI-SDR improvement (dB)", color=_INK, fontsize=9)
    axis.tick_params(colors=_FAINT, labelsize=8)
    axis.tick_params(axis="x", colors=_INK, rotation=30 if len(stems) > 6 else 0)
    axis.set_title(
        f"{printable(title)}\n"
        "blue: model, grey: ideal ratio mask, zero: mixture, dots: single stems",
        color=_INK, fontsize=10, parse_math=False,
    )  # fmt: skip
    for edge in axis.spines.values():
        edge.set_visible(False)
    png = io.BytesIO()
    with warnings.catch_warnings():
        # What no font has is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(
            png, format="png", facecolor=_BACKGROUND, metadata={"Software": "stembridge"}
        )
    return png.getvalue()
