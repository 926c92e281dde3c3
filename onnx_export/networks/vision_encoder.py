"""The vision tower of the Perception Encoder, which turns a video frame into one feature vector.

A ViT whose patches, and the class token at position 0, are rotated by their column and row; an
attention pool with one learned query, and a projection. Read from the description in Bolya et al.
2025, "Perception Encoder: The best visual embeddings are not at the output of the network".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnx_export.networks.layers import rotate

_THETA = 10000.0
_POOL_HEADS = 8


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a tower.

    Attributes
    ----------
    image_size, patch : int
        Side of the square frames, and of a patch, in pixels.
    width, heads, layers, hidden : int
        Of the transformer; `hidden` is that of the feed-forward.
    pool_hidden : int
        Of the feed-forward in the attention pool.
    dim : int
        Width of the features.
    class_token : bool
    normalise : bool
        Whether features are brought to unit length.
    """

    image_size: int
    patch: int
    width: int
    heads: int
    layers: int
    hidden: int
    pool_hidden: int
    dim: int
    class_token: bool = True
    normalise: bool = True

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch


def rotary_table(config: VisionConfig) -> Tensor:
    """Cosines and sines for every token, shape (2, tokens, width / heads), halves repeated.

    The first half of the rotary pairs turns with the column, the second with the row, counted
    from 1 where there is a class token, which stays where it is.
    """
    pairs = config.width // config.heads // 4
    frequencies = _THETA ** (-torch.arange(pairs, dtype=torch.float32) / pairs)
    places = torch.arange(config.grid, dtype=torch.float32) + config.class_token
    angles = places[:, None] * frequencies
    rows, columns = torch.meshgrid([torch.arange(config.grid)] * 2, indexing="ij")
    turned = torch.cat([angles[columns.flatten()], angles[rows.flatten()]], dim=-1)
    if config.class_token:
        turned = torch.cat([torch.zeros(1, 2 * pairs), turned])
    turned = torch.cat([turned, turned], dim=-1)
    return torch.stack([torch.cos(turned), torch.sin(turned)])


class Attention(nn.Module):
    """Multi-head attention from some tokens to others."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, rotary: Tensor | None) -> Tensor:
        """Attend from ``x`` (B, T, width) to ``memory`` (B, S, width)."""

        def split(y: Tensor) -> Tensor:
            return y.reshape(*y.shape[:-1], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(memory)), split(self.value(memory))
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        y: Tensor = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return y


class FeedForward(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to the same shape."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.feed_forward = FeedForward(config.width, config.hidden)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        h = self.norm_1(x)
        x = x + self.attention(h, h, rotary)
        out: Tensor = x + self.feed_forward(self.norm_2(x))
        return out


class VisionEncoder(nn.Module):
    """The tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = nn.Conv2d(3, width, config.patch, config.patch, bias=False)
        if config.class_token:
            self.class_token = nn.Parameter(torch.zeros(width))
        tokens = config.grid**2 + config.class_token
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.pool = Attention(width, _POOL_HEADS)
        self.pool_norm = nn.LayerNorm(width)
        self.pool_feed_forward = FeedForward(width, config.pool_hidden)
        self.head = nn.Linear(width, config.dim, bias=False)
        self.register_buffer("rotary", rotary_table(config), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode frames.

        Parameters
        ----------
        frames : Tensor
            (B, 3, image_size, image_size) float32, RGB in [0, 1].

        Returns
        -------
        Tensor
            (B, dim) float32.
        """
        rotary = self.get_buffer("rotary")
        x = self.patches(2 * frames - 1).flatten(2).transpose(1, 2)
        if self.config.class_token:
            x = torch.cat([self.class_token.expand(x.shape[0], 1, -1), x], dim=1)
        x = self.norm_in(x + self.positions)
        for block in self.blocks:
            x = block(x, rotary)
        x = self.norm_out(x)
        pooled = self.pool(self.probe.expand(x.shape[0], -1, -1), x, None)
        pooled = pooled + self.pool_feed_forward(self.pool_norm(pooled))
        features: Tensor = self.head(pooled[:, 0])
        return F.normalize(features, dim=-1) if self.config.normalise else features
