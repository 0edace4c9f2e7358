"""Influence: how much the residual stream is distorted (after Men et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from ..branch import Stream
from ..errors import CriterionError
from .activity import readers
from .base import criterion
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

    Args:
        axes: Branches (kind `block`), and axes that the last layers of these branches read.

    Raises:
        CriterionError: An axis is neither.

    Source:
        Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You Expect,
        2024, arXiv:2403.03853, Eq. 1, whose block influence is 1 - cos(x, x + f). Differs: the
        squared distance, not the angle, since this adds up over slices and counts what changes
        lengths; single branches, not whole layers; means are not counted, since a constant is left.
    """
    streams = {axis.voters[0].name: axis.stream for axis in axes if axis.stream is not None}
    return [_relative(axis, streams) / price_of(axis) for axis in axes]


def _relative(axis: Axis, streams: dict[str, Stream]) -> Tensor:
    if axis.stream is not None:
        return torch.tensor([axis.stream.added / axis.stream.energy])
    parts = [
        member.per_slice(member.weight.float().square() * inputs.variance.float())
        / streams[member.name].energy
        for member, inputs in readers(axis)
        if member.name in streams
    ]
    if not parts:
        raise CriterionError(
            f"No residual branch that may leave ends in a layer that reads axis {axis.name!r}, so "
            "criterion 'influence' cannot say what it adds to the stream; let branches leave too "
            "(axes block), leave this axis out, or choose another criterion."
        )
    return torch.stack(parts).sum(0)
