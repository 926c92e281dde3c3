"""SAM Audio: the velocity network around the DiT, and the model as a whole.

Read from the description of the checkpoints; the official code is not used. Everything that can
be computed once from the weights is computed at load (see `onnx_export.checkpoints.checkpoint`):
weight norm is folded, attention is in the standard head layout, and the input projection holds
only the columns that see anything, since the official one also sees zeros and the mixture twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnx_export.networks.dacvae import CodecConfig, DacVae
from onnx_export.networks.dit import DiT, DiTConfig
from onnx_export.networks.layers import sinusoid

SPAN_NULL, SPAN_POSITIVE, SPAN_NEGATIVE, SPAN_PADDING = range(4)
_SPAN_IDS = 4


@dataclass(frozen=True)
class SamAudioConfig:
    """Sizes of a SAM Audio model, as its ``config.json`` tells them.

    Attributes
    ----------
    codec : CodecConfig
    transformer : DiTConfig
    text_dim : int
        Width of the text encoder's output.
    text_encoder : str
        Hub id of the text encoder, which the checkpoint doesn't hold.
    max_tokens : int
        Longest prompt in tokens.
    video_dim : int
        Width of the visual features.
    span_dim : int
        Width of the span embedding.
    raw : dict
        The whole of ``config.json``.
    """

    codec: CodecConfig = field(default_factory=CodecConfig)
    transformer: DiTConfig = field(default_factory=DiTConfig)
    text_dim: int = 768
    text_encoder: str = "t5-base"
    max_tokens: int = 512
    video_dim: int = 1024
    span_dim: int = 128
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Latent channels C of one stem."""
        return self.codec.codebook_dim


class VisualAlignment(nn.Module):
    """Adds gated, projected visual features to the embedded frames."""

    def __init__(self, video_dim: int, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))
        self.conv = nn.Conv1d(video_dim, dim, 1)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, video: Tensor) -> Tensor:
        """Map visual features (B, video_dim, T) to what they add, (B, T, dim)."""
        return self._normed(self.conv(video).transpose(1, 2))

    def absent(self) -> Tensor:
        """Return what is added without video, (dim,): the norm makes the bias alone matter."""
        video = self.conv.weight.new_zeros(1, self.conv.in_channels, 1)
        return self.forward(video)

    def _normed(self, x: Tensor) -> Tensor:
        out: Tensor = self.gate.tanh() * self.layer_norm(x.float()).to(x.dtype)
        return out


class SpanEmbedding(nn.Module):
    """Adds a gated embedding of each frame's span id."""

    def __init__(self, span_dim: int, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))
        self.embed = nn.Embedding(_SPAN_IDS, span_dim)
        self.proj = nn.Linear(span_dim, dim, bias=False)

    def forward(self, spans: Tensor) -> Tensor:
        """Map span ids (B, T) int64 to what they add, (B, T, dim)."""
        out: Tensor = self.gate.tanh() * self.proj(self.embed(spans))
        return out


class VelocityNetwork(nn.Module):
    """One evaluation of the flow: noisy latents and conditions to their velocity."""

    def __init__(self, config: SamAudioConfig) -> None:
        super().__init__()
        dim = config.transformer.dim
        self.proj = nn.Linear(3 * config.channels, dim)
        self.memory_proj = nn.Linear(config.text_dim, config.transformer.context_dim or dim)
        self.visual = VisualAlignment(config.video_dim, dim)
        self.spans = SpanEmbedding(config.span_dim, dim)
        self.transformer = DiT(config.transformer)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        latents: Tensor,
        text: Tensor,
        text_mask: Tensor,
        spans: Tensor,
        video: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network; see `SamAudio.velocity` for shapes."""
        h = self.proj(torch.cat([x, latents], dim=-1)) + self.spans(spans)
        h = h + (self.visual.absent() if video is None else self.visual(video))
        memory = self.memory_proj(text)
        memory = memory + sinusoid(t, memory.shape[-1]).to(memory.dtype)[:, None]
        out: Tensor = self.transformer(h, t, memory, mask=mask, memory_mask=text_mask)
        return out


class SamAudio(nn.Module):
    """A SAM Audio model: codec and velocity network. Text features come from T5, not from here.

    Parameters
    ----------
    config : SamAudioConfig
        Sizes. Use `onnx_export.load_checkpoint` for a model with weights.
    """

    def __init__(self, config: SamAudioConfig) -> None:
        super().__init__()
        self.config = config
        self.codec = DacVae(config.codec)
        self.velocity_network = VelocityNetwork(config)

    def encode(self, wav: Tensor) -> Tensor:
        """Encode mixtures to latents.

        Parameters
        ----------
        wav : Tensor
            (B, 1, N) or (B, N) float32 at 48 kHz, in [-1, 1]; any N > 0. The right end is padded
            by reflection to a multiple of the hop length.

        Returns
        -------
        Tensor
            (B, ceil(N / hop), C) float32.
        """
        if wav.ndim == 2:
            wav = wav[:, None]
        padding = -wav.shape[-1] % self.config.codec.hop_length
        # Reflection mirrors at most N - 1 samples; a shorter clip mirrors again what is there.
        while padding > 0:
            if wav.shape[-1] < 2:
                wav = F.pad(wav, (0, padding), "replicate")
                break
            step = min(padding, wav.shape[-1] - 1)
            wav = F.pad(wav, (0, step), "reflect")
            padding -= step
        return self.codec.encode(wav)

    def velocity(
        self,
        x: Tensor,
        t: Tensor,
        latents: Tensor,
        text: Tensor,
        text_mask: Tensor,
        video: Tensor | None = None,
        spans: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the velocity field once.

        Parameters
        ----------
        x : Tensor
            (B, T, 2C) float32, the state: first C channels target, last C residual.
        t : Tensor
            (B,) float32, flow time from 0 (noise) to 1 (data).
        latents : Tensor
            (B, T, C) float32, the mixture.
        text : Tensor
            (B, S, text_dim) float32, the text encoder's last hidden state.
        text_mask : Tensor
            (B, S) bool, true at real tokens.
        video : Tensor, optional
            (B, video_dim, T) float32 visual features. None is the same as zeros.
        spans : Tensor, optional
            (B, T) int64 span ids: 0 none, 1 positive, 2 negative, 3 padding. None is 0 at real
            frames and 3 past the end of a clip.
        mask : Tensor, optional
            (B, T) bool, true at real frames, false past the end of a clip. None: all are real.

        Returns
        -------
        Tensor
            (B, T, 2C) float32, dx/dt.
        """
        if spans is None:
            spans = torch.full(x.shape[:2], SPAN_NULL, dtype=torch.int64, device=x.device)
            if mask is not None:
                spans = spans.masked_fill(~mask, SPAN_PADDING)
        out: Tensor = self.velocity_network(
            x, t, latents, text, text_mask, spans=spans, video=video, mask=mask
        )
        return out

    def decode(self, latents: Tensor, message: Tensor) -> Tensor:
        """Decode latents to waveforms.

        Parameters
        ----------
        latents : Tensor
            (B, T, C) float32, one stem each.
        message : Tensor
            (B, 16) float32 of zeros and ones, the watermark's bits; or (16,) for all.

        Returns
        -------
        Tensor
            (B, 1, T * hop) float32 at 48 kHz, watermarked.
        """
        return self.codec.decode(latents, message.expand(latents.shape[0], -1))

    def decode_unmarked(self, latents: Tensor) -> Tensor:
        """Decode latents (B, T, C) to (B, 1, T * hop) without the watermark, to check `decode`."""
        return self.codec.decode_unmarked(latents)
