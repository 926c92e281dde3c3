"""The diffusion transformer of the SAM Audio family.

One module serves every model of the family: the sizes come from a `DiTConfig`. Heads are the
slowest axis of each projection and rotary embeddings rotate halves, the layout that ONNX Runtime
and PyTorch fuse; `onnx_export.checkpoints.checkpoint` permutes official weights, which interleave
both, once at load.

Source of the block: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers" (adaLN
conditioning), with a shared timestep projection and per-layer tables, cross-attention to the text
and SwiGLU feed-forwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnx_export.networks.layers import (
    ConvEmbedder,
    RMSNorm,
    SwiGLU,
    SwiGLUEmbedder,
    rotary_table,
    rotate,
    sinusoid,
)


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of a `DiT`.

    Attributes
    ----------
    dim : int
        Width of the residual stream.
    n_heads, n_layers : int
        Attention heads (``dim`` must divide by them) and blocks.
    out_channels : int
        Channels of the output.
    context_dim : int or None
        Width of the text memory; ``None`` means ``dim``.
    ffn_exp, ffn_dim_multiplier, multiple_of
        Feed-forward width: ``2/3 * ffn_exp * dim * ffn_dim_multiplier``, rounded up.
    norm_eps : float
        Epsilon of the RMS norms.
    max_positions : int
        Sets the rotary base, ``max(10000, 2 * max_positions)``.
    frequency_embedding_dim : int
        Width of the sinusoidal time embedding.
    """

    dim: int = 2048
    n_heads: int = 16
    n_layers: int = 16
    out_channels: int = 256
    context_dim: int | None = None
    ffn_exp: float = 4.0
    ffn_dim_multiplier: float = 1.0
    multiple_of: int = 64
    norm_eps: float = 1e-5
    max_positions: int = 10000
    frequency_embedding_dim: int = 256

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the feed-forward, a multiple of `multiple_of`."""
        hidden = int(self.ffn_dim_multiplier * int(2 * self.ffn_exp * self.dim / 3))
        return self.multiple_of * math.ceil(hidden / self.multiple_of)

    @property
    def rope_theta(self) -> float:
        """Base of the rotary frequencies."""
        return float(max(10000, 2 * self.max_positions))


class Attention(nn.Module):
    """Multi-head attention with RMS-normed queries and keys.

    Attributes
    ----------
    fused : bool
        Stand for one operator of ONNX Runtime's own, ``com.microsoft.MultiHeadAttention``, while
        it is exported. Such a module can be traced but not run.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.fused = False
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        dim = config.dim
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, dim, bias=False)
        self.wv = nn.Linear(dim, dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps)

    def _heads(self, x: Tensor) -> Tensor:
        split = x.reshape(*x.shape[:-1], self.n_heads, self.head_dim)
        return split.transpose(1, 2)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None, rotary: Tensor | None
    ) -> Tensor:
        """Attend from ``x`` (B, T, dim) to ``memory`` (B, S, dim).

        ``mask`` (B, S) is true where a memory position may be attended to.
        """
        if self.fused:
            fused: Tensor = self.wo(self._operator(x, memory, mask, rotary))
            return fused
        q, k = self.q_norm(self._heads(self.wq(x))), self.k_norm(self._heads(self.wk(memory)))
        v = self._heads(self.wv(memory))
        if rotary is not None:
            q, k = rotate(q, rotary).to(v.dtype), rotate(k, rotary).to(v.dtype)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -3e4)
        y = scores.softmax(-1).to(v.dtype) @ v
        out: Tensor = self.wo(y.transpose(1, 2).flatten(2))
        return out

    def _operator(
        self, x: Tensor, memory: Tensor, mask: Tensor | None, rotary: Tensor | None
    ) -> Tensor:
        """Write the operator, which takes and gives all heads side by side, (B, T, dim).

        It scales by ``head_dim ** -0.5`` and masks by 32-bit integers, zero where nothing may be
        attended to. Where there is no mask, CUDA's kernels need no map of all pairs in memory.
        """
        split = (self.n_heads, self.head_dim)
        q = self.q_norm(self.wq(x).unflatten(-1, split))
        k = self.k_norm(self.wk(memory).unflatten(-1, split))
        v = self.wv(memory)
        if rotary is not None:
            q, k = rotate(q, rotary[:, :, None]), rotate(k, rotary[:, :, None])
        inputs = [q.to(v.dtype).flatten(2), k.to(v.dtype).flatten(2), v]
        if mask is not None:
            inputs += [None, mask.to(torch.int32)]  # between them a bias that there is none of
        out: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            inputs,
            attrs={"num_heads": self.n_heads},
            dtype=v.dtype,
            shape=x.shape,
            version=1,
        )
        return out


