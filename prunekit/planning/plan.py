"""Scores -> what stays: pure arithmetic, in the coordinates of the original model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..axis import Axis, cuts
from ..errors import ArtifactError, BudgetError
from ..files.plan import PlanData, impossible
from ..files.reading import typed
from .budget import CLOSE_ENOUGH, Budget, By
from .chain import Event, Sharing, Unit, counts_after, make_chain, make_units


class OutOfReach(BudgetError):
    """The ratio is larger than what can be removed.

    Attributes:
        reachable: The largest ratio that is within reach.
        by: What the budget counts.
    """

    def __init__(self, message: str, reachable: float, by: By):
        super().__init__(message)
        self.reachable, self.by = reachable, by


class NothingToRemove(BudgetError):
    """The ratio is smaller than what the smallest step that an axis can take would remove."""


@dataclass(frozen=True)
class Plan:
    """Which slices of each axis stay.

    Attributes:
        kept: Axis name to the slices that stay, ascending, in original coordinates.
        sizes: Axis name to its original number of slices.
        by: What the budget counted.
        asked: The fraction of it to remove that was asked for.
        got: The fraction the plan removes, by its own arithmetic.
    """

    kept: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    by: By
    asked: float
    got: float

    def to_json(self) -> dict[str, object]:
        """Return the plan as plain data."""
        axes = {n: {"size": self.sizes[n], "kept": list(k)} for n, k in self.kept.items()}
        return {"by": self.by, "asked": self.asked, "got": self.got, "axes": axes}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: Something is missing, of the wrong type or out of range.
        """
        found = typed(data, PlanData, "The plan")
        name = impossible(found)
        if name is not None:
            raise ArtifactError(
                f"The plan keeps impossible slices of axis {name!r}; expected ascending numbers "
                f"from 0 to {found['axes'][name]['size'] - 1}. Save it again."
            )
        kept = {name: tuple(axis["kept"]) for name, axis in found["axes"].items()}
        sizes = {name: axis["size"] for name, axis in found["axes"].items()}
        return cls(kept, sizes, found["by"], found["asked"], found["got"])


def make_plan(
    axes: Sequence[Axis],
    scores: Sequence[Tensor],
    budget: Budget,
    *,
    scope: Literal["axis", "kind", "model"] | Sharing = "kind",
    floor: float = 0.1,
    multiple: int = 8,
    whole: Mapping[str, int] | None = None,
    uniform: bool = False,
    also: Sequence[Budget] = (),
) -> Plan:
    """Choose what stays.

    Within a scope slices leave in ascending order of score; different scopes lose the same
    fraction of their slices, as far as floors allow. That makes a chain of events, and the
    plan is the point on it nearest to the budget. Only where that misses the budget by more
    than `CLOSE_ENOUGH` are smaller events from further along pulled forward.

    Of memory, every moment of a forward pass that holds too much is a budget of its own, for which
    only those axes shrink that it depends on.

    Args:
        axes: What may shrink.
        scores: One (size,) score per axis; higher means keep.
        budget: What to remove how much of.
        scope: Slices compete within their `axis`, within all axes of a `kind`, or across the
            whole `model`; or what else says in which order axes shrink.
        floor: The smallest fraction of an axis to keep, in [0, 1]; one slice always stays.
        multiple: Sizes of rounded axes are multiples of this, nearest rather than floor;
            1 rounds nothing.
        whole: Axis name to the slices per group that the floor is a fraction of; what there is
            now, unless given.
        uniform: All axes of a kind and a size in a stage, whose names differ in their last number
            only, keep equally many slices.
        also: Further budgets, to be met at least.

    Returns:
        The plan; a larger ratio never gets less removed.

    Raises:
        BudgetError: An argument is out of range, or the ratio out of reach; the message
            says what the largest reachable ratio is and what limits it.
    """
    check_limits(floor, multiple)
    units = make_units(axes, scores, whole, uniform=uniform)
    chain = make_chain(units, scope, floor, multiple)
    counts = counts_after(units, [])
    for number, one in enumerate((budget, *also)):
        cost = _Cost(units, one)
        solve = _solve if number == 0 and one.by != "memory" else _solve_at_least
        reachable = 1 - cost(counts_after(units, chain)) / one.total
        if one.ratio - reachable > CLOSE_ENOUGH:
            said = _out_of_reach(one, reachable, axes, floor, multiple)
            raise OutOfReach(said, reachable, one.by)
        for part in one.parts:
            paid = cost.of(part)
            events = chain if one.by != "memory" else paid.lowered_by(chain)
            counts = list(map(min, counts, solve(events, units, paid, part)))
    cost = _Cost(units, budget)
    got = 1 - cost(counts) / budget.total
    if cost(counts) == cost(counts_after(units, [])):
        smaller = "lower the multiple"
        if all(axis.spec.branch for axis in axes):
            smaller = "let other kinds of axes shrink, since a branch leaves whole or not at all"
        raise NothingToRemove(
            f"A ratio of {budget.ratio:g} by {budget.by} removes less than half a step of the "
            f"smallest axis; raise the ratio, or {smaller}."
        )
    kept = {}
    for unit, count in zip(units, counts, strict=True):
        for axis, order in zip(unit.axes, unit.orders, strict=True):
            kept[axis.name] = tuple(order[:, :count].flatten().sort().values.tolist())
    ordered = {axis.name: kept[axis.name] for axis in axes}
    return Plan(ordered, {axis.name: axis.size for axis in axes}, budget.by, budget.ratio, got)


def check_limits(floor: float, multiple: int) -> None:
    """Refuse limits of axes that cannot be.

    Raises:
        BudgetError: The floor is no fraction, or the multiple below 1.
    """
    if not 0 <= floor <= 1:
        raise BudgetError(f"The floor is {floor}; expected a fraction from 0 to 1.")
    if multiple < 1:
        raise BudgetError(f"The multiple is {multiple}; expected 1 or more.")


