"""PE-A-Frame, which hears where in a clip a phrase is true, through transformers.

``PeAudioFrameLevelModel`` scores every frame of a clip against a text. Its audio encoder begins
with the encoder of SAM Audio's own codec, so the graph takes the mixture's latents, which the
engine has anyway, and the codec's weights in the checkpoint are not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bridge.errors import ModelError
from onnx_export.text_encoder import check_model_type

if TYPE_CHECKING:
    from transformers import PeAudioFrameLevelModel


class SpanPredictor(nn.Module):
    """Per-frame logits of a text being heard.

    Parameters
    ----------
    model : transformers.PeAudioFrameLevelModel
        Its parts are used, not copied.
    """

    def __init__(self, model: PeAudioFrameLevelModel) -> None:
        super().__init__()
        # As for T5: strides of the fused attention can't be traced with a dynamic length.
        model.set_attn_implementation("eager")
        self.config: dict[str, Any] = model.config.to_dict()
        audio = model.audio_encoder
        self.project = audio.embedder.data_proj
        self.patch_embedder = audio.patch_embedder
        self.layers = audio.layers
        self.rotary = audio.rotary_emb
        self.norm = audio.norm
        self.output = audio.output
        self.audio_head = model.audio_head
        self.text_model = model.text_model
        self.text_head = model.text_audio_head
        self.scale = model.text_audio_logit_scale
        self.bias = model.text_audio_logit_bias

    @property
    def channels(self) -> int:
        """Latent channels C that it takes."""
        return int(self.project.in_features)

    @property
    def vocab_size(self) -> int:
        """Number of token ids of its own tokenizer."""
        return int(self.text_model.config.vocab_size)

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens."""
        return int(self.text_model.config.max_position_embeddings)

    def forward(self, latents: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score frames.

        Parameters
        ----------
        latents : Tensor
            (B, T, C) float32, the mixture, without padding.
        input_ids : Tensor
            (B, S) int64, the text in the predictor's own tokens.
        attention_mask : Tensor
            (B, S) bool, true at real tokens.

        Returns
        -------
        Tensor
            (B, T) float32 logits.
        """
        h, _ = self.patch_embedder(self.project(latents))
        positions = torch.arange(h.shape[1], device=h.device)[None]
        rotary = self.rotary(h, positions)
        for layer in self.layers:
            h = layer(h, attention_mask=None, position_embeddings=rotary)
        frames = self.audio_head(self.output(self.norm(h))[:, 1:])  # without the class token
        text = self.text_model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        phrase = self.text_head(text.hidden_states[-1][:, 0])
        logits: Tensor = (frames @ phrase[:, :, None])[..., 0] * self.scale + self.bias
        return logits


def load_span_predictor(directory: Path) -> SpanPredictor:
    """Load PE-A-Frame from a transformers directory.

    Returns
    -------
    SpanPredictor
        In evaluation mode, float32.

    Raises
    ------
    ModelError
        If the directory holds another model, or weights are missing.
    """
    from transformers import PeAudioFrameLevelModel
    from transformers.utils import logging

    check_model_type(directory, "pe_audio", "a span predictor")
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its table of missing weights; the error below names them
    try:
        loaded: Any = PeAudioFrameLevelModel.from_pretrained(
            directory, local_files_only=True, output_loading_info=True, dtype="float32"
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{directory}: cannot load a span predictor ({reason[:200]})") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{directory}: the span predictor's weights lack {len(missing)} tensors, among them "
            f"{missing[0]}"
        )
    return SpanPredictor(model).eval().requires_grad_(False)
