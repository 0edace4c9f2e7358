"""How far a model's predictions are from another's, without labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tracing.outputs import logits_of


@torch.inference_mode()
def logits_on(model: nn.Module, images: Iterable[Any]) -> Tensor:
    """Return what a model says of images, (images, classes) float64 on CPU.

    Args:
        model: In evaluation mode.
        images: Batches of images, or of images and more, which is not looked at.
    """
    like = next(model.parameters())
    batches = (batch if isinstance(batch, Tensor) else batch[0] for batch in images)
    return torch.cat([logits_of(model(x.to(like))).double().cpu() for x in batches])


def divergence(dense: Tensor, small: Tensor) -> float:
    """Return the Kullback-Leibler divergence of predictions from the dense model's, in nats.

    Args:
        dense: Its logits, (images, classes).
        small: The other model's logits of the same images.
    """
    said, would = dense.log_softmax(-1), small.log_softmax(-1)
    return float(F.kl_div(would, said, log_target=True, reduction="batchmean"))
