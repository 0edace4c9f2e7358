"""Magnitude: slices of small weights matter little (Li et al., ICLR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..axis import Axis
from ..plugin import Allowed
from .base import criterion

POWER = Allowed("1 or 2", lambda p: p in (1, 2))


@criterion("magnitude", scope="kind", weight_level=True, allowed={"p": POWER})
def magnitude(axes: Sequence[Axis], *, p: int = 2) -> list[Tensor]:
    """Score a slice by the power mean of its weights, (mean |w|^p)^(1/p).

    Args:
        axes: What to score.
        p: 1 for the mean absolute weight, 2 for the root mean square.

    Source:
        Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710.
        Differs: the norm is over all coupled layers, and divided by the number of weights,
        so that slices of wide and of narrow layers can be ranked together.
    """
    return [_power_mean(axis, p) for axis in axes]


def _power_mean(axis: Axis, p: int) -> Tensor:
    total = axis.reduce(lambda member: member.weight.float().abs().pow(p))
    return (total / axis.weights_per_slice).pow(1 / p)
