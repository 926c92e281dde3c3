"""The auxiliary alignment loss: the network's features follow a frozen tagger's embedding.

As in SAM Audio's training, and in Yu et al. 2024, "Representation Alignment for Generation": an
inner block's features, averaged over time and projected, are pulled towards what a pretrained
audio tagger makes of the target alone. Off unless a recipe names a tagger; the bundled model was
trained without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnx_export.mini import MiniModel
from onnx_export.training.config import AlignConfig

__all__ = ["HEAD", "Alignment"]

#: Name of the projection inside the model being trained; a release leaves it out.
HEAD = "alignment_head"


class Alignment:
    """The loss, and the hook that catches the features.

    Parameters
    ----------
    config : AlignConfig
        Tagger, weight and block.
    model : MiniModel
        Gets the projection as a submodule, so that it is trained and saved with the rest.
    device : torch.device
        Where the tagger runs.

    Raises
    ------
    ValueError
        If the model has no such block, or the tagger is none that transformers reads.
    """

    def __init__(self, config: AlignConfig, model: MiniModel, device: torch.device) -> None:
        from transformers import AutoFeatureExtractor, AutoModel

        layers = model.velocity.transformer.layers
        if not 0 <= config.layer < len(layers):
            raise ValueError(
                f"align.layer: expected 0 to {len(layers) - 1}, the model's blocks, "
                f"got {config.layer}"
            )
        try:
            self._tagger: Any = AutoModel.from_pretrained(config.tagger)
            self._extractor: Any = AutoFeatureExtractor.from_pretrained(config.tagger)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"align.tagger: expected a transformers audio model, a directory or an id on the "
                f"hub, got {config.tagger!r} ({error})"
            ) from error
        self._tagger.eval().requires_grad_(False).to(device)
        self.weight = config.weight
        self.layer = layers[config.layer]
        self._rate = model.config.sample_rate
        self._features: Tensor | None = None
        head = nn.Linear(model.config.dim, int(self._tagger.config.hidden_size))
        model.add_module(HEAD, head.to(device))
        self._head = head

    def watch(self) -> None:
        """Catch the block's features from now on; copies of the model made before are not seen."""

        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._features = output

        self.layer.register_forward_hook(keep)

    @torch.no_grad()
    def embed(self, wav: Tensor) -> Tensor:
        """Embed waveforms (B, samples) with the tagger: (B, D)."""
        rate = int(getattr(self._extractor, "sampling_rate", self._rate))
        heard = wav.float().cpu().numpy()
        if rate != self._rate:
            import soxr

            heard = soxr.resample(heard.T, self._rate, rate).T
        inputs = self._extractor(
            [np.ascontiguousarray(row) for row in heard], sampling_rate=rate, return_tensors="pt"
        )
        device = next(self._tagger.parameters()).device
        states = self._tagger(**{k: v.to(device) for k, v in inputs.items()}).last_hidden_state
        embedding: Tensor = states.float().flatten(1, -2).mean(1)
        return embedding

    def loss(self, wav: Tensor) -> Tensor:
        """Mean cosine distance between the features of the last evaluation and the targets'.

        Parameters
        ----------
        wav : Tensor, shape (B, samples)
            The targets alone. Those that are silent have no embedding and do not count.
        """
        if self._features is None:
            raise RuntimeError("no features: call watch() before the model is evaluated")
        features, self._features = self._features, None
        with torch.autocast(features.device.type, enabled=False):
            projected = self._head(features.float().mean(1))
            distance = 1 - F.cosine_similarity(projected, self.embed(wav).to(projected), dim=-1)
        sounding = wav.abs().amax(1) > 0
        return (distance * sounding).sum() / sounding.sum().clamp(min=1)
