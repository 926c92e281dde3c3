"""Where each coefficient of a stereo pair lies, for networks that hear one channel of it.

Sources that are panned to different places show in every coefficient that one of them dominates:
the ratio of the two channels is that source's. A network that is told these ratios can hear a
source as the notes that share a place, and can take all that lies at a place, which ratios of
power, clustered, do by themselves (Yilmaz & Rickard 2004, "Blind Separation of Speech Mixtures via
Time-Frequency Masking"; Avendano 2003, "Frequency-Domain Source Identification and Manipulation in
Stereo Mixes"). Here the clusters are the network's own business: places come in as features, and
go out as a gain for each place and band, which is added to the logits of its masks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Places between "in this channel only" (0) and "in the other only" (the last).
PLACES = 13
#: Bands of frequency in which the network hears places, and in which it chooses among them.
BANDS_HEARD, BANDS_CHOSEN = 24, 12
#: How much finer bands are at the bottom than at the top.
_WARP = 16.0
_FLOOR = 1e-4
#: Power below which a place counts as empty. Not lower, or rounding of places shows: what is loud
#: at one of them leaks into its neighbours by the last digits.
_FAINT = 1e-3


def band_of_channel(channels: int, bands: int) -> Tensor:
    """Return for each channel its band, about logarithmic in frequency: int64, shape (channels,).

    Low bands hold one channel at least, so that `bands` may not all be used by a small codec.
    """
    edges = torch.linspace(0, math.log1p(_WARP), bands + 1)[1:].expm1() / _WARP * channels
    return torch.bucketize(torch.arange(channels) + 0.5, edges).clamp(max=bands - 1)


def _differences(latents: Tensor) -> Tensor:
    above = functional.pad(latents[..., 1:], (0, 1))
    below = functional.pad(latents[..., :-1], (1, 0))
    return above - below


def _angle(own: Tensor, beside: Tensor) -> Tensor:
    """Return ``2 / pi * atan2(beside, own)`` to within 6e-5, for magnitudes.

    An odd polynomial of what `beside` has of the sum, fitted by least squares: products and sums
    round alike everywhere, while runtimes differ in their arctangents, and masks by place are
    steep.
    """
    x = beside / (own + beside + 1e-6) - 0.5
    square = x * x
    return 0.5 + x * (1.27214 + square * (-1.63246 + square * (2.95349 + square * -3.11707)))


class Panorama(nn.Module):
    """Features of places, and masks by place.

    Parameters
    ----------
    channels : int
        Of the codec.
    """

    heard_bands: Tensor
    chosen_bands: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        band = functional.one_hot(band_of_channel(channels, BANDS_HEARD), BANDS_HEARD).float()
        self.register_buffer("heard_bands", band / band.sum(0).clamp(min=1), persistent=False)
        self.register_buffer(
            "chosen_bands", band_of_channel(channels, BANDS_CHOSEN), persistent=False
        )

    @property
    def features(self) -> int:
        """Features per frame: place and likeness of every channel, power by place and band."""
        return 2 * self.channels + PLACES * BANDS_HEARD

    @property
    def gains(self) -> int:
        """Numbers per frame that choose places, for one mask."""
        return PLACES * BANDS_CHOSEN

    def forward(self, own: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
        """Locate every coefficient.

        Powers are those of the MDCT's pseudo-spectrum, see `onnx_export.mini.pseudo_spectrum`.

        Parameters
        ----------
        own, beside : Tensor, shape (B, T, C)
            The channel that is heard and the one beside it, at one level.

        Returns
        -------
        place : Tensor, shape (B, T, C)
            0 where all is in `own`, 1 where all is in `beside`, 0.5 in the middle: the angle of
            constant-power panning.
        features : Tensor, shape (B, T, features)
        """
        own, beside = own.float(), beside.float()  # squares of squares overflow in half precision
        across, across_beside = _differences(own), _differences(beside)
        power = own**2 + across**2
        power_beside = beside**2 + across_beside**2
        likeness = (own * beside + across * across_beside) * torch.rsqrt(
            power * power_beside + _FLOOR**2
        )
        place = _angle(power.sqrt(), power_beside.sqrt())
        total = power + power_beside
        at = place * (PLACES - 1)
        bands = self.heard_bands.float()
        by_place = [
            (total * functional.relu(1 - (at - number).abs())) @ bands for number in range(PLACES)
        ]
        spectra = torch.log(torch.cat(by_place, dim=-1) + _FAINT) * 0.25 + 0.5
        return place, torch.cat([2 * place - 1, likeness, spectra], dim=-1)

    def choose(self, place: Tensor, gains: Tensor) -> Tensor:
        """Read for every coefficient the gain of its place and band.

        Parameters
        ----------
        place : Tensor, shape (B, T, C)
        gains : Tensor, shape (B, T, M * gains)
            For each of M masks; bands one after the other, the places of each together.

        Returns
        -------
        Tensor, shape (B, T, M * C)
            Linear between neighbouring places.
        """
        table = gains.reshape(*gains.shape[:2], -1, self.gains)
        at = place * (PLACES - 1)
        lower = at.floor().clamp(0, PLACES - 2)
        share = (at - lower)[:, :, None]
        index = (self.chosen_bands * PLACES + lower.long())[:, :, None].expand(
            -1, -1, table.shape[2], -1
        )
        low, high = torch.gather(table, -1, index), torch.gather(table, -1, index + 1)
        return (low + share * (high - low)).flatten(2)
