"""The training objective and the score that follows it."""

from __future__ import annotations

import torch
from torch import Tensor

#: A stem much weaker than its mixture is judged against this share of the mixture's energy.
QUIETEST_SHARE = 0.02


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


def si_sdr_db(estimate: Tensor, reference: Tensor) -> Tensor:
    """SI-SDR in dB per example (Le Roux et al. 2019), (B, T, C) unscaled orthonormal latents."""
    estimate, reference = estimate.flatten(1), reference.flatten(1)
    scale = (estimate * reference).sum(1) / reference.pow(2).sum(1).clamp(min=1e-9)
    projection = scale[:, None] * reference
    noise = (estimate - projection).pow(2).sum(1)
    return 10 * torch.log10(projection.pow(2).sum(1).clamp(min=1e-9) / noise.clamp(min=1e-9))
