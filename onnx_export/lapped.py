"""The codec of the bundled model: a linear lapped transform (MDCT with a sine window).

The transform is factored into a fold, which rotates sample pairs across each block boundary, and a
DCT-IV of each block (Malvar 1992, "Signal Processing with Lapped Transforms"; Princen & Bradley
1986 for the time-domain alias cancellation behind it). At the two ends of a clip nothing is
folded, so `T` blocks of samples become exactly `T` frames and the transform is orthonormal at any
length: no padding, and no energy lost at the edges. Keeping only the low coefficients makes it a
low-pass codec whose error is the missing band and nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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
