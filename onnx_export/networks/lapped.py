"""The codec of the bundled model, a lapped transform, and where each of its coefficients lies.

The transform is an MDCT with a sine window, which is linear. It is factored into a fold, which
rotates sample pairs across each block boundary, and a DCT-IV of each block (Malvar 1992, "Signal
Processing with Lapped Transforms"; Princen & Bradley 1986 for the time-domain alias cancellation
behind it). At the two ends of a clip nothing is folded, so `T` blocks of samples become exactly `T`
frames and the transform is orthonormal at any length: no padding, and no energy lost at the edges.
Keeping only the low coefficients makes it a low-pass codec whose error is the missing band and
nothing else.

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


def dct4_matrix(size: int) -> Tensor:
    """Make the orthonormal, symmetric DCT-IV matrix, shape (size, size)."""
    n = torch.arange(size, dtype=torch.float64) + 0.5
    return torch.cos(math.pi / size * n[:, None] * n[None]).mul(math.sqrt(2.0 / size)).float()


class LappedCodec(nn.Module):
    """Encode blocks of `hop_length` samples as their lowest `channels` MDCT coefficients.

    Parameters
    ----------
    hop_length : int
        Samples per block and per latent frame; even.
    channels : int
        Coefficients kept, at most ``hop_length``; the band is
        ``channels / hop_length * sample_rate / 2``.

    Notes
    -----
    Coefficients are divided by `scale` (one standard deviation per channel, measured on training
    audio), so that every latent channel has unit variance.
    """

    basis: Tensor
    scale: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, hop_length: int, channels: int) -> None:
        super().__init__()
        self.hop_length, self.channels = hop_length, channels
        self.register_buffer("basis", dct4_matrix(hop_length)[:, :channels].contiguous())
        self.register_buffer("scale", torch.ones(channels))
        angle = math.pi / (2 * hop_length) * (torch.arange(hop_length // 2) + hop_length / 2 + 0.5)
        self.register_buffer("cosine", torch.cos(angle), persistent=False)
        self.register_buffer("sine", torch.sin(angle), persistent=False)

    def _fold(self, blocks: Tensor, direction: float) -> Tensor:
        """Rotate mirrored sample pairs across block boundaries; ``direction`` -1 undoes +1.

        The DCT-IV continues a block evenly to its left and oddly to its right: hence the signs.
        """
        half = self.hop_length // 2
        first, second = blocks[..., :half], blocks[..., half:]
        before = second[:, :-1].flip(-1)  # mirrored, so that index 0 touches the boundary
        after = first[:, 1:]
        sine, cosine = self.sine, self.cosine * direction
        folded_after = sine * after + cosine * before
        folded_before = sine * before - cosine * after
        first = torch.cat([first[:, :1], folded_after], dim=1)
        second = torch.cat([folded_before.flip(-1), second[:, -1:]], dim=1)
        return torch.cat([first, second], dim=-1)

    def encode(self, wav: Tensor) -> Tensor:
        """Encode ``wav`` (B, 1, T * hop_length) to latents (B, T, channels)."""
        blocks = wav.reshape(wav.shape[0], -1, self.hop_length)
        return self._fold(blocks, 1.0) @ self.basis / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, T, channels) to a waveform (B, 1, T * hop_length)."""
        blocks = self._fold((latents * self.scale) @ self.basis.T, -1.0)
        return blocks.reshape(latents.shape[0], 1, -1)


#: Places between "in this channel only" (0) and "in the other only" (the last).
PLACES = 13
#: Bands of frequency in which the network hears places, and in which it chooses among them, over
#: the lowest `BANDED_CHANNELS` of a codec; above those they go on by the same law.
BANDS_HEARD, BANDS_CHOSEN = 24, 12
BANDED_CHANNELS = 384
#: How much finer bands are at the bottom than at the top.
_WARP = 16.0
_FLOOR = 1e-4
#: Power below which a place counts as empty. Not lower, or rounding of places shows: what is loud
#: at one of them leaks into its neighbours by the last digits.
_FAINT = 1e-3


def band_of_channel(channels: int, bands: int) -> Tensor:
    """Return for each channel its band, about logarithmic in frequency: int64, shape (channels,).

    Low bands hold one channel at least, so that `bands` may not all be used by a small codec. A
    codec of more than `BANDED_CHANNELS` has more than `bands`, and its lowest channels are banded
    as those of one that ends there.
    """
    banded = min(channels, BANDED_CHANNELS)
    count = _count_bands(channels, bands)
    edges = torch.arange(1, count + 1) * (math.log1p(_WARP) / bands)
    edges = edges.expm1() / _WARP * banded
    return torch.bucketize(torch.arange(channels) + 0.5, edges).clamp(max=count - 1)


def _count_bands(channels: int, bands: int) -> int:
    beyond = max(1.0, channels / BANDED_CHANNELS)
    return math.ceil(bands * math.log1p(_WARP * beyond) / math.log1p(_WARP) - 1e-9)


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
        self.bands_heard = _count_bands(channels, BANDS_HEARD)
        self.bands_chosen = _count_bands(channels, BANDS_CHOSEN)
        band = functional.one_hot(band_of_channel(channels, BANDS_HEARD), self.bands_heard).float()
        self.register_buffer("heard_bands", band / band.sum(0).clamp(min=1), persistent=False)
        self.register_buffer(
            "chosen_bands", band_of_channel(channels, BANDS_CHOSEN), persistent=False
        )

    @property
    def features(self) -> int:
        """Features per frame: place and likeness of every channel, power by place and band."""
        return 2 * self.channels + PLACES * self.bands_heard

    @property
    def gains(self) -> int:
        """Numbers per frame that choose places, for one mask."""
        return PLACES * self.bands_chosen

    def forward(self, own: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
        """Locate every coefficient.

        Powers are those of the MDCT's pseudo-spectrum, see `networks.mini.pseudo_spectrum`.

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
