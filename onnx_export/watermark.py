"""The watermark branch at the end of the DAC-VAE decoder.

A small causal autoencoder runs over the decoded waveform, adds an embedding of a 16-bit message to
its bottleneck, and its output is added to the waveform. The message is an argument, so that a run
can be repeated bit for bit.
"""

from __future__ import annotations

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
