"""One pass over calibration images: what criteria need to know beyond the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ..axis import Axis
from ..criteria.base import Need
from .activations import gather_activations
from .common import Images
from .gradients import gather_gradients, gather_squared_gradients

GATHER: dict[Need, Callable[[nn.Module, Sequence[Axis], Images], list[Axis]]] = {
    "nothing": lambda model, axes, images: list(axes),
    "gradients": gather_gradients,
    "squared_gradients": gather_squared_gradients,
    "activations": gather_activations,
}


def gather(
    need: Need,
    model: nn.Module,
    axes: Sequence[Axis],
    images: Images,
) -> list[Axis]:
    """Return the axes with what a criterion needs, and nothing else.

    Args:
        need: What the criterion declares.
        model: The model that was traced; it runs in evaluation mode and is not modified.
        axes: What was traced.
        images: Batches: a tensor of images, or a sequence of that and a tensor of labels, which
            only gradients need.

    Raises:
        DataError: There are no images, no labels for gradients, or a label is outside the model's
            classes.
        AdapterError: A layer with a say in the scores took no part in the forward pass.
    """
    return GATHER[need](model, axes, images)


__all__ = ["gather", "gather_activations", "gather_gradients", "gather_squared_gradients"]
