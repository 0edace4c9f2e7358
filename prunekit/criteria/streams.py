"""What is relative to the other slices of an axis: of a branch, to the others on its stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..axis import Axis


def relative_to_others(
    axes: Sequence[Axis],
    values_of: Callable[[Axis], Tensor],
    change: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Change the values of every axis, those of all branches of a stream together.

    A branch is alone on its axis, so that nothing there is relative to anything. What it competes
    with are the other branches that add to a stream of the same width.

    Args:
        axes: What is scored.
        values_of: From an axis to (..., size).
        change: From the values of some slices, (..., n), to what becomes of them, (n,).

    Returns:
        What became of the values, axis by axis, (size,).
    """
    together: dict[object, list[int]] = {}
    for number, axis in enumerate(axes):
        alone = axis.spec.branch is None
        together.setdefault(number if alone else f"stream of {_width(axis)}", []).append(number)
    found: dict[int, Tensor] = {}
    for numbers in together.values():
        values = [values_of(axes[n]) for n in numbers]
        changed = change(values[0] if len(values) == 1 else torch.cat(values, dim=-1))
        found.update(
            zip(numbers, torch.split(changed, [axes[n].size for n in numbers]), strict=True)
        )
    return [found[number] for number in range(len(axes))]


def _width(branch: Axis) -> int:
    (last,) = branch.voters
    return last.weight.shape[0]
