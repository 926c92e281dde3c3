"""Half precision where it is safe: matrices and convolutions, but no norm and no recurrence."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from onnx_export.layers import RMSNorm
from onnx_export.watermark import Watermark

#: ``fp16-weights`` stores weights in half and computes in fp32: half the size, the speed of fp32.
Precision = Literal["fp32", "fp16", "fp16-weights"]

#: Largest difference accepted from the same weights in fp32; outputs are of about unit size.
ARITHMETIC_TOLERANCE: dict[Precision, float] = {"fp16": 2e-2}
#: Largest difference accepted from the weights as they were before they were rounded.
ROUNDING_TOLERANCE: dict[str, float] = {"fp16": 2e-2, "fp16-weights": 2e-2}

#: Kept in float32: sums of squares overflow in half precision, an LSTM accumulates its error over
#: thousands of steps.
_WIDE = (RMSNorm, nn.LayerNorm, nn.GroupNorm, Watermark)


class HalfPrecision(nn.Module):
    """A module computed in half precision behind float32 inputs and outputs.

    Parameters
    ----------
    module : nn.Module
        Left as it is; a converted copy is kept.
    narrow : tuple of bool
        For each input, whether it is converted too. Flow times and integers are not.
    """

    def __init__(self, module: nn.Module, narrow: tuple[bool, ...]) -> None:
        super().__init__()
        self.narrow = narrow
        self.module = copy.deepcopy(module).half()
        for part in self.module.modules():
            if isinstance(part, _WIDE):
                part.float()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Convert, compute, convert back."""
        converted = [
            value.half() if narrow else value
            for value, narrow in zip(inputs, self.narrow, strict=True)
        ]
        out: Tensor = self.module(*converted)
        return out.to(torch.float32)
