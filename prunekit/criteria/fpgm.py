"""FPGM: slices close to all the others can be replaced (He et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from .base import criterion


@criterion("fpgm", scope="axis")
def fpgm(axes: Sequence[Axis]) -> list[Tensor]:
    """Score a slice by the sum of its Euclidean distances to the other slices.

    Distances are comparable within one axis only, hence the default scope.

    Source:
        He et al., Filter Pruning via Geometric Median, CVPR 2019, arXiv:1811.00250, Eq. 8.
        Differs: a slice is the vector of all it owns in all coupled layers, not one filter.
    """
    return [_distances(axis).sum(1) for axis in axes]


def _distances(axis: Axis) -> Tensor:
    """Return the distances between all slices, (size, size), without joining the layers."""
    squared = torch.zeros(axis.size, axis.size, device=axis.voters[0].weight.device)
    for member in axis.voters:
        rows = member.slices(member.weight.float())
        squared += torch.cdist(rows, rows).square()
    return squared.sqrt().double()
