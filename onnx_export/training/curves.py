"""Loss and validation curves of a run, from its log."""

from __future__ import annotations

import io
import json
from pathlib import Path

from onnx_export.training.config import LOG_FILE

__all__ = ["CURVES", "draw_curves", "write_curves"]

CURVES = "curves.png"
_BACKGROUND, _INK, _FAINT = "#14151a", "#e8e8ec", "#8b8d98"
_COLOURS = ("#5fb2d3", "#f2b14c")


def _read(log: Path) -> dict[str, dict[int, float]]:
    """Read numbers by name and step; after a resumed run repeats steps, the later ones count."""
    series: dict[str, dict[int, float]] = {}
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line cut off when the run was stopped
        for name in ("loss", "median_db", "mean_db"):
            if name in entry:
                series.setdefault(name, {})[int(entry["step"])] = float(entry[name])
        for family, value in entry.get("families", {}).items():
            series.setdefault(f"family {family}", {})[int(entry["step"])] = float(value)
    return series


def draw_curves(log: Path) -> bytes:
    """Draw the loss above, and below it the improvement on held-out timbres.

    Parameters
    ----------
    log : Path
        The run's ``log.jsonl``.

    Returns
    -------
    bytes
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = _read(log)
    figure = Figure(figsize=(9, 7), dpi=110, facecolor=_BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    lines = {name: sorted(points.items()) for name, points in series.items()}
    if "loss" in lines:
        upper.plot(*zip(*lines["loss"], strict=True), color=_COLOURS[0], linewidth=1.2)
    for name, points in lines.items():
        if name.startswith("family "):
            lower.plot(*zip(*points, strict=True), color=_FAINT, linewidth=0.8, alpha=0.8)
            lower.annotate(name.removeprefix("family "), points[-1], (3, 0), color=_FAINT,
                           textcoords="offset points", fontsize=7, va="center")  # fmt: skip
    for name, colour in zip(("median_db", "mean_db"), _COLOURS, strict=True):
        if name in lines:
            lower.plot(*zip(*lines[name], strict=True), color=colour, linewidth=2,
                       marker=".", label=name.removesuffix("_db"))  # fmt: skip
    upper.set_ylabel("loss (log of relative error)", color=_INK)
    lower.set_ylabel("SI-SDR improvement, validation (dB)", color=_INK)
    lower.set_xlabel("step", color=_INK)
    if "median_db" in lines:
        lower.legend(facecolor=_BACKGROUND, edgecolor=_FAINT, labelcolor=_INK, loc="upper left")
    for axis in (upper, lower):
        axis.set_facecolor(_BACKGROUND)
        axis.tick_params(colors=_FAINT)
        axis.grid(color=_FAINT, alpha=0.2)
        for edge in axis.spines.values():
            edge.set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=_BACKGROUND, metadata={"Software": "stembridge"})
    return png.getvalue()


def write_curves(run: Path) -> Path:
    """Draw the curves of a run into its directory; returns the picture."""
    partial = run / f".{CURVES}.part"
    partial.write_bytes(draw_curves(run / LOG_FILE))
    return partial.replace(run / CURVES)
