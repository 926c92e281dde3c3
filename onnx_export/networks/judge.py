"""SAM Audio Judge, which scores how well a stem answers a text, as a graph of the bundle.

One frame transformer hears the mixture and the stem, each from latents of SAM Audio's own codec;
what it heard of both is joined, frame by frame, with the text, and a second one of the same kind
scores every frame. The transformers are those of PE-A-Frame in transformers, the text encoder its
ModernBERT.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from bridge.errors import ModelError
from onnx_export.networks.layers import load_strictly

WEIGHTS_FILE: Final = "model.safetensors"
SCORES: Final = ("overall", "recall", "precision", "faithfulness")
#: The codec in the judge's checkpoint: the mixture's and the stem's latents are there already.
_CODEC = ("audio_encoder.embedder.dac_encoder.", "audio_encoder.embedder.bottleneck.")
_RENAMED = {"audio_encoder.embedder.data_proj.": "audio_proj."}
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_parameters", "attention_bias",
)  # fmt: skip


class FrameTransformer(nn.Module):
    """A frame transformer of transformers, without the codec in front of it.

    Parameters
    ----------
    sizes : mapping
        Of a ``PeAudioEncoderConfig``.
    """

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers import PeAudioEncoderConfig
        from transformers.models.pe_audio.modeling_pe_audio import PeAudioEncoder

        # A codec as small as they come: it is built, and dropped.
        codec = {"encoder_hidden_size": 1, "hidden_size": 1, "codebook_dim": 1}
        known = {name: sizes[name] for name in _SIZES if name in sizes}
        encoder = PeAudioEncoder(PeAudioEncoderConfig(**known, dac_config=codec))
        # Strides of the fused attention can't be traced with a dynamic length.
        encoder.config._attn_implementation = "eager"
        self.patch_embedder = encoder.patch_embedder
        self.layers = encoder.layers
        self.rotary = encoder.rotary_emb
        self.norm = encoder.norm
        self.output = encoder.output

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        h, _ = self.patch_embedder(x)
        rotary = self.rotary(h, torch.arange(h.shape[1], device=h.device)[None])
        for layer in self.layers:
            h = layer(h, attention_mask=None, position_embeddings=rotary)
        out: Tensor = self.output(self.norm(h))[:, 1:]  # without the class token
        return out


class Judge(nn.Module):
    """Scores of stems.

    Parameters
    ----------
    config : mapping
        The judge's ``config.json``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        self.config = dict(config)
        text, audio = dict(config["text_config"]), dict(config["audio_config"])
        kind = text.pop("model_type", "modernbert")
        self.text_model = AutoModel.from_config(AutoConfig.for_model(kind, **text))
        self.text_model.set_attn_implementation("eager")
        self.text_layer = _cut_text_model(self.text_model, config.get("nth_text_layer"))
        text_width, width = self.text_model.config.hidden_size, int(audio["hidden_size"])
        inner, last = int(config["bottleneck_dim"]), int(config["hidden_size"])
        self.channels = int((audio.get("dac_config") or {}).get("codebook_dim", 128))
        self.audio_proj = nn.Linear(self.channels, width)
        self.audio_encoder = FrameTransformer(audio)
        self.text_proj1 = nn.Linear(text_width, width, bias=False)
        self.text_proj2 = nn.Linear(width, inner)
        self.layer_norm = nn.LayerNorm(inner)
        self.cat_audio_proj = nn.Linear(2 * width, inner)
        self.proj_audio_and_text = nn.Linear(2 * inner, inner)
        self.data_proj = nn.Linear(inner, last)
        self.transformer = FrameTransformer(config)
        self.head = nn.Linear(last, len(SCORES), bias=False)
        self.mean = nn.Parameter(torch.zeros(len(SCORES)))
        self.std = nn.Parameter(torch.ones(len(SCORES)))

    @property
    def vocab_size(self) -> int:
        """Number of token ids of its own tokenizer."""
        return int(self.text_model.config.vocab_size)

    def forward(
        self, mixture: Tensor, stem: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """Score stems.

        Parameters
        ----------
        mixture, stem : Tensor
            (B, T, C) float32 latents, without padding.
        input_ids : Tensor
            (B, S) int64, what the stem should be, in the judge's own tokens.
        attention_mask : Tensor
            (B, S) bool, true at real tokens.

        Returns
        -------
        Tensor
            (B, 4) float32, in the order of `SCORES`.
        """
        # One after the other: as one batch, tracing would take its size for a constant.
        heard = [self.audio_encoder(self.audio_proj(latents)) for latents in (stem, mixture)]
        audio = self.cat_audio_proj(torch.cat(heard, dim=-1))
        said = self.text_model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        tokens = said.last_hidden_state
        if self.text_layer is not None:
            tokens = said.hidden_states[self.text_layer]
        text = self.layer_norm(self.text_proj2(self.text_proj1(tokens[:, 0])))
        both = torch.cat([audio, text[:, None].expand_as(audio)], dim=-1)
        frames = self.transformer(self.data_proj(self.proj_audio_and_text(both)))
        scores: Tensor = self.head(frames).mean(dim=1) * self.std + self.mean
        return scores


def _cut_text_model(model: Any, layer: int | None) -> int | None:
    """Drop what lies behind the hidden state that is used; return its number, None for the last."""
    depth = len(model.layers)
    if layer is None or layer in (-1, depth):
        return layer
    layer %= depth + 1
    model.layers = model.layers[:layer]
    model.final_norm = nn.Identity()
    return layer


def load_judge(directory: Path) -> Judge:
    """Load the judge from a directory in transformers' format.

    Parameters
    ----------
    directory : Path
        With ``config.json`` and ``model.safetensors``.

    Returns
    -------
    Judge
        In evaluation mode, float32.

    Raises
    ------
    ModelError
        If the directory holds another model, or a tensor is missing, unexpected or misshapen.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        model = Judge(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelError(f"{directory}: not the configuration of a judge ({reason})") from error
    try:
        tensors = load_file(directory / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{directory / WEIGHTS_FILE}: cannot be read ({error})") from error
    unused = (*_CODEC, *_behind(model.state_dict()))
    state = {
        _renamed(name): value.float()
        for name, value in tensors.items()
        if not name.startswith(unused)
    }
    load_strictly(model, state, f"{directory}: the judge's weights don't fit its config.json")
    return model


def _behind(wanted: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Begin the names of the text model's tensors that lie behind the state that is used."""
    if "text_model.final_norm.weight" in wanted:
        return ()
    depth = len({n.split(".")[2] for n in wanted if n.startswith("text_model.layers.")})
    layers = (f"text_model.layers.{number}." for number in range(depth, depth + 256))
    return ("text_model.final_norm.", *layers)


def _renamed(name: str) -> str:
    for theirs, ours in _RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
