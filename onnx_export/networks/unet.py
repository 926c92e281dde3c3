"""A convolutional network that sharpens the masks of the bundled model's transformer.

A transformer with one token for each frame knows of the whole window what sounds when, but has only
the width of its tokens for what a spectrum looks like in detail. Overtones, onsets, formants and
vibrato are shapes in time and frequency, the same wherever they lie, and a U-Net learns those from
little material (Ronneberger et al. 2015; Jansson et al. 2017, "Singing Voice Separation with Deep
U-Net Convolutional Networks"). One network serves every prompt: what is asked sets the scale and
shift of every normalised layer (Meseguer-Brocal & Peeters 2019, "Conditioned-U-Net"; the layer is
the adaptive group normalisation of Dhariwal & Nichol 2021). What comes up is added to what went
down, not put beside it, which halves the cost.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Channels of each level, over those of the first; and by what its entry divides the frames and the
#: frequencies. Frames are long already (32 ms), so that time is halved at every other level.
_LEVELS = ((1, 1, 2), (2, 2, 2), (4, 1, 2), (6, 2, 2), (8, 1, 2), (10, 2, 2))
#: Taps in time and in frequency, on the way down and on the way up.
_DOWN, _UP = (3, 5), (3, 3)
_GROUPS = 4
_CONDITION_DIM = 192


class _Unit(nn.Module):
    """A convolution, normalised, scaled and shifted by the condition, and SiLU."""

    def __init__(
        self,
        entering: int,
        leaving: int,
        taps: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        padding = (taps[0] // 2, taps[1] // 2)
        self.conv = nn.Conv2d(entering, leaving, taps, stride, padding, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, leaving)
        self.modulation = nn.Linear(_CONDITION_DIM, 2 * leaving)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        # The norm's sums over a whole window need float32, whatever the rest is computed in.
        normed = self.norm(self.conv(x).float()).to(scale.dtype)
        out: Tensor = functional.silu(normed * (1 + scale) + shift)
        return out


class MaskUNet(nn.Module):
    """Refine masks over frames and frequencies.

    Parameters
    ----------
    features : int
        Numbers that enter for each coefficient.
    masks : int
        Numbers that leave for each coefficient.
    width : int
        Channels of the first level, a multiple of four.
    channels : int
        Coefficients of a frame.
    condition_dim : int
        Width of the condition.
    """

    def __init__(
        self, features: int, masks: int, width: int, channels: int, condition_dim: int
    ) -> None:
        super().__init__()
        self.condition = nn.Linear(condition_dim, _CONDITION_DIM)
        widths = [width * times for times, _, _ in _LEVELS]
        self.down = nn.ModuleList(
            _Unit(entering, leaving, _DOWN, (frames, bins))
            for (entering, leaving), (_, frames, bins) in zip(
                pairwise([features, *widths]), _LEVELS, strict=True
            )
        )
        #: Added after the second level, where the frequencies have been halved twice: a low string
        #: and a cymbal may look alike but for where they lie.
        self.place = nn.Parameter(torch.zeros(widths[1], 1, math.ceil(channels / 4)))
        back = list(pairwise(widths))[::-1]
        self.narrow = nn.ModuleList(nn.Conv2d(below, above, 1) for above, below in back)
        self.up = nn.ModuleList(_Unit(above, above, _UP) for above, _ in back)
        self.last = nn.Conv2d(width, masks * _LEVELS[0][2], _UP, padding=1)
        # It begins by adding nothing, whatever is asked.
        for layer in (*(unit.modulation for unit in (*self.down, *self.up)), self.last):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return what is added to the masks.

        Parameters
        ----------
        x : Tensor, shape (B, features, T, C)
        condition : Tensor, shape (B, condition_dim)

        Returns
        -------
        Tensor, shape (B, masks, T, C)
        """
        condition = functional.silu(self.condition(condition))
        passed = []
        h = x
        for number, unit in enumerate(self.down):
            h = unit(h, condition)
            if number == 1:
                h = h + self.place
            passed.append(h)
        passed.pop()
        for narrow, unit, (_, frames, bins) in zip(
            self.narrow, self.up, _LEVELS[:0:-1], strict=True
        ):
            beside = passed.pop()
            h = functional.interpolate(narrow(h), scale_factor=(float(frames), float(bins)))
            # Cut what odd sizes have too much.
            h = unit(h[:, :, : beside.shape[2], : beside.shape[3]] + beside, condition)
        # Neighbouring frequencies leave beside each other (Shi et al. 2016, sub-pixel convolution).
        parts = self.last(h).unflatten(1, (-1, _LEVELS[0][2]))
        out: Tensor = parts.permute(0, 1, 3, 4, 2).flatten(3)
        return out[..., : x.shape[3]]
