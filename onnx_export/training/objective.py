"""What a training run minimises, the score that follows it, and the optimisers.

The auxiliary alignment loss lets the network's features follow a frozen tagger's embedding. As in
SAM Audio's training, and in Yu et al. 2024, "Representation Alignment for Generation": an inner
block's features, averaged over time and projected, are pulled towards what a pretrained audio
tagger makes of the target alone. Off unless a recipe names a tagger.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnx_export.networks.mini import MiniModel
from onnx_export.training.run import AlignConfig, Recipe, TrainConfig

#: A stem much weaker than its mixture is judged against this share of the mixture's energy.
QUIETEST_SHARE = 0.02
#: Share of likeness (-17 dB) beyond which an example no longer pulls, at either end.
UNLIKE_FLOOR = 0.02


def draw_times(count: int, at_zero: float, generator: torch.Generator) -> Tensor:
    """Flow times: a share at exactly 0, the rest the square of a uniform number.

    Small times matter most, since that is where the answer is decided.
    """
    uniform = torch.rand(count, generator=generator)
    chosen = torch.rand(count, generator=generator) < at_zero
    return torch.where(chosen, torch.zeros(()), uniform**2)


def interpolate(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Follow flow matching's linear path, ``(1 - t) noise + t clean`` (Lipman et al. 2023)."""
    t = t[:, None, None]
    return (1 - t) * noise + t * clean


def relative_error(predicted: Tensor, target: Tensor, mixture: Tensor, weight: Tensor) -> Tensor:
    """Error energy over the energy of the weaker of target and residual, per example.

    Parameters
    ----------
    predicted : Tensor, shape (B, T, 2C)
        Target and residual latents.
    target, mixture : Tensor, shape (B, T, C)
        The truth.
    weight : Tensor, shape (C,)
        Weight of each channel's energy.

    Returns
    -------
    Tensor, shape (B,)
        Its negative in dB is the improvement over the mixture, averaged over both stems.
    """
    clean = torch.cat([target, mixture - target], dim=-1)
    error = ((predicted - clean) ** 2 * weight.repeat(2)).sum((1, 2)) / 2
    of_target = (target**2 * weight).sum((1, 2))
    of_rest = ((mixture - target) ** 2 * weight).sum((1, 2))
    of_mixture = (mixture**2 * weight).sum((1, 2))
    reference = torch.maximum(torch.minimum(of_target, of_rest), QUIETEST_SHARE * of_mixture)
    return error / (reference + 1e-6)


def objective(relative: Tensor, floor: float) -> Tensor:
    """Mean log of the relative error: each example counts by its improvement in dB.

    `floor` is the error below which an example no longer pulls.
    """
    return torch.log(relative + floor).mean()


def likeness_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Log of noise over signal after the best gain, as in SI-SDR, of targets that sound.

    Beside an error in energy, for which silence is a safe answer wherever the network doubts: the
    wrong source, and a faint right one, are told apart here alone.

    Parameters
    ----------
    predicted, target : Tensor, shape (B, T, C)
        Target latents.
    weight : Tensor, shape (C,)
        Weight of each channel's energy.
    """
    of_target = (target**2 * weight).sum((1, 2))
    of_both = (predicted * target * weight).sum((1, 2))
    of_predicted = (predicted**2 * weight).sum((1, 2))
    alike = (of_both.clamp(min=0) ** 2) / (of_target * of_predicted + 1e-6)
    lost = torch.log((1 - alike).clamp(min=0) + UNLIKE_FLOOR) - torch.log(alike + UNLIKE_FLOOR)
    sounds = (of_target > 0).to(lost.dtype)
    return (lost * sounds).sum() / sounds.sum().clamp(min=1)


def si_sdr_db(estimate: Tensor, reference: Tensor) -> Tensor:
    """SI-SDR in dB per example (Le Roux et al. 2019), (B, T, C) unscaled orthonormal latents."""
    estimate, reference = estimate.flatten(1), reference.flatten(1)
    scale = (estimate * reference).sum(1) / reference.pow(2).sum(1).clamp(min=1e-9)
    projection = scale[:, None] * reference
    noise = (estimate - projection).pow(2).sum(1)
    return 10 * torch.log10(projection.pow(2).sum(1).clamp(min=1e-9) / noise.clamp(min=1e-9))


#: In the names of the U-Net's weights, and the option of an optimiser's group that says how much of
#: the learning rate is the group's.
REFINES, SHARE = ".refine.", "share"


def learning_rate(step: int, recipe: Recipe) -> float:
    """Warm up, hold, then fall linearly to zero over the last `decay` share of the steps."""
    train = recipe.train
    left = (train.steps - step) / max(1.0, train.decay * train.steps)
    return train.rate * min(1.0, (step + 1) / train.warmup, max(0.0, left))


def make_optimisers(model: nn.Module, train: TrainConfig) -> list[torch.optim.Optimizer]:
    """Make AdamW for every parameter, or Muon for the matrices inside the blocks beside it.

    Norms and other vectors are not decayed.
    """
    params = dict(model.named_parameters())
    inner = {
        name
        for name, p in params.items()
        if ".layers." in name and p.ndim == 2 and "scale_shift" not in name
    }
    matrices = inner if train.optimiser == "muon" else set()
    rest = {n: p for n, p in params.items() if n not in matrices}
    groups = [
        {
            "params": [
                p for n, p in rest.items() if (p.ndim >= 2) == wide and (REFINES in n) == refines
            ],
            "weight_decay": train.weight_decay if wide else 0.0,
            SHARE: 1.0 if refines else train.carried,
        }
        for refines in (False, True)
        for wide in (True, False)
    ]
    result: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=train.rate, betas=(0.9, 0.98), fused=True)
    ]
    if matrices:
        result.append(
            torch.optim.Muon(
                [params[n] for n in sorted(matrices)],
                lr=train.rate,
                weight_decay=train.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return result


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
        If the model has no such block, or transformers cannot read the tagger.
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
