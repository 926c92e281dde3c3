"""`mini`, the bundled model: a small member of the SAM Audio family.

It has the family's parts and interfaces (text encoder, codec, span embedding, DiT, flow matching
on joint target and residual latents) at a size that trains on two CPU cores. It differs in
seven places, each because a small model learns faster that way:

- the codec is a lapped transform (`onnx_export.networks.lapped`), not a learned autoencoder;
- the DiT predicts the clean latents as a mask of the mixture plus a correction, from which the
  graph computes the velocity ``(x1 - x_t) / (1 - t)``;
- the prompt's mean joins the time in modulating every block, beside the cross-attention;
- a U-Net over time and frequency refines the masks (`onnx_export.networks.unet`), where the
  configuration asks for one;
- every window of the mixture is heard at unit level, so that quiet passages of a song are
  separated like loud ones;
- in "-" spans the target is silent by construction, and all is residual;
- the noisy state enters scaled by ``t``, since at ``t = 0`` it says nothing of the answer: the
  first evaluation is then plain regression, undisturbed by the noise (preconditioning in the
  sense of Karras et al. 2022, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnx_export.networks.dit import DiT, DiTConfig
from onnx_export.networks.lapped import PLACES, LappedCodec, Panorama
from onnx_export.networks.layers import sinusoid
from onnx_export.networks.unet import MaskUNet

#: Below this remainder of flow time the velocity is no longer divided down: 1 / 0.02 is the
#: steepest it gets.
MIN_REMAINING_TIME = 0.02
#: Root mean square below which what a window hears is not brought to unit level any further.
QUIETEST_LEVEL = 1e-3
#: Spans ids: 0 no span, 1 "+", 2 "-", 3 padding, as in SAM Audio.
SPAN_IDS = 4
NEGATIVE = 2
#: A "-" span holds this many frames away from its ends: nobody marks a note to the millisecond.
SPAN_SLACK_FRAMES = 3
#: Share of a window that has to be silent for its "+" spans to be news. Told that a sound is there
#: all along, the network answers differently, and more often worse than better.
LEAST_CONTRAST = 0.1
#: Width of the flow time's embedding where convolutions are told of it.
TIME_DIM = 64


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the T5-style text encoder."""

    dim: int = 128
    n_layers: int = 2
    n_heads: int = 4
    ffn_dim: int = 256
    vocab_size: int = 1024
    max_tokens: int = 24


@dataclass(frozen=True)
class MiniConfig:
    """Everything that decides the shape of a `MiniModel`.

    Attributes
    ----------
    sample_rate : int
        In Hz, mono.
    hop_length : int
        Samples per latent frame.
    latent_channels : int
        Coefficients kept per frame.
    span_dim : int
        Width of the span embedding.
    stereo : bool
        Whether the network that hears a channel is also told of the channel beside it.
    refine_width : int
        Channels of the first level of the U-Net that refines the masks; 0 for none.
    """

    name: str = "mini"
    sample_rate: int = 16000
    hop_length: int = 256
    latent_channels: int = 256
    span_dim: int = 64
    text: TextConfig = field(default_factory=TextConfig)
    dim: int = 256
    n_heads: int = 4
    n_layers: int = 8
    stereo: bool = False
    refine_width: int = 0

    def extends(self, other: MiniConfig) -> bool:
        """Say whether a model of these sizes can begin with one of the other's.

        It may be told more (`stereo`), have more blocks, refine its masks, know more tokens, and
        hear a wider band: at a higher rate with frames of the same duration, in coefficients of the
        same width.
        """
        text = replace(other.text, vocab_size=self.text.vocab_size)
        return (
            replace(
                other,
                stereo=self.stereo,
                n_layers=self.n_layers,
                refine_width=self.refine_width,
                sample_rate=self.sample_rate,
                hop_length=self.hop_length,
                latent_channels=self.latent_channels,
                text=text,
            )
            == self
            and self.stereo >= other.stereo
            and self.n_layers >= other.n_layers
            and other.refine_width in (0, self.refine_width)
            and self.latent_channels >= other.latent_channels
            and self.text.vocab_size >= other.text.vocab_size
            and self.hop_length * other.sample_rate == other.hop_length * self.sample_rate
        )

    def transformer(self, more_channels: int = 0) -> DiTConfig:
        """Configure the DiT: two masks and two corrections come out, and what else is asked."""
        return DiTConfig(
            dim=self.dim,
            n_heads=self.n_heads,
            n_layers=self.n_layers,
            out_channels=4 * self.latent_channels + more_channels,
        )


def pseudo_spectrum(latents: Tensor) -> Tensor:
    """Log power per channel, smoothed over the phase that a lone MDCT coefficient depends on.

    ``log(X[k]^2 + (X[k+1] - X[k-1])^2)``, the MDCT pseudo-spectrum (Daudet & Sandler 2004,
    "MDCT analysis of sinusoids"), floored at -40 dB of a unit-variance channel and scaled to
    about unit range. Shape (B, T, C) in and out.
    """
    silent = torch.zeros_like(latents[..., :1])
    above = torch.cat([latents[..., 1:], silent], dim=-1)
    below = torch.cat([silent, latents[..., :-1]], dim=-1)
    return torch.log(latents**2 + (above - below) ** 2 + 1e-4) * 0.25 + 0.5


