"""One pass over calibration images: what criteria need to know beyond the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ..axis import Axis
from ..criteria.base import Loss, Need
from .activations import gather_activations
from .common import Images
from .covariances import gather_covariances
from .curvatures import gather_curvatures
from .gradients import gather_gradients, gather_squared_gradients

GATHER: dict[Need, Callable[[nn.Module, Sequence[Axis], Images], list[Axis]]] = {
    "nothing": lambda model, axes, images: list(axes),
    "activations": gather_activations,
    "covariances": gather_covariances,
}
GATHER_OF_LOSS: dict[Need, Callable[[nn.Module, Sequence[Axis], Images, Loss], list[Axis]]] = {
    "gradients": gather_gradients,
    "squared_gradients": gather_squared_gradients,
    "curvatures": gather_curvatures,
}


def gather(
    need: Need,
    model: nn.Module,
    axes: Sequence[Axis],
    images: Images,
    loss: Loss = "labels",
) -> list[Axis]:
    """Return the axes with what a criterion needs, and nothing else.

    Args:
        need: What the criterion declares.
        model: The model that was traced; it runs in evaluation mode and is not modified.
        axes: What was traced.
        images: Batches: a tensor of images, or a sequence of that and a tensor of labels, which
            only gradients need.
        loss: What gradients are of: the `labels`, or the model's own answers (`self`).

    Raises:
        DataError: There are no images, no labels for gradients, or a label is outside the model's
            classes.
        AdapterError: A layer with a say in the scores took no part in the forward pass.
    """
    if need in GATHER_OF_LOSS:
        return GATHER_OF_LOSS[need](model, axes, images, loss)
    return GATHER[need](model, axes, images)


__all__ = [
    "gather",
    "gather_activations",
    "gather_covariances",
    "gather_curvatures",
    "gather_gradients",
    "gather_squared_gradients",
]
