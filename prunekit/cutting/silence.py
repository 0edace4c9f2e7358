"""mask_: axes and a plan -> a model of the same size in which the removed slices are silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..axis import Axis
from ..planning.left import positions_left
from ..planning.plan import Plan
from ..tracing.copies import M, copy_with
from ..tracing.norms import channel_dim
from .shrink import _resize_norm


def mask_(model: nn.Module, axes: Sequence[Axis], plan: Plan) -> None:
    """Silence everything the plan removes in `model`, in place, at full size.

    Weights of removed slices become zero. Layers that normalise over an axis average over
    what stays, since a zero is not the same as an absence there.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, dims in positions_left(_silencing(axes), plan).items():
        own = tensors[name].detach()
        own.copy_(_silenced(own, dims))
    _mask_norms_(model, axes, plan)


def masked(model: M, axes: Sequence[Axis], plan: Plan) -> M:
    """Return a silenced copy of `model`, to be read only: it shares what nothing cuts."""
    left = positions_left(_silencing(axes), plan)

    def silenced(name: str, tensor: Tensor) -> Tensor:
        return _silenced(tensor, left[name]) if name in left else tensor

    copy = copy_with(model, silenced)
    _mask_norms_(copy, axes, plan)
    return copy


def _silencing(axes: Sequence[Axis]) -> list[Axis]:
    """Return the axes without what goes on being applied to what a branch still adds."""
    return [
        replace(axis, members=tuple(member for member in axis.members if not member.folds))
        for axis in axes
    ]


def _silenced(tensor: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    """Return a tensor of zeros but for the given positions of each dimension, in one pass."""
    keep = torch.ones((), dtype=torch.bool, device=tensor.device)
    for dim, positions in dims.items():
        there = torch.zeros(tensor.shape[dim], dtype=torch.bool)
        there[positions] = True
        keep = keep & there.to(tensor.device).view(-1, *[1] * (tensor.dim() - dim - 1))
    return torch.where(keep, tensor, 0)


def _mask_norms_(model: nn.Module, axes: Sequence[Axis], plan: Plan) -> None:
    for axis in axes:
        for name, index in axis.norms.items():
            kept = index[list(plan.kept[axis.name])].flatten().sort().values
            _set_module(model, name, _NormOverKept(model.get_submodule(name), kept))


def _set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


class _NormOverKept(nn.Module):
    """A normalisation of the kept channels only; the others come out as zeros."""

    def __init__(self, norm: nn.Module, keep: Tensor):
        super().__init__()
        self.keep = keep
        self.dim = channel_dim(norm)
        self.small = _small_norm(norm, keep)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` over the kept channels."""
        keep = self.keep.to(x.device)
        out = torch.zeros_like(x)
        return out.index_copy(self.dim, keep, self.small(x.index_select(self.dim, keep)))


def _small_norm(norm: nn.Module, keep: Tensor) -> nn.Module:
    small = copy_with(norm, lambda _, t: t[keep.to(t.device)] if t.dim() == 1 else t.clone())
    _resize_norm(small, len(keep))
    return small
