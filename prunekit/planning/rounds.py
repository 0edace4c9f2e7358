"""Pruning in rounds: how much after each, and one plan for all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..axis import Axis
from ..errors import BudgetError
from ..registry import unknown
from .left import of_positions, positions_left
from .plan import Plan

Schedule = Literal["linear", "cubic"]
SCHEDULES: tuple[Schedule, ...] = ("linear", "cubic")


def ratios(ratio: float, steps: int, schedule: str) -> list[float]:
    """Return the fraction of the original model that is gone after each round.

    Args:
        ratio: The fraction after the last one.
        steps: Number of rounds.
        schedule: `linear` removes the same in every round, `cubic` most in the first ones.

    Raises:
        BudgetError: There is no such schedule, or less than one step.

    Source:
        Zhu and Gupta, To prune, or not to prune, 2017, arXiv:1710.01878, Eq. 1.

    Example:
        >>> [round(part, 3) for part in ratios(0.6, 3, "cubic")]
        [0.422, 0.578, 0.6]
    """
    if schedule not in SCHEDULES:
        raise BudgetError(unknown("schedule", schedule, SCHEDULES))
    if steps < 1:
        raise BudgetError(f"Asked for {steps} steps; expected 1 or more.")
    power = 3 if schedule == "cubic" else 1
    return [*(ratio * (1 - (1 - n / steps) ** power) for n in range(1, steps)), ratio]


def combine(axes: Sequence[Axis], first: Plan, later_axes: Sequence[Axis], later: Plan) -> Plan:
    """Return the one plan that does what two do in turn, in the coordinates of the first.

    Args:
        axes: Traced on the model that `first` is for.
        first: What was removed from it.
        later_axes: Traced on the smaller model.
        later: What was removed from that; what it says it asked for and got is taken over.
    """
    left = positions_left(of_positions(axes), first)
    after = {axis.name: axis for axis in later_axes}
    kept = {}
    for axis in axes:
        small = after.get(axis.name)
        if small is None:  # what is alone is no axis any more
            kept[axis.name] = first.kept[axis.name]
            continue
        if axis.spec.branch is not None:
            kept[axis.name] = later.kept[axis.name]
            continue
        homes = _homes(axis, small, left)
        stays = set(homes[list(later.kept[axis.name])].tolist())
        count = len(later.kept[axis.name]) // small.spec.groups
        kept[axis.name] = _filled(axis, first, stays, count)
    return replace(first, kept=kept, asked=later.asked, got=later.got)


def _homes(axis: Axis, small: Axis, left: dict[str, dict[int, Tensor]]) -> Tensor:
    """Return which original slice each slice of the smaller axis is, (size,)."""
    name, dim = small.members[0].name, small.members[0].dim
    member = next(m for m in axis.members if (m.name, m.dim) == (name, dim))
    owner = torch.full((member.weight.shape[member.dim],), -1)
    owner[member.index] = torch.arange(axis.size).unsqueeze(1).expand_as(member.index)
    return owner[left[name][dim][small.members[0].index[:, 0]]]


def _filled(axis: Axis, first: Plan, stays: set[int], count: int) -> tuple[int, ...]:
    """Give groups that are no more, such as lost heads, as many slices as the others keep."""
    length = axis.size // axis.spec.groups
    kept: list[int] = []
    for group in range(axis.spec.groups):
        own = range(group * length, (group + 1) * length)
        found = [n for n in own if n in stays]
        kept += found or [n for n in own if n in set(first.kept[axis.name])][:count]
    return tuple(kept)