def may_sound(spans: Tensor) -> Tensor:
    """Say where span ids (B, T) let the target sound: 1 or 0, shape (B, T, 1).

    Everywhere but in "-" spans, less `SPAN_SLACK_FRAMES` at both of their ends.
    """
    reach = 2 * SPAN_SLACK_FRAMES + 1
    allowed = (spans != NEGATIVE).float()[:, None]
    # How many frames within reach do; pooling would fix the number of frames in an export.
    near = functional.conv1d(allowed, allowed.new_ones(1, 1, reach), padding=SPAN_SLACK_FRAMES)
    return (near[:, 0, :, None] > 0.5).float()


class SpanEmbedding(nn.Module):
    """Gated embedding of a span id per frame."""

    def __init__(self, span_dim: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(SPAN_IDS, span_dim)
        self.proj = nn.Linear(span_dim, dim, bias=False)
        self.gate = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, spans: Tensor) -> Tensor:
        """Map ids (B, T) to (B, T, dim)."""
        out: Tensor = torch.tanh(self.gate) * self.proj(self.embed(spans))
        return out


class MiniVelocity(nn.Module):
    """The velocity network of `mini`."""

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        channels = config.latent_channels
        self.channels = channels
        self.panorama = Panorama(channels) if config.stereo else None
        heard, chosen = (
            (self.panorama.features, 2 * self.panorama.gains) if self.panorama else (0, 0)
        )
        self.proj = nn.Linear(4 * channels + heard, config.dim)
        self.embed_spans = SpanEmbedding(config.span_dim, config.dim)
        self.prompt_proj = nn.Linear(config.text.dim, config.dim)
        self.memory_proj = nn.Linear(config.text.dim, config.dim)
        self.transformer = DiT(config.transformer(chosen))
        self._initialise()
        # After the rest, whose initial weights are not those of convolutions.
        seen = 3 + 2 * config.stereo
        self.refine = (
            MaskUNet(seen, 2, config.refine_width, channels, config.text.dim + TIME_DIM)
            if config.refine_width
            else None
        )

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start every product at unit gain and every gate open.

        With torch's own defaults the text reaches the frames through five small factors in a row,
        and its first thousand steps teach the network nothing.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        self.transformer.y_embedder.projection.w2.weight.mul_(2.0)
        for layer in self.transformer.blocks():
            layer.feed_forward.w2.weight.mul_(0.5)
            layer.attention.wo.weight.mul_(0.5)
            layer.scale_shift_table[2].fill_(1.0)
            layer.scale_shift_table[5].fill_(1.0)
        self.prompt_proj.weight.mul_(4.0)
        self.transformer.t_block.weight.mul_(0.1)
        self.transformer.output.weight.zero_()

    def inputs(self) -> list[tuple[object, ...]]:
        """Say of each number that enters for a frame what it is, in order."""
        places = [(part, k) for part in ("x target", "x residual", "heard", "power")
                  for k in range(self.channels)]  # fmt: skip
        found: list[tuple[object, ...]] = [*places]
        if self.panorama is not None:
            found += [(part, k) for part in ("place", "likeness") for k in range(self.channels)]
            found += [
                ("at place", place, band)
                for place in range(PLACES)
                for band in range(self.panorama.bands_heard)
            ]
        return found

    def outputs(self) -> list[tuple[object, ...]]:
        """Say of each number that leaves the transformer for a frame what it is, in order."""
        found: list[tuple[object, ...]] = [
            (part, k)
            for part in ("target mask", "residual mask", "target", "residual")
            for k in range(self.channels)
        ]
        if self.panorama is not None:
            found += [
                (part, band, place)
                for part in ("target gain", "residual gain")
                for band in range(self.panorama.bands_chosen)
                for place in range(PLACES)
            ]
        return found

    def clean(
        self,
        x: Tensor,
        t: Tensor,
        latents: Tensor,
        text: Tensor,
        text_mask: Tensor,
        spans: Tensor,
        beside: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean target and residual latents (B, T, 2C)."""
        level = latents.pow(2).mean((1, 2), keepdim=True).sqrt().clamp(min=QUIETEST_LEVEL)
        heard = latents / level
        spectrum = pseudo_spectrum(heard)
        seen = [spectrum]
        parts = [torch.asinh(x * t[:, None, None].to(x.dtype)), torch.asinh(heard), spectrum]
        if self.panorama is not None:
            place, features = self.panorama(heard, heard if beside is None else beside / level)
            parts.append(features.to(heard.dtype))
            seen += list(features[..., : 2 * self.channels].chunk(2, dim=-1))
        frames = torch.cat(parts, dim=-1)
        tokens = text_mask[..., None].to(text.dtype)
        prompt = (text * tokens).sum(1) / tokens.sum(1).clamp(min=1)
        here = may_sound(spans)
        told = (1 - here).mean((1, 2)) >= LEAST_CONTRAST
        h = self.proj(frames) + self.embed_spans(torch.where(told[:, None], spans, 0))
        memory = self.memory_proj(text)
        memory = memory + sinusoid(t, memory.shape[-1]).to(memory.dtype)[:, None]
        out = self.transformer(
            h, t, memory, memory_mask=text_mask, condition=self.prompt_proj(prompt)
        ).float()
        mask, correction, gains = out.tensor_split((2 * self.channels, 4 * self.channels), dim=-1)
        if self.panorama is not None:
            mask = mask + self.panorama.choose(place, gains)
        if self.refine is not None:
            told_of = torch.cat([prompt, sinusoid(t, TIME_DIM).to(prompt.dtype)], dim=-1)
            seen += list(torch.tanh(mask / 4).chunk(2, dim=-1))
            maps = torch.stack([part.to(spectrum.dtype) for part in seen], dim=1)
            refined = self.refine(maps, told_of)
            mask = mask + refined.transpose(1, 2).flatten(2)
        clean = level * (torch.sigmoid(mask) * heard.repeat(1, 1, 2) + correction)
        target, residual = clean.chunk(2, dim=-1)
        return torch.cat([here * target, here * residual + (1 - here) * latents], dim=-1)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        latents: Tensor,
        text: Tensor,
        text_mask: Tensor,
        spans: Tensor,
        beside: Tensor | None = None,
    ) -> Tensor:
        """Velocity of the flow.

        Parameters
        ----------
        x : Tensor, shape (B, T, 2C)
            State at time ``t``: target, then residual.
        t : Tensor, shape (B,)
            Flow time, 0 (noise) to 1 (data).
        latents : Tensor, shape (B, T, C)
            The mixture.
        text : Tensor, shape (B, S, D)
            Output of the text encoder.
        text_mask : Tensor of bool, shape (B, S)
            True at real tokens.
        spans : Tensor of int64, shape (B, T)
            Span ids.
        beside : Tensor, shape (B, T, C), optional
            The channel beside the mixture's, for a model that is told of it; by default none, as
            of a mono mixture: the same.

        Returns
        -------
        Tensor, shape (B, T, 2C)
        """
        remaining = (1 - t).clamp(min=MIN_REMAINING_TIME)[:, None, None]
        return (self.clean(x, t, latents, text, text_mask, spans, beside) - x) / remaining


class MiniModel(nn.Module):
    """Text encoder, codec and velocity network of the bundled model.

    Parameters
    ----------
    config : MiniConfig
        Sizes.
    """

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        self.config = config
        text = config.text
        self.text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=text.vocab_size,
                d_model=text.dim,
                d_kv=text.dim // text.n_heads,
                d_ff=text.ffn_dim,
                num_layers=text.n_layers,
                num_heads=text.n_heads,
                dropout_rate=0.0,
                feed_forward_proj="relu",
            )
        )
        # Padding and the end of text say nothing: without this they dilute every short prompt.
        with torch.no_grad():
            self.text_encoder.get_input_embeddings().weight[:2].zero_()
        self.codec = LappedCodec(config.hop_length, config.latent_channels)
        self.velocity = MiniVelocity(config)

    @torch.no_grad()
    def take_over(self, other: MiniModel) -> None:
        """Begin with the weights of another model, which may be smaller, see `MiniConfig.extends`.

        What enters or leaves this network beyond the other's begins at zero, and so does what its
        further blocks add, so that both answer alike in the band that both hear.

        Raises
        ------
        ValueError
            If its configuration does not extend the other's.
        """
        if not self.config.extends(other.config):
            raise ValueError(f"expected a model of {self.config}, got {other.config}")
        theirs = other.state_dict()
        moves = {
            "velocity.proj.weight": (1, self.velocity.inputs(), other.velocity.inputs()),
            "velocity.transformer.output.weight": (
                0, self.velocity.outputs(), other.velocity.outputs(),
            ),
        }  # fmt: skip
        # Orthonormal transforms of longer blocks have larger coefficients.
        louder = (self.config.hop_length / other.config.hop_length) ** 0.5
        for name, mine in self.state_dict().items():
            given = theirs.get(name)
            if given is None or name == "codec.basis":
                continue
            if name == "codec.scale":
                mine[: len(given)] = given * louder
                mine[len(given) :] = mine[len(given) - 1]
            elif name in moves:
                axis, here, there = moves[name]
                index = {place: number for number, place in enumerate(here)}
                mine.zero_()
                mine.index_copy_(axis, torch.tensor([index[place] for place in there]), given)
            else:
                mine[tuple(slice(size) for size in given.shape)] = given
        for layer in list(self.velocity.transformer.blocks())[other.config.n_layers :]:
            for product in (layer.attention.wo, layer.cross_attention.wo, layer.feed_forward.w2):
                product.weight.zero_()