def _solve(chain: Sequence[Event], units: Sequence[Unit], cost: _Cost, budget: Budget) -> list[int]:
    """Return how many slices per group every unit keeps, as near to the budget as can be.

    Mostly that is the point on the chain next to the budget. Where one event is so large
    that this misses, the gap before it is filled with smaller events from further along.
    Whichever it is, a larger ratio never removes less.
    """
    target = budget.target
    steps = _first_below(chain, units, cost, target)
    if steps == 0:
        return counts_after(units, [])
    before, after = counts_after(units, chain[: steps - 1]), counts_after(units, chain[:steps])
    over, under = cost(before) - target, target - cost(after)
    if min(over, under) <= CLOSE_ENOUGH * budget.total or under < 0:
        return after if under <= over else before
    nearest_above = _fill(chain[steps:], before, cost, cost(after) * (1 + 1e-9))
    if target < cost(nearest_above):
        return after if under <= cost(nearest_above) - target else nearest_above
    return _fill(chain[steps:], before, cost, target)


def _solve_at_least(
    chain: Sequence[Event], units: Sequence[Unit], cost: _Cost, budget: Budget
) -> list[int]:
    """Return the point on the chain next to a further budget, or the one after it."""
    steps = _first_below(chain, units, cost, budget.target)
    before = counts_after(units, chain[: max(0, steps - 1)])
    after = counts_after(units, chain[:steps])
    over, under = cost(before) - budget.target, budget.target - cost(after)
    return before if over <= min(under, CLOSE_ENOUGH * budget.total) else after


def _first_below(chain: Sequence[Event], units: Sequence[Unit], cost: _Cost, target: float) -> int:
    """Return the fewest events that bring the cost to the target or below, by bisection."""
    low, high = 0, len(chain)  # cost never rises along the chain
    while low < high:
        middle = (low + high) // 2
        if cost(counts_after(units, chain[:middle])) > target:
            low = middle + 1
        else:
            high = middle
    return low


def _fill(events: Sequence[Event], counts: Sequence[int], cost: _Cost, target: float) -> list[int]:
    """Let events happen in order as long as the cost stays at or above the target."""
    filled, full = list(counts), set()
    for event in events:
        if event.unit in full:
            continue
        tried = [*filled[: event.unit], event.count, *filled[event.unit + 1 :]]
        if cost(tried) >= target:
            filled = tried
        else:  # all later events of this unit cut even more
            full.add(event.unit)
    return filled


class _Cost:
    """The cost of keeping so many slices per group of every unit."""

    def __init__(self, units: Sequence[Unit], budget: Budget):
        self.make_units, self._budget = units, budget
        axes = [axis for unit in units for axis in unit.axes]
        self._order = {
            axis.name: order
            for unit in units
            for axis, order in zip(unit.axes, unit.orders, strict=True)
        }
        self._unit_of = {axis.name: n for n, unit in enumerate(units) for axis in unit.axes}
        self._cuts = cuts(axes)

    def of(self, budget: Budget) -> _Cost:
        """Return the same for another budget."""
        other = copy(self)
        other._budget = budget
        return other

    def lowered_by(self, chain: Sequence[Event]) -> list[Event]:
        """Return the events that save anything of it, as far as terms say."""
        places = (self._cuts.get(dim, ()) for term in self._budget.terms for dim in term.dims)
        units = {self._unit_of[axis.name] for cutting in places for axis, _ in cutting}
        return [event for event in chain if event.unit in units]

    def __call__(self, counts: Sequence[int]) -> float:
        if self._budget.by == "slices":
            return float(
                sum(n * u.slices_per_step for n, u in zip(counts, self.make_units, strict=True))
            )
        dims = dict.fromkeys(dim for term in self._budget.terms for dim in term.dims)
        fractions = {dim: self._fraction(dim, counts) for dim in dims if dim in self._cuts}
        saved = (
            term.saved(fractions.get(dim, 1.0) for dim in term.dims) for term in self._budget.terms
        )
        return self._budget.total - self._budget.gone - sum(saved)

    def _fraction(self, dim: tuple[str, int], counts: Sequence[int]) -> float:
        """Return how much of one parameter dimension is left."""
        cutting = self._cuts[dim]
        length = cutting[0][1].weight.shape[dim[1]]
        if len(cutting) == 1:  # by far the most frequent: no need to look at positions
            axis, member = cutting[0]
            removed = axis.size - counts[self._unit_of[axis.name]] * axis.spec.groups
            return 1 - removed * member.index.shape[1] / length
        left = torch.ones(length, dtype=torch.bool)
        for axis, member in cutting:
            gone = self._order[axis.name][:, counts[self._unit_of[axis.name]] :].flatten()
            left[member.index[gone].flatten()] = False
        return int(left.sum()) / length


def _out_of_reach(
    budget: Budget, reached: float, axes: Sequence[Axis], floor: float, multiple: int
) -> str:
    kinds = ", ".join(dict.fromkeys(axis.kind for axis in axes))
    most = math.floor(reached * 1000) / 1000
    said = (
        f"A ratio of {budget.ratio:g} by {budget.by} is out of reach: with axes {kinds}, a floor "
        f"of {floor:g} and multiples of {multiple}, at most {most:.3f} can be removed"
    )
    if budget.by == "memory":
        said += f", and tensors that no axis reaches are {budget.fixed / budget.total:.3f} of it"
    lower = "lower the ratio, the floor or the multiple, or " if most > 0 else ""
    return f"{said}; {lower}let more kinds of axes shrink."
