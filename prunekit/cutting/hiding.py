"""Weights that hide a cut: with them, any two models would agree.

An untrained head is all zeros, and layer scales start at next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..arguments import Inputs
from ..axis import Axis
from ..planning.plan import Plan
from ..tracing.copies import M, copy_with
from ..tracing.layers import MATRICES
from .outputs import outputs_of

FAINT = 1e-3  # what is scaled by less may not show in the output, which is compared to 1e-4
ADDED = ("bias", "bias_table", "token", "tokens", "embed")  # ends of names; what is added is no lid
GLANCE = 1024  # values that mostly tell
PERIOD = 65537  # a prime, so that no two of so many rows are alike


def may_hide(model: nn.Module, axes: Sequence[Axis], plan: Plan) -> bool:
    """Say whether the output may be the same with and without what a plan removes.

    That is so if all of some parameter is next to nothing, or all that is removed.
    """
    lids = (
        parameter
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and not name.endswith(ADDED)
    )
    return any(map(_faint, lids)) or not any(_shows(axis, plan) for axis in axes)


def noise_where_cuts_hide(name: str, tensor: Tensor) -> Tensor:
    """Replace vectors, such as layer scales, and all that is next to nothing; share the rest."""
    if not tensor.is_floating_point() or (tensor.dim() > 1 and not _faint(tensor)):
        return tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    # Positive, since a running variance is a vector too.
    return (0.5 + noise.abs() if tensor.dim() == 1 else noise).to(tensor)


def lively(model: M, example: Inputs, part: str = "") -> M:
    """Return a copy of a model with noise for weights, in which every layer makes itself heard.

    In an untrained network without trained statistics, signals may vanish from layer to layer, so
    that its output is a bias whatever was cut. Here each layer is scaled so that what it makes of
    the first input has a variance of one.

    Source:
        Mishkin and Matas, All you need is a good init, ICLR 2016, Algorithm 1, in one pass.
    """
    copied = copy_with(model, _noise).eval()

    def scale(layer: nn.Module, args: object, output: Tensor) -> Tensor:
        factor = output.float().std().clamp(1e-6, 1e6).nan_to_num(1.0)
        for parameter in layer.parameters(recurse=False):
            parameter.data.div_(factor)
        scaled: Tensor = output / factor
        return scaled

    layers = [m for m in copied.modules() if isinstance(m, MATRICES)]
    handles = [layer.register_forward_hook(scale) for layer in layers]
    try:
        outputs_of(copied, example, part=part)
    finally:
        for handle in handles:
            handle.remove()
    return copied


def _noise(name: str, tensor: Tensor) -> Tensor:
    """Replace a tensor by noise of the variance that its width asks for."""
    if tensor.dim() > 1 and not isinstance(tensor, nn.Parameter):  # a constant, such as a basis
        return tensor.clone()
    # The sum of what is not finite is not finite; it takes a tenth of the time of asking for each.
    if not tensor.is_floating_point() or not tensor.sum(dtype=torch.float32).isfinite():
        return tensor.clone()
    noise = _tiled(tensor.shape)
    made = noise.div_(tensor[0].numel() ** 0.5) if tensor.dim() > 1 else 0.5 + noise.abs()
    return made.to(tensor)


def _tiled(shape: torch.Size) -> Tensor:
    """Return noise of a shape that repeats itself, which is faster to make."""
    count = shape.numel()
    noise = torch.randn(min(count, PERIOD), generator=torch.Generator().manual_seed(0))
    return noise.repeat(-(-count // PERIOD))[:count].view(shape)


def _shows(axis: Axis, plan: Plan) -> bool:
    """Say whether an axis loses weights that matter, in all that have a say."""
    gone = torch.ones(axis.size, dtype=torch.bool)
    gone[list(plan.kept[axis.name])] = False
    if not gone.any():
        return False
    for member in axis.voters:
        removed = member.index[gone].flatten().to(member.weight.device)
        few = member.weight.index_select(member.dim, removed[:4])
        if _faint(few) and _faint(member.weight.index_select(member.dim, removed)):
            return False
    return True


def _faint(tensor: Tensor) -> bool:
    """Say whether all values are next to nothing."""
    values = tensor.detach().flatten()
    if not values.numel() or values[:GLANCE].abs().max() >= FAINT:
        return False
    return bool(values.abs().max() < FAINT)
