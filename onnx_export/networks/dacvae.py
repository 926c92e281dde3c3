"""DAC-VAE, the 48 kHz codec of SAM Audio: waveform to 128 latent channels at 25 frames/s and back.

Convolutions arrive with their weight norm folded (see `onnx_export.checkpoints.checkpoint`), so
every layer here is a plain convolution. Written from the description of the model's tensors and
signal path.

A small causal autoencoder runs over the decoded waveform, adds an embedding of a 16-bit message to
its bottleneck, and its output is added to the waveform. The message is an argument, so that a run
can be repeated bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MESSAGE_BITS = 16
#: Gain of the mark on top of the decoded waveform.
STRENGTH = 0.25
_CHANNELS = (32, 64, 128, 256, 512)
_RATES = (2, 4, 5, 8)  # strides on the way down: 320 samples per bottleneck frame
_BOTTLENECK_CHANNELS = 128
_LSTM_LAYERS = 2


class CausalConv(nn.Conv1d):
    """A convolution whose padding is all on the left, so that nothing looks ahead."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, in, N) to (B, out, N / stride)."""
        return super().forward(F.pad(x, (self.kernel_size[0] - self.stride[0], 0)))


class CausalConvTranspose(nn.ConvTranspose1d):
    """A transposed convolution of twice its stride, cut on the right."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 2 * stride, stride=stride)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map ``x`` (B, in, N) to (B, out, N * stride)."""
        return super().forward(x, output_size)[..., : -self.stride[0]]


class ResidualElu(nn.Module):
    """ELU, a convolution of width 3 to half the channels, ELU, back to all, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = CausalConv(channels, channels // 2, 3)
        self.expand = nn.Conv1d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` (B, channels, N), same shape out."""
        out: Tensor = x + self.expand(F.elu(self.squeeze(F.elu(x))))
        return out


class Down(nn.Module):
    """Residual unit, ELU, and a strided convolution to twice the channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.unit = ResidualElu(channels)
        self.down = CausalConv(channels, 2 * channels, 2 * stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, channels, N) to (B, 2 channels, N / stride)."""
        out: Tensor = self.down(F.elu(self.unit(x)))
        return out


class Up(nn.Module):
    """ELU, a transposed convolution to half the channels, and a residual unit."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.up = CausalConvTranspose(2 * channels, channels, stride)
        self.unit = ResidualElu(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, 2 channels, N) to (B, channels, N * stride)."""
        out: Tensor = self.unit(self.up(F.elu(x)))
        return out


class Lstm(nn.Module):
    """One LSTM layer, its weights in ONNX's layout and exported as ONNX's operator.

    PyTorch's exporter has no translation of an LSTM of dynamic length; the operator is placed in
    the graph directly. Rows of the weights are in ONNX's order of gates: input, output, forget,
    cell.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.input_weight = nn.Parameter(torch.zeros(1, 4 * channels, channels))
        self.hidden_weight = nn.Parameter(torch.zeros(1, 4 * channels, channels))
        self.bias = nn.Parameter(torch.zeros(1, 8 * channels))

    @staticmethod
    def reorder(rows: Tensor) -> Tensor:
        """Move PyTorch's gates (input, forget, cell, output, along axis 0) to ONNX's order."""
        i, f, c, o = rows.chunk(4)
        return torch.cat([i, o, f, c])

    @staticmethod
    def _restore(rows: Tensor) -> Tensor:
        i, o, f, c = rows.chunk(4)
        return torch.cat([i, f, c, o])

    def forward(self, x: Tensor) -> Tensor:
        """Run over ``x`` (N, B, channels) from a zero state, same shape out."""
        if torch.onnx.is_in_onnx_export():
            y = torch.onnx.ops.symbolic(
                "LSTM",
                (x, self.input_weight, self.hidden_weight, self.bias),
                attrs={"hidden_size": self.channels},
                dtype=x.dtype,
                shape=[x.shape[0], 1, x.shape[1], self.channels],
            )
            return y[:, 0]
        state = x.new_zeros(1, x.shape[1], self.channels)
        weights = [self.input_weight[0], self.hidden_weight[0], *self.bias[0].chunk(2)]
        out, _, _ = torch.lstm(
            x,
            [state, state],
            [self._restore(w) for w in weights],
            True,
            1,
            0.0,
            False,
            False,
            False,
        )
        return out


class ResidualLstm(nn.Module):
    """Two LSTM layers over time plus their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Lstm(channels) for _ in range(_LSTM_LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` (B, channels, N), same shape out."""
        y = x.permute(2, 0, 1)
        for layer in self.layers:
            y = layer(y)
        return x + y.permute(1, 2, 0)


class Watermark(nn.Module):
    """Adds a message of `MESSAGE_BITS` bits to a waveform."""

    def __init__(self) -> None:
        super().__init__()
        widest = _CHANNELS[-1]
        self.entry = CausalConv(1, _CHANNELS[0], 7)
        self.downs = nn.ModuleList(
            Down(channels, rate) for channels, rate in zip(_CHANNELS[:-1], _RATES, strict=True)
        )
        self.lstm_in = ResidualLstm(widest)
        self.squeeze = CausalConv(widest, _BOTTLENECK_CHANNELS, 7)
        # Row 2i stands for bit i unset, row 2i + 1 for bit i set.
        self.bits = nn.Parameter(torch.zeros(2 * MESSAGE_BITS, _BOTTLENECK_CHANNELS))
        self.expand = CausalConv(_BOTTLENECK_CHANNELS, widest, 7)
        self.lstm_out = ResidualLstm(widest)
        self.ups = nn.ModuleList(
            Up(channels, rate)
            for channels, rate in zip(_CHANNELS[-2::-1], _RATES[::-1], strict=True)
        )
        self.exit = CausalConv(_CHANNELS[0], 1, 7)

    def forward(self, wav: Tensor, message: Tensor) -> Tensor:
        """Mark a waveform.

        Parameters
        ----------
        wav : Tensor
            (B, 1, N) float32, N a multiple of 320.
        message : Tensor
            (B, 16) float32 of zeros and ones.

        Returns
        -------
        Tensor
            (B, 1, N) float32.
        """
        x = self.entry(wav)
        for down in self.downs:
            x = down(x)
        x = self.squeeze(F.elu(self.lstm_in(x)))
        unset, set_ = self.bits[::2], self.bits[1::2]
        x = x + (message @ set_ + (1 - message) @ unset)[:, :, None]
        x = self.lstm_out(self.expand(x))
        for up in self.ups:
            x = up(x)
        out: Tensor = wav + STRENGTH * self.exit(F.elu(x))
        return out


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
