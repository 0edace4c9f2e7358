"""LAMP: energy relative to what the axis still holds (Lee et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from .base import criterion
from .order import descending
from .streams import relative_to_others


@criterion("lamp", scope="model", weight_level=True)
def lamp(axes: Sequence[Axis]) -> list[Tensor]:
    """Score slice j by s_j / (s_1 + ... + s_j), the s sorted in descending order.

    `s` is the squared Frobenius norm of the slice over all coupled layers together. The
    largest slice of every axis scores 1, so no axis can vanish.

    Source:
        Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021,
        arXiv:2010.07611, section 2. Differs: the atom is a slice, not a weight; with slices
        of one weight this is the paper's score.
    """
    return relative_to_others(
        axes, lambda axis: axis.reduce(lambda member: member.weight.float().square()), relative
    )


def relative(energy: Tensor) -> Tensor:
    """Divide each energy by the sum of all that are not smaller, (size,) in and out.

    Example:
        >>> relative(torch.tensor([1.0, 3.0, 4.0]))
        tensor([0.1250, 0.4286, 1.0000])
    """
    order = descending(energy)
    ordered = energy.index_select(0, order)
    held = ordered.cumsum(0)
    score = torch.where(held > 0, ordered / held.clamp(min=torch.finfo(held.dtype).tiny), 0)
    return torch.empty_like(score).scatter_(0, order, score)
