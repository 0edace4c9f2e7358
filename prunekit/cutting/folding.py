"""fold_: a residual branch that has left -> the constant that it still adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..branch import Branch
from ..constant import Constant


@torch.no_grad()
def fold_(model: nn.Module, branches: Sequence[Branch]) -> None:
    """Put a constant in the place of every branch, in place.

    Without its weight, the last layer of the core returns its bias, at every position; what runs
    after it makes of that what it makes of any position, and is folded into it.
    """
    for branch in branches:
        constant = _constant(model, branch)
        for name in branch.modules:
            _set(model, name, constant if name == branch.core else nn.Identity())
        if branch.scale is not None:
            _set(model, branch.scale, None)


def _constant(model: nn.Module, branch: Branch) -> Constant:
    last: Any = model.get_submodule(branch.last)
    along = -1 if isinstance(last, nn.Linear) else 1
    if branch.constant is None:
        return Constant(None, along)
    bias: Tensor | None = last.bias
    value = last.weight.new_zeros(len(last.weight)) if bias is None else bias.detach()
    value = value.view(1, -1, *[1] * (last.weight.dim() - 2)) if along == 1 else value.view(1, -1)
    for name in branch.after:
        value = model.get_submodule(name).eval()(value)
    if branch.scale is not None:
        value = value * model.get_parameter(branch.scale).detach().view_as(value)
    trained = model.get_parameter(branch.constant).requires_grad
    return Constant(nn.Parameter(value.flatten().clone(), requires_grad=trained), along)


def _set(model: nn.Module, name: str, value: nn.Module | None) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, value)
