"""What a plan leaves of every tensor, by index arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from .plan import Plan


def slices_left(axes: Sequence[Axis], plan: Plan) -> dict[str, int]:
    """Return how many slices of every axis stay, per group."""
    return {axis.name: len(plan.kept[axis.name]) // axis.spec.groups for axis in axes}


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
