"""recentre_: the constant of a branch that left, at what the branch added on average."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..branch import Branch
from ..statistics.meter import Meter
from ..statistics.streams import channels_of
from ..statistics.walk import Walk
from .gains import Repaired


def recentre_(
    dense: nn.Module, small: nn.Module, branch: Branch, walk: Walk
) -> dict[str, Repaired]:
    """Write what a branch added on average, over images and positions, into its constant.

    Of all constants it is the one that is nearest to what the branch added, in squares.

    Returns:
        What is gained, by the constant's name; empty for a branch without one.
    """
    constant: Any = small.get_submodule(branch.core)
    if constant.bias is None:
        return {}
    channels = channels_of(dense, branch)
    meter: Meter | None = None
    for _, _, added, _ in walk.seen(branch.modules[-1]):
        meter = meter or Meter(channels - added.dim() if channels >= 0 else channels)
        meter.add(added)
    assert meter is not None, "a walk has images"
    moments = meter.moments(lambda values: values)
    away = float((moments.mean - constant.bias.double()).square().sum())
    constant.bias.copy_(moments.mean)
    spread = float(moments.variance.sum())
    return {branch.core: Repaired(1 + away / spread if spread else 1.0, 1.0)}
