"""How much memory a job needs, counted before it starts.

The arrays of a job are counted from their shapes. What a network needs while it runs is not
written in a bundle; it is estimated as so many copies of a window's state, generously.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psutil

from bridge.errors import MemoryBudgetError
from bridge.manifest import Manifest

_FLOAT_BYTES: Final = 4
# States held while solving: the flow, its velocity, the midpoint and its velocity, and noise.
_STATES: Final = 5
# Copies of a window's state (W, 2C) that stand for the activations of a velocity network; a
# transformer's widths and attention maps come to less than this in the models at hand.
_ACTIVATIONS: Final = 100


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
    manifest: Manifest, *, channels: int, samples: int, sample_rate: int, prompts: int, window: int
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
    """
    heard = -(-samples * manifest.sample_rate // sample_rate)
    frames = -(-heard // manifest.hop_length)
    state = 2 * manifest.latent_channels
    solving = frames * manifest.latent_channels + _STATES * prompts * frames * state
    decoding = prompts * frames * state + 2 * (prompts + 1) * heard
    rebuilding = (prompts + 1) * (heard + samples) + (prompts + 2) * channels * samples
    always = channels * samples + samples + heard
    floats = always + max(solving, decoding, rebuilding)
    return Need(_FLOAT_BYTES * floats, _FLOAT_BYTES * _ACTIVATIONS * min(window, frames) * state)


def plan_batch(need: Need, budget_bytes: int | None, most: int) -> int:
    """Decide how many windows go through the network at a time.

    Parameters
    ----------
    need : Need
    budget_bytes : int or None
        What the job may use; None takes what the machine has free.
    most : int
        No more than this.

    Raises
    ------
    MemoryBudgetError
        If not even one fits; the message has the numbers.
    """
    allowed = psutil.virtual_memory().available if budget_bytes is None else budget_bytes
    if need.least_bytes > allowed:
        raise MemoryBudgetError(
            f"the job needs about {need.least_bytes / 1e6:.0f} MB ({need.arrays_bytes / 1e6:.0f} "
            f"MB of audio and states, {need.window_bytes / 1e6:.0f} MB for a window), and "
            f"{allowed / 1e6:.0f} MB are allowed; separate fewer prompts or less audio at a time, "
            "or take a shorter window_s"
        )
    return min(most, max(1, (allowed - need.arrays_bytes) // max(1, need.window_bytes)))
