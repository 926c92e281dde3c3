"""Pictures of an evaluation: bars by stem, and spectrograms of single cases."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from bridge.request import Prompt
from plugin_host.audio_files import read_audio
from plugin_host.evaluation.cases import Case
from plugin_host.evaluation.images import ideal_ratio_mask
from plugin_host.evaluation.scoring import Score
from plugin_host.evaluation.summary import by_stem
from plugin_host.pictures import draw_separation
from plugin_host.separators import Separator

_BACKGROUND, _INK, _FAINT = "#14151a", "#e8e8ec", "#8b8d98"
_MODEL, _IDEAL = "#5fb2d3", "#3a3d49"


def draw_bars(title: str, scores: Sequence[Score]) -> bytes:
    """Draw the median improvement of each stem between its two ends.

    Zero is the mixture itself; the wide bar behind is the ideal ratio mask; every score is a dot.

    Returns
    -------
    A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stems = by_stem(scores)
    figure = Figure(figsize=(max(6.0, 1.6 + 0.9 * len(stems)), 4.6), dpi=130,
                    facecolor=_BACKGROUND, layout="constrained")  # fmt: skip
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_facecolor(_BACKGROUND)
    for place, (name, total) in enumerate(stems.items()):
        axis.bar(place, total.oracle_improvement_db, width=0.8, color=_IDEAL, zorder=1)
        axis.bar(place, total.improvement_db, width=0.5, color=_MODEL, zorder=2)
        gains = [score.improvement_db for score in scores if score.stem == name]
        # Spread sideways by rank, so that equal scores do not hide each other.
        offsets = [place + 0.3 * ((i * 7) % 11 - 5) / 5 for i in range(len(gains))]
        axis.plot(offsets, gains, ".", color=_INK, markersize=3, alpha=0.6, zorder=3)
        axis.annotate(f"{total.improvement_db:.1f}", (place, max(0.0, total.improvement_db)),
                      (0, 3), textcoords="offset points", ha="center", color=_INK,
                      fontsize=9, weight="bold", zorder=4)  # fmt: skip
    axis.axhline(0.0, color=_FAINT, linewidth=1)
    axis.set_xticks(range(len(stems)), list(stems), color=_INK, fontsize=9)
    axis.set_ylabel("SI-SDR improvement (dB)", color=_INK, fontsize=9)
    axis.tick_params(colors=_FAINT, labelsize=8)
    axis.tick_params(axis="x", colors=_INK, rotation=30 if len(stems) > 6 else 0)
    axis.set_title(
        f"{title}\nblue: model, grey: ideal ratio mask, zero: mixture, dots: single stems",
        color=_INK, fontsize=10,
    )  # fmt: skip
    for edge in axis.spines.values():
        edge.set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=_BACKGROUND, metadata={"Software": "stembridge"})
    return png.getvalue()


def draw_case(
    title: str,
    separator: Separator,
    case: Case,
    score: Score,
    prompts: Mapping[str, str] | None = None,
) -> bytes:
    """Separate one stem of a case again and draw it beside the truth and the ideal mask.

    Returns
    -------
    A PNG.
    """
    mixture, info = read_audio(case.mixture)
    truth, _ = read_audio(case.stems[score.stem])
    prompt = Prompt((prompts or {}).get(score.stem, score.stem), score.stem)
    estimate = separator.separate(mixture, info.sample_rate, [prompt]).stems[score.stem]
    return draw_separation(
        f"{title}: {score.stem} of {case.name}",
        mixture,
        {
            "separated": estimate,
            "ideal mask": ideal_ratio_mask(mixture, truth, info.sample_rate),
            "truth": truth,
        },
        info.sample_rate,
        notes={
            "separated": f"{score.improvement_db:+.1f} dB SI-SDR",
            "ideal mask": f"{score.oracle_improvement_db:+.1f} dB",
        },
    )
