"""Which loss gradients are of: that of the labels, or that of the model's own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..criteria.base import Loss
from .common import Images, with_labels, without_labels


def top_answer(logits: Tensor) -> Tensor:
    """Return the class that each output takes to be the likeliest, (images,).

    The divergence from a model's own outputs has no gradient at the model itself, so what is of
    the first order takes that answer for the label.
    """
    return logits.argmax(1)


def drawn_answer(logits: Tensor) -> Tensor:
    """Return a class drawn from each output's own distribution, (images,).

    Squared gradients of such answers are, on average, the Fisher information: the second
    derivative of the divergence from the model's own outputs (Martens, New Insights and
    Perspectives on the Natural Gradient Method, JMLR 2020, arXiv:1412.1193, section 5). The draw
    is the same each time.
    """
    generator = torch.Generator().manual_seed(0)
    chances = logits.detach().float().softmax(1).cpu()
    return torch.multinomial(chances, 1, generator=generator).flatten().to(logits.device)


def paired(images: Images, loss: Loss) -> Iterator[tuple[Any, Any]]:
    """Yield the images of every batch, and their labels; None where the model is to answer itself.

    Raises:
        DataError: There are no images, or no labels where these are needed.
    """
    if loss == "labels":
        yield from with_labels(images)
    else:
        yield from ((x, None) for x in without_labels(images))
