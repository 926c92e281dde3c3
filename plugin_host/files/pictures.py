"""One picture of a separation: the mixture and its stems as spectrograms on one scale."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridge.errors import printable
from bridge.request import Span
from bridge.scratch import LongArray

_RANGE_DB = 72.0
_COLUMNS = 1400
_BANDS = 220
_LOWEST_HZ = 40.0
_TICKS_HZ = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
_BACKGROUND = "#14151a"
_INK = "#e8e8ec"
_FAINT = "#8b8d98"
_PRESENT = "#5fd38d"
_PREDICTED = "#5fb2d3"
_ABSENT = "#f0717b"


def draw_separation(
    title: str,
    mixture: LongArray,
    stems: Mapping[str, LongArray],
    sample_rate: int,
    *,
    spans: Mapping[str, Sequence[Span]] | None = None,
    predicted: Mapping[str, Sequence[Span]] | None = None,
    notes: Mapping[str, str] | None = None,
) -> bytes:
    """Draw spectrograms of the mixture and of every stem, one above the other.

    All panels share the time axis in seconds, a logarithmic frequency axis in kHz, and one scale
    in dB below the loudest point of the mixture, so that their colours can be compared.

    Parameters
    ----------
    title
        What is written above.
    mixture
        Float32 ``(channels, samples)``.
    stems
        Name to float32 of the same shape, in the order to be drawn.
    sample_rate
        Samples per second.
    spans
        Spans of each stem, drawn as a bar below its panel: green where the sound was said to be
        present, red where absent.
    predicted
        Spans that the model found, drawn in the same place, blue and dotted.
    notes
        A few words for the right upper corner of a stem's panel, such as its score.

    Returns
    -------
    A PNG.
    """
    with _matplotlib_itself():
        return _draw(title, mixture, stems, sample_rate, spans or {}, predicted or {}, notes or {})


def draw_mask(
    title: str,
    frame: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    points: Sequence[tuple[float, float, bool]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> bytes:
    """Draw a frame of a video, dimmed but for what a mask covers, with the marks that led to it.

    Parameters
    ----------
    title
        What is written above.
    frame
        ``(height, width, 3)``.
    mask
        ``(height, width)``.
    points
        Places in pixels, and whether each is on the object: green, else red.
    boxes
        Left, top, right and bottom in pixels.

    Returns
    -------
    A PNG.
    """
    with _matplotlib_itself():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        height, width = mask.shape
        figure = Figure(figsize=(8.0, 0.6 + 8.0 * height / width), dpi=130, facecolor=_BACKGROUND)
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        axis.imshow(np.where(mask[..., np.newaxis], frame, frame // 3))
        if mask.any() and not mask.all():
            axis.contour(mask.astype(np.float32), levels=[0.5], colors=[_PREDICTED], linewidths=1.5)
        for x, y, on in points:
            axis.plot(x, y, "o", color=_PRESENT if on else _ABSENT, markeredgecolor=_INK)
        for left, top, right, bottom in boxes:
            sides = (right - left, bottom - top)
            axis.add_patch(Rectangle((left, top), *sides, fill=False, edgecolor=_PRESENT))
        axis.set_title(printable(title), color=_INK, fontsize=10, parse_math=False)
        axis.set_axis_off()
        png = io.BytesIO()
        with warnings.catch_warnings():
            # What no font has is drawn as a box.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            metadata = {"Software": "stembridge"}
            figure.savefig(png, format="png", facecolor=_BACKGROUND, metadata=metadata)
        return png.getvalue()


@contextlib.contextmanager
def _matplotlib_itself() -> Iterator[None]:
    """Draw as matplotlib does without settings of others.

    It reads a ``matplotlibrc`` of the current folder, which may be anybody's: with ``text.usetex``
    in it, names of files and stems would be run as TeX.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def _draw(
    title: str,
    mixture: LongArray,
    stems: Mapping[str, LongArray],
    sample_rate: int,
    spans: Mapping[str, Sequence[Span]],
    predicted: Mapping[str, Sequence[Span]],
    notes: Mapping[str, str],
) -> bytes:
    # The object-oriented interface only: pyplot keeps global figures and picks a backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {"mixture": mixture, **stems}
    levels = {name: _log_spectrogram(audio, sample_rate) for name, audio in rows.items()}
    top_db = max(float(levels["mixture"].max()), -120.0)
    duration_s = mixture.shape[1] / sample_rate
    high_hz = _highest_hz(sample_rate)

    height = 0.9 + 1.45 * len(rows)
    figure = Figure(figsize=(11.0, height), dpi=130, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(
        left=0.125, right=0.895, top=1 - 0.48 / height, bottom=0.5 / height, hspace=0.13
    )
    _write(figure, 0.125, 1 - 0.3 / height, title, color=_INK, fontsize=12, weight="bold")
    image: Any = None
    for axis, (name, level) in zip(axes, levels.items(), strict=True):
        image = axis.imshow(
            level - top_db,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=-_RANGE_DB,
            vmax=0.0,
            extent=(0.0, duration_s, 0.0, 1.0),
            interpolation="nearest",
        )
        _dress_axis(axis, name, high_hz)
        if name in notes:
            _write(
                axis,
                0.995,
                0.93,
                notes[name],
                transform=axis.transAxes,
                ha="right",
                va="top",
                color=_INK,
                fontsize=9,
                bbox={"facecolor": _BACKGROUND, "alpha": 0.75, "edgecolor": "none", "pad": 2.5},
            )
        bars: list[tuple[Span, str, Any]] = [
            (span, _PRESENT if span.polarity == "+" else _ABSENT, "solid")
            for span in spans.get(name, ())
        ]
        bars += [(span, _PREDICTED, (0, (1.0, 0.5))) for span in predicted.get(name, ())]
        for span, colour, style in bars:
            axis.plot(
                [span.start_s, span.end_s],
                [0.02, 0.02],
                color=colour,
                linewidth=3.5,
                linestyle=style,
                solid_capstyle="butt",
                dash_capstyle="butt",
                clip_on=True,
            )
    axes[-1].set_xlim(0.0, duration_s)
    axes[-1].tick_params(axis="x", labelbottom=True)
    axes[-1].set_xlabel("time (s)", color=_INK, fontsize=9)
    scale = figure.add_axes((0.91, 0.5 / height, 0.014, 1 - 0.98 / height))
    bar = figure.colorbar(image, cax=scale)
    bar.set_label("level (dB below the mixture's loudest point)", color=_INK, fontsize=9)
    bar.ax.tick_params(colors=_FAINT, labelsize=8)
    bar.outline.set_visible(False)

    png = io.BytesIO()
    with warnings.catch_warnings():
        # What no font has is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        # Matplotlib's version in the file would make equal pictures differ between installations.
        figure.savefig(
            png, format="png", facecolor=_BACKGROUND, metadata={"Software": "stembridge"}
        )
    return png.getvalue()


def _write(where: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Write text as it is: a name with dollar signs is no formula."""
    where.text(x, y, printable(text), parse_math=False, **style)


def _dress_axis(axis: Any, name: str, high_hz: float) -> None:
    ticks = [hz for hz in _TICKS_HZ if _LOWEST_HZ <= hz <= high_hz]
    span = np.log(high_hz / _LOWEST_HZ)
    positions = [float(np.log(hz / _LOWEST_HZ) / span) for hz in ticks]
    axis.set_facecolor("black")
    # Labels closer than a line of text would touch.
    shown = [f"{hz / 1000:g}" if str(hz)[0] != "2" or hz == 20000 else "" for hz in ticks]
    for (i, low), (j, high) in itertools.pairwise(enumerate(positions)):
        if shown[i] and shown[j] and high - low < 0.07:
            shown[j] = ""
    axis.set_yticks(positions, shown)
    axis.set_ylim(0.0, 1.0)
    axis.tick_params(colors=_FAINT, labelsize=8, length=3, labelbottom=False)
    axis.set_ylabel("kHz", color=_FAINT, fontsize=8)
    short = name if len(name) <= 16 else name[:15] + "…"
    _write(
        axis,
        -0.075,
        0.5,
        short,
        transform=axis.transAxes,
        rotation=90,
        ha="center",
        va="center",
        color=_INK,
        fontsize=10,
        weight="bold",
    )
    for edge in axis.spines.values():
        edge.set_visible(False)


def _highest_hz(sample_rate: int) -> float:
    return max(min(sample_rate / 2, 20000.0), 2 * _LOWEST_HZ)


def _log_spectrogram(audio: LongArray, sample_rate: int) -> NDArray[np.float64]:
    """Return levels in dB, ``(bands, columns)``, bands evenly spaced on a logarithmic axis.

    Power is the mean over the channels; a column shows the loudest of the frames it covers, so
    that short hits survive in a long file.
    """
    size = 1 << max(6, round(np.log2(0.046 * sample_rate)))
    frames = max(1, min(_COLUMNS * 4, audio.shape[1] // (size // 4) + 1))
    starts = np.linspace(0, audio.shape[1], frames, endpoint=False).astype(np.int64)
    window = np.hanning(size)
    edges_hz = np.geomspace(_LOWEST_HZ, _highest_hz(sample_rate), _BANDS + 1)
    centres = np.sqrt(edges_hz[1:] * edges_hz[:-1]) * size / sample_rate
    low = np.clip(edges_hz[:-1] * size / sample_rate, 0, size // 2).astype(np.int64)
    # From here on a band is wider than a bin and holds several.
    first_wide = int(np.searchsorted(np.diff(edges_hz), 2.0 * sample_rate / size))
    columns = min(_COLUMNS, frames)
    picture = np.full((_BANDS, columns), 1e-20)
    bins = np.arange(size // 2 + 1)
    for index, start in enumerate(starts):
        first = int(start) - size // 2
        inside = audio[:, max(first, 0) : first + size].astype(np.float64)
        before = max(-first, 0)
        after = size - before - inside.shape[1]
        block = np.pad(inside, ((0, 0), (before, after))) * window
        power = (np.abs(np.fft.rfft(block)) ** 2).mean(axis=0) / (window.sum() / 2) ** 2
        logarithms = np.log(power + 1e-20)
        # Narrow bands lie between bins: interpolate; of the bins of a wide one take the loudest.
        bands = np.exp(np.interp(centres, bins, logarithms))
        if first_wide < _BANDS:
            bands[first_wide:] = np.maximum.reduceat(power, low[first_wide:])
        column = index * columns // frames
        picture[:, column] = np.maximum(picture[:, column], bands)
    return 10.0 * np.log10(picture)
