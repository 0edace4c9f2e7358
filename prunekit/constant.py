"""Constant: what stands where a residual branch was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Constant(nn.Module):
    """Returns the same at every position, whatever it is given; the shape is that of its input.

    Attributes:
        bias: What it returns, (channels,); None if zeros.
        along: Which dimension of the input the channels are.
    """

    bias: Tensor | None

    def __init__(self, bias: nn.Parameter | None, along: int):
        super().__init__()
        self.register_parameter("bias", bias)
        self.along = along

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return a tensor of its own, since callers may add to it in place."""
        if self.bias is None:
            return torch.zeros_like(x)
        shape = [1] * x.dim()
        shape[self.along] = -1
        return self.bias.view(shape).expand_as(x).clone()
