"""price_of: what a slice saves, for criteria that weigh what is lost against it."""

from __future__ import annotations

from ..axis import Axis


def price_of(axis: Axis) -> float:
    """Return what a slice saves; what saves nothing of the budget is dear, and leaves last.

    Where nobody said, that is the weights that leave with it: of a branch all there are.
    """
    if axis.price is not None:
        return max(axis.price, 1.0)
    if axis.spec.branch is None:
        return axis.weights_per_slice
    return sum(member.weights_per_slice for member in axis.members)
