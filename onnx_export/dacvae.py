"""DAC-VAE, the 48 kHz codec of SAM Audio: waveform to 128 latent channels at 25 frames/s and back.

Convolutions arrive with their weight norm folded (see `onnx_export.checkpoint`), so every layer
here is a plain convolution. Written from the description of the model's tensors and signal path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onnx_export.watermark import Watermark


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of the codec.

    Attributes
    ----------
    encoder_dim, decoder_dim : int
        Channels after the encoder's first and the decoder's first convolution.
    encoder_rates, decoder_rates : tuple of int
        Strides, in the order in which they are applied; the product is the hop length.
    latent_dim : int
        Channels between the encoder or decoder and the bottleneck.
    codebook_dim : int
        Latent channels C.
    sample_rate : int
        Hz.
    """

    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (2, 8, 10, 12)
    latent_dim: int = 1024
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (12, 10, 8, 2)
    codebook_dim: int = 128
    sample_rate: int = 48000

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.encoder_rates)


class Snake(nn.Module):
    """Periodic activation ``x + sin(alpha x)^2 / alpha``, one alpha per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` (B, channels, N)."""
        return x + torch.sin(self.alpha * x).square() / (self.alpha + 1e-9)


class ResidualUnit(nn.Module):
    """Snake, a dilated convolution of width 7, snake, a convolution of width 1, plus the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.snake_in = Snake(channels)
        self.dilated = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        self.snake_out = Snake(channels)
        self.pointwise = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` (B, channels, N), same shape out."""
        out: Tensor = x + self.pointwise(self.snake_out(self.dilated(self.snake_in(x))))
        return out


class DownBlock(nn.Module):
    """Three residual units, snake, and a strided convolution to twice the channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(ResidualUnit(channels, dilation) for dilation in (1, 3, 9))
        self.snake = Snake(channels)
        self.down = nn.Conv1d(
            channels, 2 * channels, 2 * stride, stride=stride, padding=math.ceil(stride / 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, channels, N) to (B, 2 channels, N / stride)."""
        for unit in self.units:
            x = unit(x)
        out: Tensor = self.down(self.snake(x))
        return out


class UpBlock(nn.Module):
    """Snake, a transposed convolution to half the channels, and three residual units."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.snake = Snake(channels)
        self.up = nn.ConvTranspose1d(
            channels,
            channels // 2,
            2 * stride,
            stride=stride,
            padding=math.ceil(stride / 2),
            output_padding=stride % 2,
        )
        self.units = nn.ModuleList(ResidualUnit(channels // 2, dilation) for dilation in (1, 3, 9))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, channels, N) to (B, channels / 2, N * stride)."""
        x = self.up(self.snake(x))
        for unit in self.units:
            x = unit(x)
        return x


class Encoder(nn.Module):
    """Waveform to latents."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        dim, rates = config.encoder_dim, config.encoder_rates
        self.entry = nn.Conv1d(1, dim, 7, padding=3)
        self.blocks = nn.ModuleList(
            DownBlock(dim * 2**depth, stride) for depth, stride in enumerate(rates)
        )
        width = dim * 2 ** len(rates)
        self.snake = Snake(width)
        self.exit = nn.Conv1d(width, config.latent_dim, 3, padding=1)
        # The bottleneck also predicts a scale; only the mean is ever used for separation.
        self.mean = nn.Conv1d(config.latent_dim, config.codebook_dim, 1)

    def forward(self, wav: Tensor) -> Tensor:
        """Map ``wav`` (B, 1, N) to (B, N / hop, C)."""
        x = self.entry(wav)
        for block in self.blocks:
            x = block(x)
        mean: Tensor = self.mean(self.exit(self.snake(x)))
        return mean.transpose(1, 2)


class Decoder(nn.Module):
    """Latents to a watermarked waveform."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        dim, rates = config.decoder_dim, config.decoder_rates
        self.features = nn.Conv1d(config.codebook_dim, config.latent_dim, 1)
        self.entry = nn.Conv1d(config.latent_dim, dim, 7, padding=3)
        self.blocks = nn.ModuleList(
            UpBlock(dim // 2**depth, stride) for depth, stride in enumerate(rates)
        )
        width = dim // 2 ** len(rates)
        self.snake = Snake(width)
        self.exit = nn.Conv1d(width, 1, 7, padding=3)
        self.watermark = Watermark()

    def base_signal(self, latents: Tensor) -> Tensor:
        """Decode ``latents`` (B, T, C) to (B, 1, T * hop) without the watermark."""
        x = self.entry(self.features(latents.transpose(1, 2)))
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.exit(self.snake(x)))

    def forward(self, latents: Tensor, message: Tensor) -> Tensor:
        """Decode ``latents`` (B, T, C) to (B, 1, T * hop), marked with ``message`` (B, 16)."""
        base = self.base_signal(latents)
        out: Tensor = self.watermark(base.float(), message)
        return out


class DacVae(nn.Module):
    """The whole codec.

    Parameters
    ----------
    config : CodecConfig
        Sizes.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, wav: Tensor) -> Tensor:
        """Encode waveforms.

        Parameters
        ----------
        wav : Tensor
            (B, 1, N) float32 in [-1, 1] at the codec's rate, N a multiple of the hop length.

        Returns
        -------
        Tensor
            (B, N / hop, C) float32, the mean of the latent distribution.
        """
        out: Tensor = self.encoder(wav)
        return out

    def decode(self, latents: Tensor, message: Tensor) -> Tensor:
        """Decode latents.

        Parameters
        ----------
        latents : Tensor
            (B, T, C) float32.
        message : Tensor
            (B, 16) float32, each 0 or 1.

        Returns
        -------
        Tensor
            (B, 1, T * hop) float32, watermarked.
        """
        out: Tensor = self.decoder(latents, message)
        return out

    def decode_unmarked(self, latents: Tensor) -> Tensor:
        """Decode ``latents`` (B, T, C) to (B, 1, T * hop) without the watermark, for checks."""
        return self.decoder.base_signal(latents)
