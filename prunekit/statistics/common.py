"""What every pass over calibration images has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor, nn

from ..axis import Axis, Member
from ..errors import DataError

Images = Iterable[tuple[Tensor, Tensor]]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every part of it back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def counted(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches.

    Raises:
        DataError: There are none.
    """
    seen = 0
    for x, y in images:
        seen += len(x)
        yield x, y
    if not seen:
        raise DataError("There are no calibration images; expected at least one.")


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
