"""The small layers that the transformers of the family are built from.

Rotary embeddings rotate halves, the layout that ONNX Runtime and PyTorch know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridge.errors import ModelError

_NAMED_AT_MOST = 8


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], complaint: str) -> None:
    """Give a module its weights, and leave it in evaluation mode, without gradients.

    Raises
    ------
    ModelError
        A tensor is missing, unexpected or of another shape; after `complaint` it names the first.
    """
    wanted = module.state_dict()
    faults = [f"missing {name}" for name in wanted if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in wanted]
    faults += [
        f"misshapen {name} (expected {list(wanted[name].shape)}, got {list(value.shape)})"
        for name, value in state.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    if faults:
        rest = len(faults) - _NAMED_AT_MOST
        more = f" and {rest} more" if rest > 0 else ""
        raise ModelError(f"{complaint}: {'; '.join(faults[:_NAMED_AT_MOST])}{more}")
    module.load_state_dict(state)
    module.eval().requires_grad_(False)


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """Embed times as ``[cos(t f), sin(t f)]`` with ``f_i = 10000 ** (-i / (dim / 2))``.

    Parameters
    ----------
    t : Tensor, shape (B,)
        Flow times in [0, 1], unscaled.
    dim : int
        Even width of the embedding.

    Returns
    -------
    Tensor, shape (B, dim), float32
    """
    half = dim // 2
    exponent = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angles = t.float()[:, None] * torch.exp(-math.log(10000.0) * exponent)[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def rotary_table(length: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Cosines and sines of the rotary embedding, shape (2, length, head_dim), halves repeated."""
    exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = positions[:, None] * torch.exp(-math.log(theta) * exponent)[None]
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([torch.cos(angles), torch.sin(angles)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate (B, heads, T, head_dim) by position; channel ``i`` pairs with ``i + head_dim / 2``."""
    first, second = x.chunk(2, dim=-1)
    return x * table[0] + torch.cat([-second, first], dim=-1) * table[1]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and scale ``x``, in its own dtype."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


class SwiGLU(nn.Module):
    """``w2(silu(w1 x) * w3 x)``, without biases."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(in_dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, out_dim, bias=False)
        self.w3 = nn.Linear(in_dim, hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class SwiGLUEmbedder(nn.Module):
    """A SwiGLU projection to ``dim``, named as in the checkpoints."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.projection = SwiGLU(in_dim, dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., dim)."""
        out: Tensor = self.projection(x)
        return out


class ConvUnit(nn.Module):
    """Group norm with one group (over channels and time), SiLU, convolution of three taps."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.groupnorm = nn.GroupNorm(1, dim)
        self.project = nn.Conv1d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, T) to the same shape."""
        # The norm's sums over a whole window need float32, whatever the rest is computed in.
        normed = self.groupnorm(x.float()).to(x.dtype)
        out: Tensor = self.project(F.silu(normed))
        return out


class ConvStack(nn.Module):
    """Two convolution units in a row."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block1 = ConvUnit(dim)
        self.block2 = ConvUnit(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, T) to the same shape."""
        out: Tensor = self.block2(self.block1(x))
        return out


class ConvEmbedder(nn.Module):
    """The residual convolution block at the transformer's entry.

    It takes no mask: padded frames enter the norm and the convolutions like any other. That is
    how the weights were trained, and why windows must hold no padding.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = ConvStack(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, dim) to the same shape."""
        out: Tensor = x + self.block(x.transpose(1, 2)).transpose(1, 2)
        return out
