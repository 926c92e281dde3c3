"""What the acceptance of a model asks beyond plain scores: phrasings, spans, songs, seams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.engine import Engine
from bridge.flow.windows import plan_windows, window_frames
from bridge.request import Prompt, Settings, Span
from onnx_export.training.families import FAMILIES
from onnx_export.training.mixing import MIN_SPAN_S, stretches
from onnx_export.training.test_set import activity
from plugin_host.audio_files import Audio, read_audio
from plugin_host.evaluation import Case
from plugin_host.scores import si_sdr_db

_FRAME_S = 0.025
_EDGE_S = 0.5
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
    """Ask for every stem by a held-out phrasing, and by its name with spans.

    Parameters
    ----------
    plain : dict of (case, stem) to float
        SI-SDR that the name alone brought, in dB.

    Yields
    ------
    kind : str
        ``"phrasing"`` or ``"spans"``.
    change : Change
    """
    turn: dict[str, int] = {}
    for case in cases:
        mixture, info = read_audio(case.mixture)
        for name, path in case.stems.items():
            if (case.name, name) not in plain:
                continue
            truth = read_audio(path)[0]
            spans, share = true_spans(truth, info.sample_rate)
            prompts = {"spans": Prompt(name, name, tuple(spans))} if spans else {}
            if name in FAMILIES:
                phrases = FAMILIES[name].held_out
                turn[name] = turn.get(name, -1) + 1  # in turn, so that all are heard
                prompts["phrasing"] = Prompt(phrases[turn[name] % len(phrases)], name)
            for kind, prompt in prompts.items():
                stem = engine.separate(mixture, info.sample_rate, [prompt]).stems[name]
                change_db = si_sdr_db(stem, truth) - plain[case.name, name]
                yield kind, Change(case.name, name, prompt.text, change_db, share)
        on_case()


def song_against_pieces(engine: Engine, song: Case, piece_s: float = 6.0) -> list[float]:
    """Compare a song through windows with its pieces, each separated alone.

    Both are scored piece by piece, so that the difference is the windows' alone.

    Returns
    -------
    list of float
        For each stem the mean over pieces of SI-SDR in the song less that of the piece, in dB.
    """
    mixture, info = read_audio(song.mixture)
    size = round(piece_s * info.sample_rate)
    differences = []
    for name, path in song.stems.items():
        truth = read_audio(path)[0]
        whole = engine.separate(mixture, info.sample_rate, [Prompt(name, name)]).stems[name]
        changes = []
        for start in range(0, mixture.shape[1] - size + 1, size):
            part = slice(start, start + size)
            level = [float(np.mean(x[:, part].astype(np.float64) ** 2)) for x in (truth, mixture)]
            if level[0] <= level[1] * 10 ** (-_FAINT_DB / 10):
                continue
            alone = engine.separate(
                np.ascontiguousarray(mixture[:, part]), info.sample_rate, [Prompt(name, name)]
            ).stems[name]
            expected = truth[:, part]
            changes.append(si_sdr_db(whole[:, part], expected) - si_sdr_db(alone, expected))
        if changes:
            differences.append(float(np.mean(changes)))
    return differences


def window_edges_s(engine: Engine, seconds: float) -> tuple[list[float], float]:
    """Say where the default windows begin and end inside a clip, and by how much they advance."""
    manifest = engine.manifest
    settings = Settings().resolve(manifest)
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
        mixture, info = read_audio(song.mixture)
        rate = info.sample_rate
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
            prompts = [Prompt(name, name)]
            error = _error(engine.separate(mixture, rate, prompts).stems[name], truth)
            cut = np.ascontiguousarray(mixture[:, shift:])
            other = np.zeros(samples)
            other[shift:] = _error(
                engine.separate(cut, rate, prompts).stems[name], truth[:, shift:]
            )
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
