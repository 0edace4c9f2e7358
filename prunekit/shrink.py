"""shrink_ and mask_: axes and a plan -> a smaller, or a silenced, model.

Both act and decide nothing. Each parameter is sliced once, however many axes cut it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.base import Adapter
from .axis import Axis
from .plan import Plan
from .structure import BATCH_NORMS, M, copy_with


def shrink_(model: nn.Module, axes: Sequence[Axis], plan: Plan, adapter: Adapter) -> None:
    """Cut everything the plan removes out of `model`, in place.

    Device, dtype and `requires_grad` of every parameter stay. Sizes that layers and the
    model cache about themselves are reset.
    """
    left = positions_left(axes, plan)
    for name, dims in left.items():
        _replace(model, name, dims)
    _reset_sizes(model, axes, plan)
    adapter.fixup(model, slices_left(axes, plan))


def shrunk(model: M, axes: Sequence[Axis], plan: Plan, adapter: Adapter) -> M:
    """Return a smaller copy of `model`; what is removed is never copied."""
    left = positions_left(axes, plan)
    small = copy_with(model, lambda name, tensor: _cut(tensor, left.get(name, {}), copied=True))
    _reset_sizes(small, axes, plan)
    adapter.fixup(small, slices_left(axes, plan))
    return small


def mask_(model: nn.Module, axes: Sequence[Axis], plan: Plan) -> None:
    """Silence everything the plan removes in `model`, in place, at full size.

    Weights of removed slices become zero. Layers that normalise over an axis average over
    what stays, since a zero is not the same as an absence there.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, dims in positions_left(axes, plan).items():
        _silence_(tensors[name].detach(), dims)
    _mask_norms_(model, axes, plan)


def masked(model: M, axes: Sequence[Axis], plan: Plan) -> M:
    """Return a silenced copy of `model`, to be read only: it shares what nothing cuts."""
    left = positions_left(axes, plan)

    def silenced(name: str, tensor: Tensor) -> Tensor:
        return _silence_(tensor.clone(), left[name]) if name in left else tensor

    copy = copy_with(model, silenced)
    _mask_norms_(copy, axes, plan)
    return copy


def _silence_(tensor: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    """Zero all but the given positions of each dimension."""
    for dim, positions in dims.items():
        gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
        gone[positions] = False
        tensor.index_fill_(dim, gone.nonzero().flatten().to(tensor.device), 0)
    return tensor


def _mask_norms_(model: nn.Module, axes: Sequence[Axis], plan: Plan) -> None:
    for axis in axes:
        for name, index in axis.norms.items():
            kept = index[list(plan.kept[axis.name])].flatten().sort().values
            _set_module(model, name, _NormOverKept(model.get_submodule(name), kept))


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


def _cut(tensor: Tensor, dims: Mapping[int, Tensor], copied: bool = False) -> Tensor:
    """Keep the given positions of each dimension; the result is contiguous."""
    for dim, positions in dims.items():
        if len(positions) < tensor.shape[dim]:
            tensor, copied = tensor.index_select(dim, positions.to(tensor.device)), False
    return tensor.clone() if copied else tensor


def _replace(model: nn.Module, name: str, dims: Mapping[int, Tensor]) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    new = _cut(old.detach(), dims)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, leaf, new)


def _set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _reset_sizes(model: nn.Module, axes: Sequence[Axis], plan: Plan) -> None:
    """Make torch's own layers agree with the shapes of their weights."""
    touched = {member.name.rpartition(".")[0] for axis in axes for member in axis.members}
    for name in touched:
        layer: Any = model.get_submodule(name)
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            depthwise = layer.groups > 1
            layer.out_channels = layer.weight.shape[0]
            layer.in_channels = layer.weight.shape[0 if depthwise else 1]
            layer.groups = layer.out_channels if depthwise else 1
        elif isinstance(layer, BATCH_NORMS):
            layer.num_features = len(layer.weight)
        elif isinstance(layer, nn.Embedding):
            layer.embedding_dim = layer.weight.shape[1]
    for axis in axes:
        for name, index in axis.norms.items():
            norm: Any = model.get_submodule(name)
            left = index.shape[1] * len(plan.kept[axis.name])
            _resize_norm(norm, left)


class _NormOverKept(nn.Module):
    """A normalisation of the kept channels only; the others come out as zeros."""

    def __init__(self, norm: nn.Module, keep: Tensor):
        super().__init__()
        self.keep = keep
        self.dim = _channel_dim(norm)
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


def _resize_norm(norm: Any, size: int) -> None:
    if isinstance(norm, nn.GroupNorm):
        norm.num_channels = size
    elif hasattr(norm, "normalized_shape"):
        norm.normalized_shape = (size,)


def _channel_dim(norm: nn.Module) -> int:
    """Return the dimension of the input that a normalisation runs over."""
    if isinstance(norm, nn.GroupNorm) or "2d" in type(norm).__name__:
        return 1
    return int(getattr(norm, "channel_dim", -1))
