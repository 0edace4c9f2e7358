"""Wanda: weights times the size of what they multiply (Sun et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from .activity import watched
from .base import criterion


@criterion("wanda", needs="activations", scope="kind", weight_level=True)
def wanda(axes: Sequence[Axis]) -> list[Tensor]:
    """Score a slice by the mean of |W_ij| rms(x_j) over its weights.

    rms(x_j) is the root mean square of input feature j over all calibration images and
    positions. For a convolution the feature is the channel, at whatever place of the kernel.

    Source:
        Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR
        2024, arXiv:2306.11695, Eq. 1. Differs: the paper ranks the weights of one output;
        here they are averaged over all that a slice owns in all coupled layers. The norm of
        x_j is divided by the root of the number of positions, and the sum by the number of
        weights, so that layers that see more of an image, or are wider, do not outrank others.
    """
    return [_mean(axis) for axis in axes]


def _mean(axis: Axis) -> Tensor:
    found = watched(axis)
    sums = [m.per_slice(m.weight.float().abs() * x.square.sqrt().float()) for m, x in found]
    return torch.stack(sums).sum(0) / sum(member.weights_per_slice for member, _ in found)
