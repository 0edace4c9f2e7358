"""A copy in which what torch-pruning removed is silent."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn
from torch.nn import functional as F

from .merging import four_homes
from .pruned import Removal


def masked(model: nn.Module, removals: Sequence[Removal]) -> nn.Module:
    """Return a copy of full size with what was removed silenced.

    Norms average over what is left, so that a narrower model can be compared too.
    """
    model = copy.deepcopy(model).eval()
    for one in removals:
        gone = list(one.positions)
        if one.side.startswith("dim"):
            model.get_parameter(one.name).data.index_fill_(
                int(one.side.split()[1]), torch.tensor(gone), 0.0
            )
            continue
        part: Any = model.get_submodule(one.name)
        if isinstance(part, PatchMerging):
            if one.side == "out":
                _silence_(part.reduction, "out", gone)
            else:
                _silence_(part.norm, "out", four_homes(gone, part.dim))
        else:
            _silence_(part, one.side, gone)
    return model


def _silence_(layer: Any, side: str, gone: list[int]) -> None:
    if isinstance(layer, nn.LayerNorm):
        _leave_out_(layer, gone)
    elif side == "out" or getattr(layer, "groups", 1) > 1:
        for parameter in layer.parameters(recurse=False):
            parameter.data[gone] = 0
    else:
        layer.weight.data[:, gone] = 0


def _leave_out_(norm: nn.LayerNorm, gone: list[int]) -> None:
    """Make a norm average over all but some channels, and give zeros for those."""
    left = sorted(set(range(norm.normalized_shape[0])) - set(gone))
    first = "2d" in type(norm).__name__  # timm's LayerNorm2d has its channels first

    def forward(x: Tensor) -> Tensor:
        x = x.movedim(1, -1) if first else x
        y = torch.zeros_like(x)
        weight, bias = norm.weight[left], norm.bias[left]
        y[..., left] = F.layer_norm(x[..., left], (len(left),), weight, bias, norm.eps)
        return y.movedim(-1, 1) if first else y

    norm.forward = forward
