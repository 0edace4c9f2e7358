"""shrink_: axes and a plan -> a smaller model.

It acts and decides nothing. Each parameter is sliced once, however many axes cut it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.answers import fixup_, settle_
from ..adapters.base import Adapter
from ..axis import Axis
from ..planning.left import gone, of_positions, positions_left, slices_left
from ..planning.plan import Plan
from ..tracing.copies import BATCH_NORMS, M, copy_with
from ..tracing.norms import WHOLE_GROUPS
from .folding import fold_


def shrink_(model: nn.Module, axes: Sequence[Axis], plan: Plan, adapter: Adapter) -> None:
    """Cut everything the plan removes out of `model`, in place.

    Device, dtype and `requires_grad` of every parameter stay. Sizes that layers and the
    model cache about themselves are reset.
    """
    left = positions_left(of_positions(axes), plan)
    for name, dims in left.items():
        _replace(model, name, dims)
    _settle_(model, axes, plan, adapter, left)


def shrunk(model: M, axes: Sequence[Axis], plan: Plan, adapter: Adapter) -> M:
    """Return a smaller copy of `model`; what is removed is never copied."""
    left = positions_left(of_positions(axes), plan)
    small = copy_with(model, lambda name, tensor: _cut(tensor, left.get(name, {}), copied=True))
    _settle_(small, axes, plan, adapter, left)
    return small


def _settle_(
    model: nn.Module,
    axes: Sequence[Axis],
    plan: Plan,
    adapter: Adapter,
    left: Mapping[str, Mapping[int, Tensor]],
) -> None:
    """Let everything agree with what is left; branches leave last, as they are by then."""
    _reset_sizes(model, of_positions(axes), plan, left)
    fixup_(adapter, model, slices_left(axes, plan))
    settle_(adapter, model, left)
    fold_(model, gone(axes, plan))


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


def _reset_sizes(
    model: nn.Module,
    axes: Sequence[Axis],
    plan: Plan,
    left: Mapping[str, Mapping[int, Tensor]],
) -> None:
    """Make torch's own layers agree with the shapes of their weights."""
    touched = {member.name.rpartition(".")[0] for axis in axes for member in axis.members}
    for name in touched:
        layer: Any = model.get_submodule(name)
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            _reset_groups(layer, left.get(f"{name}.weight", {}))
            layer.out_channels = layer.weight.shape[0]
            layer.in_channels = layer.groups * layer.weight.shape[1]
        elif isinstance(layer, BATCH_NORMS):
            layer.num_features = len(layer.weight)
        elif isinstance(layer, nn.Embedding):
            layer.embedding_dim = layer.weight.shape[1]
    for axis in axes:
        for name, index in axis.norms.items():
            norm: Any = model.get_submodule(name)
            _resize_norm(norm, index.shape[1] * len(plan.kept[axis.name]))


def _reset_groups(layer: Any, left: Mapping[int, Tensor]) -> None:
    """Count the groups that a convolution has left, and note whether groups left as a whole."""
    if layer.groups == 1:
        return
    outputs = left.get(0, torch.arange(layer.out_channels))
    groups = len((outputs // (layer.out_channels // layer.groups)).unique())
    before = layer.out_channels, layer.in_channels // layer.groups
    if before != tuple(layer.weight.shape[:2]):
        setattr(layer, WHOLE_GROUPS, groups < layer.groups)
    layer.groups = groups


def _resize_norm(norm: Any, size: int) -> None:
    if isinstance(norm, nn.GroupNorm):
        norm.num_channels = size
    elif hasattr(norm, "normalized_shape"):
        norm.normalized_shape = (size,)
