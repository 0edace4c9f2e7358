"""What every pass over calibration images has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import mapped
from ..axis import Axis, Member
from ..errors import DataError
from ..tracing.checkpointing import without_checkpointing

# A batch is a tensor of images, or a sequence that begins with one and maybe goes on with labels.
Images = Iterable[Tensor | Sequence[Any]]
NO_IMAGES = "There are no calibration images; expected at least one."


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every part of it back into its own.

    Gradient checkpointing is off meanwhile, since `torch.func` cannot follow it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with without_checkpointing(model):
            yield
    finally:
        for module, training in modes:
            module.training = training


def without_labels(images: Images) -> Iterator[Tensor]:
    """Yield the images of every batch, and look at nothing else.

    Raises:
        DataError: There are none.
    """
    seen = 0
    for batch in images:
        x: Any = batch if isinstance(batch, Tensor) else batch[0]
        x = list(x) if isinstance(x, tuple) else x  # which a model takes as one argument
        seen += len(x)
        yield x
    if not seen:
        raise DataError(NO_IMAGES)


def with_labels(images: Images) -> Iterator[tuple[Any, Any]]:
    """Yield the images of every batch, and their labels, whatever these are.

    Raises:
        DataError: There are no images, or a batch has no labels.
    """
    seen = 0
    for batch in images:
        if isinstance(batch, Tensor) or len(batch) < 2 or batch[1] is None:
            raise DataError(
                "The calibration images have no labels, which gradients need; give them labels, or "
                "choose a criterion that needs none."
            )
        seen += len(batch[0])
        yield batch[0], batch[1]
    if not seen:
        raise DataError(NO_IMAGES)


def first_weight(model: nn.Module) -> Tensor:
    """Return the first parameter, which is where the images go in."""
    return next(p for p in model.parameters() if p.is_floating_point())


def placed(images: Any, weight: Tensor) -> Any:
    """Return images, (batch, ...) or a list of them, where a weight is and in its precision."""

    def moved(x: Tensor) -> Tensor:
        return x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)

    return mapped(moved, images)


def precise(values: Tensor) -> Tensor:
    """Return values in float32, or in float64 if they are; half precision cannot add them up."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def voter_names(axes: Sequence[Axis]) -> list[str]:
    """Name the parameters that have a say in the scores."""
    return sorted({member.name for axis in axes for member in axis.voters})


def with_voters(axes: Sequence[Axis], change: Callable[[Member], Member]) -> list[Axis]:
    """Return the axes with another member in the place of each voter."""

    def changed(axis: Axis) -> Axis:
        voters = set(map(id, axis.voters))
        return replace(
            axis, members=tuple(change(m) if id(m) in voters else m for m in axis.members)
        )

    return [changed(axis) for axis in axes]
