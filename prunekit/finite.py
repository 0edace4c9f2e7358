"""check_finite: no model with a weight that is not a number goes in or out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .errors import WeightsError


def check_finite(model: nn.Module, what: str) -> None:
    """Make sure that all weights are numbers.

    Call it when weights come in, and before a model is saved; it reads every value once. Buffers
    may hold minus infinity, as masks of attention do.

    Args:
        model: Whose parameters and buffers are looked at, in their own precision.
        what: What the model is, as the subject of a sentence: "The file weights.pt".

    Raises:
        WeightsError: One is NaN or infinite; the message names the first.
    """
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter.detach()):
            raise _refusal(what, name, parameter.detach())
    for name, buffer in model.named_buffers():
        if not _is_finite(buffer.masked_fill(buffer == -torch.inf, 0)):
            raise _refusal(what, name, buffer)


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point() or not values.numel() or values.is_meta:
        return True
    # NaN is passed on to both; a mask of all values would take a quarter of the model's memory.
    low, high = torch.aminmax(values)
    return bool(low.isfinite() and high.isfinite())


def _refusal(what: str, name: str, values: Tensor) -> WeightsError:
    count = int((~values.isfinite()).sum())
    return WeightsError(
        f"{what} has {count} of {values.numel()} values NaN or infinite in {name!r} "
        f"({str(values.dtype).removeprefix('torch.')}); expected finite numbers only. Take other "
        "weights, or undo the step that made them so."
    )
