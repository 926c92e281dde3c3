"""The optimisers of a training run, and their rate."""

from __future__ import annotations

import torch
from torch import nn

from onnx_export.training.config import Recipe, TrainConfig


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
    decayed = [p for n, p in params.items() if n not in matrices and p.ndim >= 2]
    plain = [p for n, p in params.items() if n not in matrices and p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": plain, "weight_decay": 0.0},
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
