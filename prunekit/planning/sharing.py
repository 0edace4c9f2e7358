"""How axes share a budget, where their slices' scores alone do not say it."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..naming import stage_of
from .chain import Event, Unit, allowed_sizes, make_chain

PARTS = 3  # that a long row of blocks is told apart by: early, middle and late ones
LONG = 6  # blocks that make a row long


@dataclass(frozen=True)
class Weighted:
    """A scope, but that some parts of the model give up their slices sooner than others.

    Attributes:
        base: The scope: `axis`, `kind` or `model`.
        weights: Part to how many times as fast it gives up slices; 1 unless given.
    """

    base: str
    weights: Mapping[str, float] = field(default_factory=dict)

    def chain(self, units: Sequence[Unit], floor: float, multiple: int) -> list[Event]:
        """Return every event that can happen, in the order in which they do."""
        parts = parts_of(units)
        events = (
            Event(event.time / self.weights.get(parts[event.unit], 1.0), event.unit, event.count)
            for event in make_chain(units, self.base, floor, multiple)
        )
        return sorted(events, key=lambda event: event.time)


def parts_of(units: Sequence[Unit]) -> list[str]:
    """Return which part of the model each unit belongs to: a kind in a stage, or a third of it."""
    rows: dict[str, list[int]] = {}
    for number, unit in enumerate(units):
        spec = unit.axes[0].spec
        rows.setdefault(f"{spec.kind} of {stage_of(spec.match or spec.name)}", []).append(number)
    found = [""] * len(units)
    for name, numbers in rows.items():
        parts = PARTS if len(numbers) >= LONG else 1
        for place, number in enumerate(numbers):
            part = 1 + place * parts // len(numbers)
            found[number] = f"{name}, part {part} of {parts}" if parts > 1 else name
    return found


@dataclass(frozen=True)
class Losses:
    """What was lost when an axis was cut alone, as a convex function of how much of it was.

    Attributes:
        gone: Fractions of its slices, ascending from 0.
        lost: What each cost, never falling, and ever faster.
    """

    gone: tuple[float, ...]
    lost: tuple[float, ...]

    @classmethod
    def of(cls, measured: Sequence[tuple[float, float]]) -> Losses:
        """Return the largest convex function below what was measured, once that never falls.

        Args:
            measured: Fraction that left and what that cost, in any order.

        Source:
            Andrew, Another efficient algorithm for convex hulls in two dimensions, 1979: the
            lower half of the hull.
        """
        most, hull = 0.0, [(0.0, 0.0)]
        for gone, lost in sorted(dict(sorted(measured)).items()):  # of one twice, the dearer
            most = max(most, lost)
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (gone, most)):
                hull.pop()
            hull.append((gone, most))
        return cls(tuple(gone for gone, _ in hull), tuple(lost for _, lost in hull))

    def slope(self, gone: float) -> float:
        """Return how fast it rises just before a fraction; beyond what was measured, as at last."""
        at = min(max(bisect.bisect_left(self.gone, gone - 1e-9), 1), len(self.gone) - 1)
        return _slope((self.gone[at - 1], self.lost[at - 1]), (self.gone[at], self.lost[at]))


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


@dataclass(frozen=True)
class Allocation:
    """The share of every axis that is predicted to lose least for what is saved.

    Losses are taken to add up over axes. As each is convex, and what a slice saves is about the
    same for all slices of an axis, to remove whatever loses least for what it saves is best.
    Slices of which more would leave than was ever measured leave last.

    Attributes:
        losses: Axis, or what axes that must agree have in common, to what cutting it costs.
        prices: Axis to what one of its slices saves.
    """

    losses: Mapping[str, Losses]
    prices: Mapping[str, float]

    def chain(self, units: Sequence[Unit], floor: float, multiple: int) -> list[Event]:
        """Return every event that can happen, in the order in which they do."""
        events = []
        for number, unit in enumerate(units):
            names = list(dict.fromkeys(axis.spec.match or axis.name for axis in unit.axes))
            losses = [self.losses[name] for name in names if name in self.losses]
            if not losses:  # of which nothing could be cut when that was measured
                continue
            saved = sum(self.prices[axis.name] * axis.spec.groups for axis in unit.axes)
            for count in allowed_sizes(unit, floor, multiple):
                gone = 1 - count / unit.length
                rate = sum(one.slope(gone) for one in losses) / (unit.length * max(saved, 1e-300))
                beyond = any(gone > one.gone[-1] + 1e-9 for one in losses)
                events.append(((beyond, rate), -count, number))
        events.sort()
        last = max(len(events), 1)
        return [
            Event(place / last, number, -count)
            for place, (_, count, number) in enumerate(events, start=1)
        ]
