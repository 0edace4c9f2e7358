"""The order in which slices leave: one long chain of small events.

Each event lowers one axis to its next allowed size. The order follows from the scores and
the scope alone; the budget only decides how far along the chain to go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ..axis import Axis
from ..naming import stage_of


@dataclass(frozen=True)
class Unit:
    """Axes that must keep equally many slices per group; mostly just one axis.

    Attributes:
        axes: The axes.
        orders: Per axis, the slices of each group, best first, (groups, length).
        ranked: The mean score of the r-th best slices of all groups, (length,), descending.
        whole: How many slices per group there were before anything was ever pruned.
    """

    axes: tuple[Axis, ...]
    orders: tuple[Tensor, ...]
    ranked: tuple[float, ...]
    whole: int

    @property
    def length(self) -> int:
        return len(self.ranked)

    @property
    def slices_per_step(self) -> int:
        return sum(axis.spec.groups for axis in self.axes)


@dataclass(frozen=True)
class Event:
    """Unit number `unit` goes down to `count` slices per group, at time `time` in [0, 1]."""

    time: float
    unit: int
    count: int


def make_units(
    axes: Sequence[Axis],
    scores: Sequence[Tensor],
    whole: Mapping[str, int] | None = None,
    *,
    uniform: bool = False,
) -> list[Unit]:
    """Put axes together that must keep equally many slices; `make_plan` explains `uniform`."""
    together: dict[tuple[object, ...], list[int]] = {}
    for number, axis in enumerate(axes):
        spec = axis.spec
        name = spec.match or axis.name
        alike: tuple[object, ...] = bool(spec.match), name
        if uniform:
            alike = stage_of(name), spec.kind, axis.size // spec.groups
        together.setdefault(alike, []).append(number)
    return [
        _unit([(axes[n], scores[n]) for n in numbers], whole or {}) for numbers in together.values()
    ]


def _unit(scored: Sequence[tuple[Axis, Tensor]], whole: Mapping[str, int]) -> Unit:
    orders, ranked = [], []
    for axis, score in scored:
        groups = score.view(axis.spec.groups, -1)  # (groups, length)
        # Stable, so that ties are broken the same way everywhere: the first slices stay.
        ordered = groups.sort(dim=1, descending=True, stable=True)
        starts = torch.arange(axis.spec.groups).unsqueeze(1) * groups.shape[1]
        orders.append(ordered.indices + starts)
        ranked.append(ordered.values)
    mean = torch.cat(ranked).mean(0)
    return Unit(
        tuple(axis for axis, _ in scored),
        tuple(orders),
        tuple(mean.tolist()),
        whole.get(scored[0][0].name, len(mean)),
    )


class Sharing(Protocol):
    """Another order of events than a scope's."""

    def chain(self, units: Sequence[Unit], floor: float, multiple: int) -> list[Event]:
        """Return every event that can happen, in the order in which they do."""
        ...


def make_chain(
    units: Sequence[Unit], scope: str | Sharing, floor: float, multiple: int
) -> list[Event]:
    """Return every event that can happen, in the order in which they do."""
    if not isinstance(scope, str):
        return scope.chain(units, floor, multiple)
    pools: dict[str, list[int]] = {}
    for number, unit in enumerate(units):
        spec = unit.axes[0].spec
        pool = {"axis": spec.name, "kind": spec.kind, "model": ""}[scope]
        pools.setdefault(pool, []).append(number)
    events = []
    for members in pools.values():
        events += _pool_events(units, members, floor, multiple)
    return sorted(events, key=lambda event: event.time)  # stable: ties keep their order


def _pool_events(
    units: Sequence[Unit], members: Sequence[int], floor: float, multiple: int
) -> list[Event]:
    """Let the slices of one pool leave, worst first, and note when a size changes."""
    leaving = []
    for number in members:
        ranked = units[number].ranked
        least = _least(units[number], floor)
        # Nothing leaves a unit before all that is ranked below it in the same unit.
        leaving += [(ranked[rank], -rank, number) for rank in range(least, len(ranked))]
    leaving.sort()
    steps = {number: units[number].slices_per_step for number in members}
    total = sum(units[number].length * steps[number] for number in members)
    allowed = {
        n: _allowed(units[n].length, _least(units[n], floor), _step(units[n], multiple))
        for n in members
    }
    raw = {number: units[number].length for number in members}
    size = dict(raw)
    gone, events = 0, []
    for _, _, number in leaving:
        raw[number] -= 1
        gone += steps[number]
        rounded = allowed[number][raw[number]]
        if rounded < size[number]:
            size[number] = rounded
            events.append(Event(gone / total, number, rounded))
    return events


def allowed_sizes(unit: Unit, floor: float, multiple: int) -> list[int]:
    """Return the sizes that a unit may go down to, descending."""
    allowed = _allowed(unit.length, _least(unit, floor), _step(unit, multiple))
    return sorted({*allowed} - {unit.length}, reverse=True)


@lru_cache(maxsize=256)  # most units of a model have one of a few lengths
def _allowed(length: int, least: int, step: int) -> tuple[int, ...]:
    """Return for each count from 0 to `length` the allowed size nearest to it.

    Allowed are the multiples of `step` from `least` on, and the whole length; of two sizes that
    are as near, the smaller.

    Example:
        >>> _allowed(6, 1, 4)
        (4, 4, 4, 4, 4, 4, 6)
    """
    first = 0 if least == 0 else step
    sizes = [*(size for size in range(first, length, step) if size >= least), length]
    nearest, below = [], 0
    for count in range(length + 1):
        while below + 1 < len(sizes) and sizes[below + 1] <= count:
            below += 1
        around = sizes[below : below + 2]
        nearest.append(min(around, key=lambda size: (abs(size - count), size)))
    return tuple(nearest)


def _least(unit: Unit, floor: float) -> int:
    """Return the fewest slices to keep; a product a hair above a whole number is that number.

    Of a branch that may be none.
    """
    if unit.axes[0].spec.branch is not None:
        return 0
    return min(unit.length, max(1, math.ceil(floor * unit.whole - 1e-9)))


def _step(unit: Unit, multiple: int) -> int:
    return multiple if unit.axes[0].spec.rounded else 1


def counts_after(units: Sequence[Unit], events: Sequence[Event]) -> list[int]:
    counts = [unit.length for unit in units]
    for event in events:
        counts[event.unit] = event.count
    return counts
