"""What slices cost once those that stay have made up for them, axis by axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from ..axis import Axis, Member
from ..plugin import Allowed
from .activity import product_variance
from .elimination import Reader, eliminated
from .energy import TINY, energies
from .price import price_of

TILT = 1e-9  # between slices that cost the same, so that they keep their order
RIDGE = Allowed("above 0", lambda ridge: ridge > 0)

# From a reading member, the weight of one of its groups, (outputs, columns), and which outputs
# these are, to W^T G W, (columns, columns): what an error of the weight costs.
Weighing: TypeAlias = Callable[[Member, Tensor, slice], Tensor]


def marginal_costs(axes: Sequence[Axis], weighing: Weighing, ridge: float) -> list[Tensor]:
    """Score slices by what each adds to the cost when its turn to leave comes, over its price.

    So a plan that removes what scores least shares the budget by marginal cost after
    compensation. Where no layer reads an axis, as with query-key pairs, the cost of a slice is the
    variance of its product, relative to that of all slices of the axis.

    Args:
        axes: What may shrink, with covariances.
        weighing: What an error of a weight costs.
        ridge: See `eliminated`.
    """
    return [_costs(axis, weighing, ridge) / price_of(axis) for axis in axes]


def _costs(axis: Axis, weighing: Weighing, ridge: float) -> Tensor:
    readers = [one for m in axis.readers if m.dim == 1 for one in readers_of(m, weighing)]
    if not readers:
        variance = product_variance(axis)
        return variance / variance.sum().clamp(min=TINY)
    if not all(bool(one.covariance.isfinite().all()) for one in readers):
        return torch.full((axis.size,), torch.nan)  # which is refused, in a sentence
    found = eliminated(readers, ridge)
    return torch.empty_like(found.costs).scatter_(0, found.order, never_falling(found.costs))


def relative_error(axes: Sequence[Axis]) -> Weighing:
    """Return what an error of a weight costs: the squared error of the outputs, over their energy.

    See `energies` for what that is the energy of.
    """
    energy = energies(axes)

    def weighing(member: Member, weight: Tensor, _: slice) -> Tensor:
        return weight.T @ weight / energy(member)

    return weighing


def readers_of(member: Member, weighing: Weighing) -> Iterator[Reader]:
    """Yield a layer that reads slices, group by group, as quadratic forms."""
    run = member.weight[0, 0].numel()  # columns of every channel in the flattened weight
    index = (member.index.unsqueeze(2) * run + torch.arange(run)).flatten(1)
    weight = member.weight.flatten(1).double()
    covariances = member.covariance
    if covariances is None:  # what cannot be refitted costs its variance
        assert member.inputs is not None, "whoever gathers covariances gathers the inputs"
        variance = member.inputs.variance.broadcast_to(member.weight.shape).flatten(1)
        covariances = variance[:1].diag_embed()
    outputs = len(weight) // len(covariances)
    for group, covariance in enumerate(covariances):
        own = slice(group * outputs, (group + 1) * outputs)
        yield Reader(weighing(member, weight[own], own), covariance, index)


def never_falling(costs: Tensor) -> Tensor:
    """Return the nearest costs that never fall along the order, with the same sum.

    Where a slice is cheaper than the one before, both leave together or not at all, each for
    their mean: the sums of these are the lower convex hull of the sums of the costs. What costs
    the same keeps its order by a tilt of a billionth.

    Example:
        >>> never_falling(torch.tensor([1.0, 4.0, 2.0])).round(decimals=3).tolist()
        [1.0, 3.0, 3.0]
    """
    level = torch.from_numpy(isotonic_regression(costs.double().numpy()).x)
    return level * (1 + TILT * torch.arange(len(level), dtype=level.dtype))
