"""Overlapping windows of equal length over a clip, and the soft masks that merge them.

Windows are never padded, since a network that normalises over time would give another result for a
padded window. Instead the last window is shifted back to end with the clip, and a clip shorter than
a window is one window of its own length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridge.bundles.manifest import BundleManifest
from bridge.errors import InputError
from bridge.request import ResolvedSettings


@dataclass(frozen=True)
class WindowPlan:
    """The positions of the windows of a clip.

    Attributes
    ----------
    frames : int
        Length of the clip.
    length : int
        Length of every window.
    overlap : int
        Frames that neighbouring windows share; the last two may share more.
    starts : tuple of int
        First frame of each window, increasing.
    """

    frames: int
    length: int
    overlap: int
    starts: tuple[int, ...]


def plan_windows(frames: int, window: int, overlap: int) -> WindowPlan:
    """Cover a clip with windows.

    Parameters
    ----------
    frames : int
        Length of the clip, at least 1.
    window, overlap : int
        Length of a window and what it shares with the next, ``0 <= overlap < window``.

    Returns
    -------
    WindowPlan

    Raises
    ------
    ValueError
        If the numbers are out of range.
    """
    if frames < 1 or not 0 <= overlap < window:
        raise ValueError(
            f"cannot cover {frames} frames with windows of {window} that overlap by {overlap}; "
            "expected frames >= 1 and 0 <= overlap < window"
        )
    if frames <= window:
        return WindowPlan(frames, frames, 0, (0,))
    last = frames - window
    starts = (*range(0, last, window - overlap), last)
    return WindowPlan(frames, window, overlap, starts)


def soft_masks(plan: WindowPlan) -> npt.NDArray[np.float32]:
    """Return the weights that merge the windows of a plan.

    Each window fades with a raised cosine over its overlaps, but not at the two ends of the clip,
    where it has no neighbour; the weights are then normalised frame by frame.

    Returns
    -------
    ndarray of float32, shape (windows, length)
        Positive; over all windows they sum to one at every frame of the clip.
    """
    ramp = np.sin((np.arange(plan.overlap) + 0.5) * (np.pi / (2 * max(plan.overlap, 1)))) ** 2
    weights = np.ones((len(plan.starts), plan.length))
    total = np.zeros(plan.frames)
    for weight, start in zip(weights, plan.starts, strict=True):
        if start > 0:
            weight[: plan.overlap] *= ramp
        if start + plan.length < plan.frames:
            weight[plan.length - plan.overlap :] *= ramp[::-1]
        total[start : start + plan.length] += weight
    shares = [total[start : start + plan.length] for start in plan.starts]
    return (weights / np.stack(shares)).astype(np.float32)


def window_frames(settings: ResolvedSettings, manifest: BundleManifest) -> tuple[int, int]:
    """Convert the window and the overlap of a request to latent frames.

    Returns
    -------
    window, overlap : int
        Rounded to whole frames, ``0 <= overlap < window``.

    Raises
    ------
    InputError
        If the window is longer than the model can take.
    """
    rate_hz = manifest.frame_rate_hz
    window = max(1, round(settings.window_s * rate_hz))
    longest = manifest.max_frames
    if longest is not None and window > longest:
        raise InputError(
            f"a window of {settings.window_s:g} s is too long for the model {manifest.name!r}; "
            f"give at most {longest / rate_hz:g} s"
        )
    return window, min(round(settings.overlap_s * rate_hz), window - 1)
