"""check_finite: weights that are numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import WeightsError


def check_finite(model: nn.Module, what: str) -> None:
    """Make sure that every parameter and buffer is a finite number, in its own precision.

    Buffers may hold minus infinity, as masks of attention do, and single ones infinity, as bounds.

    Args:
        model: Looked at, and left alone.
        what: What to call it in the message.

    Raises:
        WeightsError: One is not; the first is named.
    """
    buffers = ((name, _without_bounds(buffer)) for name, buffer in model.named_buffers())
    for name, tensor in (*model.named_parameters(), *buffers):
        if not _is_finite(tensor.detach()):
            bad = int((~tensor.isfinite()).sum())
            raise WeightsError(
                f"{what} has {bad:,} weights in {name!r} that are infinite or not a number; mend "
                "them, or use other weights."
            )


def _without_bounds(buffer: Tensor) -> Tensor:
    bound = buffer == -torch.inf if buffer.dim() else buffer.abs() == torch.inf
    return buffer.masked_fill(bound, 0)


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point() or not values.numel() or values.is_meta:
        return True
    # NaN comes through in both; a flag for every value would take memory.
    low, high = torch.aminmax(values)
    return bool(low.isfinite() and high.isfinite())