class DiTBlock(nn.Module):
    """Self-attention and feed-forward modulated by time, cross-attention to the text between."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.cross_attention = Attention(config)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim, config.dim)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.scale_shift_table = nn.Parameter(torch.randn(6, config.dim) / config.dim**0.5)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        memory_mask: Tensor | None,
        rotary: Tensor,
    ) -> Tensor:
        """Apply the block; ``modulation`` is the shared time projection (B, 6, dim)."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
            self.scale_shift_table[None] + modulation
        ).unbind(1)
        h = self.attention_norm(x) * (1 + scale_a[:, None]) + shift_a[:, None]
        x = x + gate_a[:, None] * self.attention(h, h, mask, rotary)
        x = x + self.cross_attention(x, memory, memory_mask, None)
        h = self.ffn_norm(x) * (1 + scale_f[:, None]) + shift_f[:, None]
        out: Tensor = x + gate_f[:, None] * self.feed_forward(h)
        return out


class DiT(nn.Module):
    """The transformer from embedded frames, flow time and text memory to output channels."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.x_embedder = ConvEmbedder(dim)
        self.t_embedder = SwiGLUEmbedder(config.frequency_embedding_dim, dim)
        self.t_block = nn.Linear(dim, 6 * dim)
        self.y_embedder = SwiGLUEmbedder(config.context_dim or dim, dim)
        self.layers = nn.ModuleList(DiTBlock(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(dim, config.norm_eps)
        self.final_layer_scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.output = nn.Linear(dim, config.out_channels, bias=False)

    def blocks(self) -> Iterator[DiTBlock]:
        """Yield the blocks in order."""
        for layer in self.layers:
            if isinstance(layer, DiTBlock):
                yield layer

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        x : Tensor, shape (B, T, dim)
            Embedded frames.
        t : Tensor, shape (B,)
            Flow times in [0, 1].
        memory : Tensor, shape (B, S, context_dim)
            Text memory.
        mask : Tensor of bool, shape (B, T), optional
            True at frames that may be attended to; none means all.
        memory_mask : Tensor of bool, shape (B, S), optional
            True at real tokens.
        condition : Tensor, shape (B, dim), optional
            Added to the time embedding, as the class label is in Peebles & Xie. SAM Audio has
            none; a small model learns to follow its prompt much sooner with one.

        Returns
        -------
        Tensor, shape (B, T, out_channels)
        """
        config = self.config
        rotary = rotary_table(x.shape[1], config.head_dim, config.rope_theta, x.device)
        h = self.x_embedder(x)
        time = self.t_embedder(sinusoid(t, config.frequency_embedding_dim).to(x.dtype))
        if condition is not None:
            time = time + condition
        modulation = self.t_block(F.silu(time)).unflatten(-1, (6, config.dim))
        y = self.y_embedder(memory)
        for layer in self.layers:
            h = layer(h, modulation, y, mask, memory_mask, rotary)
        shift, scale = (self.final_layer_scale_shift_table[None] + time[:, None]).unbind(1)
        out: Tensor = self.output(self.norm(h) * (1 + scale[:, None]) + shift[:, None])
        return out
