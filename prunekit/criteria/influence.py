"""Influence: how much the residual stream is distorted (after Men et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..axis import Axis, Member
from .activity import product_variance, readers
from .base import criterion
from .energy import TINY, energies
from .price import price_of


@criterion("influence", needs="activations", scope="model")
def influence(axes: Sequence[Axis]) -> list[Tensor]:
    """Score a slice by the relative distortion of the residual stream, for what its removal saves.

    The stream before a branch is x, and the branch adds f. Without the branch its constant is left,
    which at best is the mean of f; so what is lost is the variance of f, summed over the channels,
    and the score is that over the mean of |x|^2. A slice inside a branch, such as an MLP channel,
    adds the variance of what is read of it times the squared norm of the weights that it meets in
    the branch's last layer, over the same. Both are divided by the slice's price, as `dimap` does:
    the weights that leave with it, or their MACs or milliseconds where the budget counts those.

    Where the reading layer ends no branch among the axes, what is lost is relative to what that
    layer returns, the mean of |y|^2; where no layer reads a slice, as with query-key pairs, it is
    the variance of the product q_d k_d, relative to that of all slices of the axis.

    Source:
        Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You Expect,
        2024, arXiv:2403.03853, Eq. 1, whose block influence is 1 - cos(x, x + f). Differs: the
        squared distance, not the angle, since this adds up over slices and counts what changes
        lengths; single branches, not whole layers; means are not counted, since a constant is left.
    """
    energy = energies(axes)
    return [_relative(axis, energy) / price_of(axis) for axis in axes]


def _relative(axis: Axis, energy: Callable[[Member], float]) -> Tensor:
    if axis.stream is not None:
        return torch.tensor([axis.stream.added / axis.stream.energy])
    found = [
        member.per_slice(member.weight.float().square() * inputs.variance.float()) / energy(member)
        for member, inputs in readers(axis)
    ]
    if found:
        return torch.stack(found).sum(0)
    variance = product_variance(axis)
    return variance / variance.sum().clamp(min=TINY)
