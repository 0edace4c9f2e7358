"""Zeros that stay zero while everything else is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...errors import TrainingError
from ...weights.masks import astray


def keep_zeros(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Let no gradient reach the zeros of a model.

    With a gradient of zero, moments and momentum stay zero too, decay takes a fraction of zero,
    and so does the running average; clipping sees the gradients of what is trained only.

    Args:
        model: Its parameters get a hook each, which copies of them do not have.
        masks: Parameter name to which of its values may change, bool.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        gone = ~mask.to(parameters[name].device)
        # Not a product: in half precision a gradient may overflow, and infinity times 0 is NaN.
        hook: Any = parameters[name].register_hook
        hook(lambda grad, gone=gone: grad.masked_fill(gone, 0))


def check_zeros(model: nn.Module, masks: Mapping[str, Tensor], optimizer: str) -> None:
    """Make sure that training has left all zeros alone.

    Raises:
        TrainingError: It has not.
    """
    for name, moved in astray(model, masks).items():
        raise TrainingError(
            f"The optimizer {optimizer!r} moved {moved:,} weights of {name!r} that the masks keep "
            "at zero, although they had no gradient; choose one that goes by each weight's own "
            "gradient, such as adamw."
        )
