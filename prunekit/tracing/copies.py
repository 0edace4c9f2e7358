"""Copies of a model's structure, with other tensors in place of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # these work channel by channel


def copy_with(model: M, make: Callable[[str, Tensor], Tensor]) -> M:
    """Copy a model, with tensors of one's own making in place of its own.

    Args:
        model: The model; no parameter or buffer is copied that `make` does not copy.
        make: From a parameter's or buffer's name and value to the copy's value.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        made = make(name, parameter.detach())
        memo[id(parameter)] = nn.Parameter(made, requires_grad=parameter.requires_grad)
    for name, buffer in model.named_buffers():
        memo[id(buffer)] = make(name, buffer)
    return copy.deepcopy(model, memo)


def weightless(model: M, example: Tensor) -> tuple[M, Tensor]:
    """Copy a model and its input to the meta device, in float32.

    Running the copy takes no memory and little time, and tells all shapes.
    """
    shell = copy_with(model, lambda _, tensor: torch.empty_like(tensor, device="meta"))
    inputs = torch.empty_like(example, device="meta")
    return shell.float(), inputs.float() if inputs.is_floating_point() else inputs
