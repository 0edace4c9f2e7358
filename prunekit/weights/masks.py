"""Scores of single weights -> which stay: pure arithmetic on whole matrices.

A matrix has millions of weights and a model a hundred million, so scores stay float32, masks are
one byte a weight, and there is no loop but over matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..axis import Axis
from ..errors import BudgetError
from ..planning.budget import Budget
from .ranking import Ranking, Values


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """Which weights of each matrix stay.

    Attributes:
        kept: Parameter name to a mask of its shape, bool, on CPU; True stays.
        kinds: Parameter name to its role.
        granularity: `weight` or `n:m`.
        thresholds: Pool (a matrix, a kind or `model`, as the scope has it) to the highest score
            that left it; pools that lose nothing have none, nor has n:m, where every group of m
            weights is on its own.
    """

    kept: Mapping[str, Tensor]
    kinds: Mapping[str, str]
    granularity: str
    thresholds: Mapping[str, float]


def make_masks(
    axes: Sequence[Axis], scores: Sequence[Tensor], budget: Budget, *, scope: str
) -> MaskPlan:
    """Choose the weights that stay, to the last one.

    Weights compete within a pool, and every pool loses the same fraction to within one weight,
    so that all together lose exactly what was asked: the lowest scores and, among equal ones,
    those that come first by the order of the axes and by position.

    Args:
        axes: Of one `Matrix` each.
        scores: One (size,) float32 score per axis, on CPU; higher means keep.
        budget: What to remove how much of. By `params` and `slices` every weight counts as one;
            by `macs` all weights of a layer cost together what its term says.
        scope: A pool is an `axis`, all axes of a `kind`, or the whole `model`.

    Raises:
        BudgetError: All weights together are less than the ratio, or the ratio is less than one.
    """
    pools = _make_pools(axes, scores, budget, scope)
    counts = shares(_removed(pools, budget), [pool.size for pool in pools])
    kept, thresholds = {}, {}
    for pool, count in zip(pools, counts, strict=True):
        threshold, leaving = pool.ranking.lowest(count)
        for axis, own, leaves in zip(pool.axes, pool.ranking.parts, leaving, strict=True):
            mask = torch.from_numpy(_kept(own, threshold, leaves))
            kept[axis.name] = mask.view(axis.members[0].weight.shape)
        if count:
            thresholds[pool.name] = threshold
    return MaskPlan(
        {axis.name: kept[axis.name] for axis in axes},
        {axis.name: axis.kind for axis in axes},
        "weight",
        thresholds,
    )


def make_pattern(axes: Sequence[Axis], scores: Sequence[Tensor], n: int, m: int) -> MaskPlan:
    """Keep the n best of every m consecutive weights along the input dimension.

    Of equal scores, those that come first leave first.

    Args:
        axes: Of one `Matrix` each, whose input dimension, dimension 1, m divides.
        scores: One (size,) score per axis, on CPU; higher means keep.
        n: How many stay.
        m: Of how many.
    """
    kept = {
        axis.name: _best(score.view(axis.members[0].weight.shape), n, m)
        for axis, score in zip(axes, scores, strict=True)
    }
    return MaskPlan(kept, {axis.name: axis.kind for axis in axes}, f"{n}:{m}", {})


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide a total among pools in proportion to their sizes, each to within one.

    What is left after rounding down goes to the largest remainders, the first of equal ones.

    Example:
        >>> shares(10, [7, 7, 6])
        [4, 3, 3]
    """
    whole = sum(sizes)
    counts = [total * size // whole for size in sizes]  # of integers, which are exact
    by_remainder = sorted(range(len(sizes)), key=lambda n: -(total * sizes[n] % whole))
    for n in by_remainder[: total - sum(counts)]:
        counts[n] += 1
    return counts


def astray(model: nn.Module, kept: Mapping[str, Tensor]) -> dict[str, int]:
    """Count the weights that the masks remove and that are not zero, by parameter; empty if none.

    Args:
        model: A masked model.
        kept: Parameter name to a mask of its shape, bool.
    """
    parameters = dict(model.named_parameters())
    found = {}
    for name, mask in kept.items():
        values = parameters[name].detach()
        found[name] = int(values.masked_fill(mask.to(values.device), 0).count_nonzero())
    return {name: count for name, count in found.items() if count}


@dataclass(frozen=True)
class _Pool:
    """Weights that compete with each other.

    Attributes:
        name: Of the axis, the kind, or `model`.
        axes: The matrices.
        ranking: The order of all their weights' scores.
        costs: What one weight of each matrix costs.
    """

    name: str
    axes: tuple[Axis, ...]
    ranking: Ranking
    costs: tuple[float, ...]

    @property
    def size(self) -> int:
        """How many weights there are."""
        return sum(axis.size for axis in self.axes)

    @property
    def whole(self) -> float:
        """What all of them cost."""
        return sum(axis.size * cost for axis, cost in zip(self.axes, self.costs, strict=True))

    def saved(self, count: int) -> float:
        """Return what the weights with the `count` lowest scores cost."""
        _, leaving = self.ranking.lowest(count)
        return sum(n * cost for n, cost in zip(leaving, self.costs, strict=True))


def _make_pools(
    axes: Sequence[Axis], scores: Sequence[Tensor], budget: Budget, scope: str
) -> list[_Pool]:
    layers = {term.dims[0][0]: term.cost for term in budget.terms if term.dims}
    members: dict[str, list[int]] = {}
    for n, axis in enumerate(axes):
        name = {"axis": axis.name, "kind": axis.kind, "model": "model"}[scope]
        members.setdefault(name, []).append(n)
    costs = [layers.get(a.name, 0) / a.size if budget.by == "macs" else 1.0 for a in axes]
    return [
        _Pool(
            name,
            tuple(axes[n] for n in own),
            Ranking([scores[n].numpy() for n in own]),
            tuple(costs[n] for n in own),
        )
        for name, own in members.items()
    ]


def _removed(pools: Sequence[_Pool], budget: Budget) -> int:
    """Return how many weights have to leave in all."""
    sizes = [pool.size for pool in pools]
    target, most = budget.ratio * budget.total, sum(pool.whole for pool in pools)
    if target > most * (1 + 1e-9):
        raise BudgetError(
            f"A ratio of {budget.ratio:g} by {budget.by} is out of reach: all the weights that may "
            f"become zero are {math.floor(1000 * most / budget.total) / 1000:.3f} of the whole "
            "model; lower the ratio, or let more kinds of weights in."
        )

    def saved(total: int) -> float:
        return sum(map(_Pool.saved, pools, shares(total, sizes)))

    count = _nearest(saved, target, sum(sizes)) if budget.by == "macs" else round(target)
    if count == 0:
        raise BudgetError(
            f"A ratio of {budget.ratio:g} by {budget.by} is less than half a weight; raise it."
        )
    return count


def _nearest(saved: Callable[[int], float], target: float, high: int) -> int:
    """Return the count that saves what is nearest to the target, by bisection."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if saved(middle) <= target else (low, middle)
    return high if saved(high) - target < target - saved(low) else low


def _best(scores: Tensor, n: int, m: int) -> Tensor:
    inputs_last = scores.movedim(1, -1)  # (out, ..., in)
    groups = inputs_last.reshape(-1, m)
    leaving = groups.argsort(dim=1, stable=True)[:, : m - n]
    kept = torch.ones(groups.shape, dtype=torch.bool).scatter_(1, leaving, value=False)
    return kept.view(inputs_last.shape).movedim(-1, 1).contiguous()


def _kept(scores: Values, threshold: float, leaves: int) -> NDArray[np.bool_]:
    """Return which weights of a matrix stay; of those at the threshold the first leave."""
    kept = scores > threshold
    equal = np.flatnonzero(scores == threshold)
    below = kept.size - int(np.count_nonzero(kept)) - equal.size
    kept[equal[leaves - below :]] = True
    return kept
