"""How much memory a job needs, counted before it starts.

The arrays of a job are counted from their shapes. A bundle does
not say what its networks need while they run; that is estimated from the size of the weights, as
for a transformer of the usual proportions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bridge.bundles.manifest import VELOCITY, Manifest
from bridge.errors import MemoryBudgetError
from bridge.scratch import DEFAULT, Scratch

_FLOAT_BYTES: Final = 4
# States held while solving: the flow, its velocity, the midpoint and its velocity, and noise.
_STATES: Final = 5
# Stretches of all signals that are worked on at a time, with what is made of them.
_STRETCHES: Final = 4
# What a velocity network holds per frame while it runs: this many times the width of a block,
# one row of an attention map per head and copy, and copies of the state, among them the maps of a
# network that works at the resolution of its latents, as mini's U-Net does. Fitted to the peak
# resident memory of mini (width 320, 768 latent channels) on the CPU: windows of 250 frames, 1, 4
# and 8 at a time, and one of 1000 frames come out at 1.2, 1.0, 0.9 and 1.2 times what was measured.
_WIDTHS: Final = 13
_MAPS: Final = 2
_STATE_COPIES: Final = 22
_HEAD_WIDTH: Final = 64
# A block has some 14 width^2 weights, and a network about width / 128 blocks: true of mini (320
# wide, 4 blocks) as of SAM Audio (2048, 16), within a tenth of the width.
_WEIGHTS_PER_CUBE: Final = 14 / 128


@dataclass(frozen=True)
class Need:
    """Bytes that a job needs.

    Attributes
    ----------
    arrays_bytes : int
        Audio, latents, states and stems, at their peak.
    window_bytes : int
        Estimate for one window in the velocity network.
    """

    arrays_bytes: int
    window_bytes: int

    @property
    def least_bytes(self) -> int:
        """What the job needs with one window at a time."""
        return self.arrays_bytes + self.window_bytes


def count_need(
    manifest: Manifest,
    *,
    channels: int,
    samples: int,
    sample_rate: int,
    prompts: int,
    window: int,
    candidates: int = 1,
    views: int = 1,
    scratch: Scratch = DEFAULT,
    answered_in_memory: bool = True,
) -> Need:
    """Count what a job needs.

    Parameters
    ----------
    manifest : Manifest
        Of the model.
    channels, samples, sample_rate : int
        Of the mixture.
    prompts : int
    window : int
        Frames per window.
    candidates : int
        Per prompt.
    views : int
        Signals that the model hears of the mixture.
    scratch : Scratch
        Keeps the large arrays in files.
    answered_in_memory : bool
        Whether mixture and stems are in memory.
    """
    heard = -(-samples * manifest.sample_rate // sample_rate)
    frames = -(-heard // manifest.hop_length)
    coded = views * frames * manifest.latent_channels

    def held(count: int, floats: int) -> int:
        """Return the bytes in memory of a number of arrays of a given size."""
        size_bytes = _FLOAT_BYTES * floats
        return count * size_bytes if size_bytes <= scratch.small_bytes else 0

    states = held(1, 2 * prompts * candidates * coded)
    solving = held(3 if manifest.hears_beside else 1, coded) + _STATES * states
    decoding = states + held(2 * (prompts + 1) + candidates - 1, views * heard)
    rebuilding = held(prompts + 1, views * heard) + held(prompts + 1, views * samples)
    answers = (prompts + 2) * channels * samples
    rebuilding += _FLOAT_BYTES * answers if answered_in_memory else 0
    always = held(1, channels * samples) + held(1, views * heard)
    stretch = min(scratch.stretch, samples)
    working = _STRETCHES * _FLOAT_BYTES * (views + channels) * stretch
    arrays = always + working + max(solving, decoding, rebuilding)
    return Need(arrays, window_bytes(manifest, min(window, frames)))


def window_bytes(manifest: Manifest, frames: int) -> int:
    """Estimate what the velocity network needs for one window of that many frames."""
    file = manifest.graphs[VELOCITY].file
    # Weights may be in separate files, which begin with the name of their graph.
    stored_bytes = sum(
        info.size_bytes for name, info in manifest.files.items() if name.startswith(file)
    )
    width = (stored_bytes / _FLOAT_BYTES / _WEIGHTS_PER_CUBE) ** (1 / 3)
    per_frame = (
        _WIDTHS * width
        + _MAPS * width / _HEAD_WIDTH * frames
        + _STATE_COPIES * 2 * manifest.latent_channels
    )
    return int(_FLOAT_BYTES * frames * per_frame)


def plan_batch(need: Need, budget_bytes: int | None, most: int) -> int:
    """Decide how many windows go through the network at a time.

    Parameters
    ----------
    need : Need
    budget_bytes : int or None
        What the job may use; None takes what is free.
    most : int
        Upper limit.

    Raises
    ------
    MemoryBudgetError
        If not even one fits; the message has the numbers.
    """
    allowed = _available_bytes() if budget_bytes is None else budget_bytes
    if need.least_bytes > allowed:
        raise MemoryBudgetError(
            f"the job needs about {need.least_bytes / 1e6:.0f} MB ({need.arrays_bytes / 1e6:.0f} "
            f"MB of audio and states, {need.window_bytes / 1e6:.0f} MB for a window), and "
            f"{allowed / 1e6:.0f} MB are allowed; separate fewer prompts or less audio at a time, "
            "or take a shorter window_s"
        )
    return min(most, max(1, (allowed - need.arrays_bytes) // max(1, need.window_bytes)))


def _available_bytes() -> int:
    # Loaded here: commands that let a server compute only count.
    import psutil

    return int(psutil.virtual_memory().available)
