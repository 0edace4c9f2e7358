"""How many test images a model classifies correctly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..inputs.data import check_labels
from ..tracing.outputs import logits_of

EVAL_BATCH = 250  # images in a forward pass that is not


def accuracy(model: nn.Module, images: Iterable[Sequence[Tensor]]) -> tuple[float, float, int]:
    """Return top-1 and top-5 as percentages, and the number of images.

    Raises:
        DataError: A label is outside the model's classes.
    """
    found = hits(model, images)
    return (*percentages(found), len(found))


def percentages(found: Tensor) -> tuple[float, float]:
    """Turn hits into top-1 and top-5 percentages."""
    top1, top5 = (100 * found.double().mean(0)).tolist()
    return round(top1, 3), round(top5, 3)


@torch.inference_mode()
def hits(model: nn.Module, images: Iterable[Sequence[Tensor]]) -> Tensor:
    """Return whether each image's class came first, and among the first five, (images, 2) bool.

    Raises:
        DataError: A label is outside the model's classes.
    """
    like = next(model.parameters())
    found = []
    for x, y, *_ in images:
        logits = logits_of(model(x.to(like))).float().cpu()
        check_labels(y, logits.shape[1], len(x))
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (batch, 5)
        right = ranked == y.unsqueeze(1)
        found.append(torch.stack([right[:, 0], right.any(1)], dim=1))
    return torch.cat(found)
