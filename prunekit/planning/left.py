"""What a plan leaves of every tensor, by index arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..axis import Axis, cuts
from ..branch import Branch
from .budget import Term
from .plan import Plan


def of_positions(axes: Sequence[Axis]) -> list[Axis]:
    """Return the axes whose slices are positions of tensors, and no branches."""
    return [axis for axis in axes if axis.spec.branch is None]


def gone(axes: Sequence[Axis], plan: Plan) -> list[Branch]:
    """Return the branches that a plan removes."""
    return [
        axis.spec.branch
        for axis in axes
        if axis.spec.branch is not None and not plan.kept[axis.name]
    ]


def slices_left(axes: Sequence[Axis], plan: Plan) -> dict[str, int]:
    """Return how many slices of every axis stay, per group."""
    return {axis.name: len(plan.kept[axis.name]) // axis.spec.groups for axis in axes}


def still_there(axes: Sequence[Axis], plan: Plan, terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return what a plan leaves of a cost, term by term, for what may shrink further."""
    fraction = _fraction(axes, plan)
    return tuple(term.after(fraction(*place) for place in term.dims) for term in terms)


def saved(axes: Sequence[Axis], plan: Plan, terms: Sequence[Term]) -> float:
    """Return what a plan saves of a cost."""
    fraction = _fraction(axes, plan)
    return sum(term.saved(fraction(*place) for place in term.dims) for term in terms)


def _fraction(axes: Sequence[Axis], plan: Plan) -> Callable[[str, int], float]:
    """Return what says how much of a parameter's dimension a plan leaves."""
    lengths = {place: cut[0][1].weight.shape[place[1]] for place, cut in cuts(axes).items()}
    left = positions_left(axes, plan)

    def fraction(name: str, dim: int) -> float:
        return len(left[name][dim]) / lengths[name, dim] if (name, dim) in lengths else 1.0

    return fraction


def positions_left(axes: Sequence[Axis], plan: Plan) -> dict[str, dict[int, Tensor]]:
    """Return what stays of every tensor that is cut: name -> dimension -> positions."""
    masks: dict[str, dict[int, Tensor]] = {}
    for axis in axes:
        gone = torch.ones(axis.size, dtype=torch.bool)
        gone[list(plan.kept[axis.name])] = False
        for member in axis.members:
            dims = masks.setdefault(member.name, {})
            if member.dim not in dims:
                dims[member.dim] = torch.ones(member.weight.shape[member.dim], dtype=torch.bool)
            dims[member.dim][member.index[gone].flatten()] = False
    return {
        name: {dim: mask.nonzero().flatten() for dim, mask in dims.items()}
        for name, dims in masks.items()
    }
