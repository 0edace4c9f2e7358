"""memory_peak: what a forward pass holds at each moment, and how that depends on what may shrink.

The model runs without values, once as it is and once with each axis alone cut in half. By how much
every tensor becomes smaller says which dimensions it is proportional to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from torch import nn

from ..arguments import Inputs, batch_of
from ..axis import Axis
from ..cutting.shrink import shrunk
from ..inputs.subject import Subject
from ..measuring.alive import Lives, Made, lives
from ..measuring.latency import BATCHES
from ..planning.budget import Place, Term
from ..planning.left import positions_left
from ..planning.peak import Peak
from ..planning.plan import Plan
from ..tracing.running import dry_run

Left = dict[int, Fraction]  # what is left of a thing once axes are cut, of the cuts that matter
Share = tuple[Fraction, tuple[Place, ...]]  # of a tensor, and what this is proportional to


def memory_peak(subject: Subject, axes: Sequence[Axis]) -> Peak:
    """Return the bytes that a forward pass holds at once, moment by moment, see `live_peak`."""
    units = _units(axes)
    plans = [_cut(axes, unit) for unit in units]

    def run(model: nn.Module, inputs: Inputs) -> list[Lives]:
        small = (shrunk(model, axes, plan, subject.adapter).eval() for plan in plans)
        return [lives(one, inputs) for one in (model, *small)]

    whole, *cut = dry_run(subject.model, batch_of(subject.example, BATCHES[-1]), run)
    left = _left_of_tensors(whole, cut, [unit[0].spec.branch is not None for unit in units])
    places = _Places(_left_of_places(units, plans))
    shares = {made: list(places.behind(found)) for made, found in left.items()}
    return Peak.of(_terms(whole, moment, shares) for moment in whole.moments)


def _units(axes: Sequence[Axis]) -> list[list[Axis]]:
    """Put axes together that must keep equally many slices; those of one slice stay whole."""
    units: dict[str, list[Axis]] = {}
    for axis in axes:
        if axis.size > axis.spec.groups or axis.spec.branch is not None:
            units.setdefault(axis.spec.match or axis.name, []).append(axis)
    return list(units.values())


def _cut(axes: Sequence[Axis], unit: Sequence[Axis]) -> Plan:
    """Return the plan that halves some axes, or takes a branch away, and nothing else."""
    kept = {axis.name: tuple(range(axis.size)) for axis in axes}
    for axis in unit:
        length = axis.size // axis.spec.groups
        # Of two slices or more, two: a dimension of one has views where a larger one has copies.
        half = 0 if axis.spec.branch else min(length - 1, max(2, length // 2))
        kept[axis.name] = tuple(n for n in range(axis.size) if n % length < half)
    return Plan(kept, {axis.name: axis.size for axis in axes}, "memory", 0.0, 0.0)


def _left_of_tensors(
    whole: Lives, cut: Sequence[Lives], branches: Sequence[bool]
) -> dict[Made, Left]:
    """Return what each cut leaves of every tensor.

    A tensor that is not made with a branch gone was the branch's; the last of these is what it
    added to the stream, in whose place a constant is added then. One that is not made for another
    reason, such as a copy where a view will do, is as large as what it would be a copy of.
    """
    constants = {}
    for number, (one, branch) in enumerate(zip(cut, branches, strict=True)):
        own = [made for made in whole.sizes if made not in one.sizes] if branch else []
        new = [size for made, size in one.sizes.items() if made not in whole.sizes]
        if own and new:
            constants[own[-1], number] = Fraction(new[-1], whole.sizes[own[-1]])
    found: dict[Made, Left] = {}
    for made, size in whole.sizes.items():
        left: Left = {}
        for number, (one, branch) in enumerate(zip(cut, branches, strict=True)):
            if made in one.sizes:
                left[number] = Fraction(one.sizes[made], max(size, 1))
            elif branch:
                left[number] = constants.get((made, number), Fraction(0))
            elif whole.sources[made]:
                left[number] = found[whole.sources[made][0]].get(number, Fraction(1))
        found[made] = {number: each for number, each in left.items() if each != 1}
    return found


def _left_of_places(units: Sequence[Sequence[Axis]], plans: Sequence[Plan]) -> dict[Place, Left]:
    """Return what each cut leaves of every dimension of a parameter."""
    found: dict[Place, Left] = defaultdict(dict)
    for number, (unit, plan) in enumerate(zip(units, plans, strict=True)):
        lengths = {(m.name, m.dim): m.weight.shape[m.dim] for axis in unit for m in axis.members}
        left = positions_left(unit, plan)
        for (name, dim), length in lengths.items():
            found[name, dim][number] = Fraction(len(left[name][dim]), length)
    return found


class _Places:
    """Finds the dimensions that a tensor is proportional to, by what cuts leave of both."""

    def __init__(self, left: Mapping[Place, Left]):
        self._left = left
        self._named = {_key(one): place for place, one in reversed(list(left.items()))}

    def behind(self, left: Left) -> Iterator[Share]:
        """Yield the shares of a tensor: one, unless it is put together from several."""
        single = self._named.get(_key(left))
        if not left or single is not None:
            yield Fraction(1), () if single is None else (single,)
            return
        pair = self._product(left)
        if pair is not None:
            yield Fraction(1), pair
            return
        yield from self._sum(left)

    def _product(self, left: Left) -> tuple[Place, Place] | None:
        """Return two dimensions whose product it is proportional to, if there are."""
        for place, own in self._left.items():
            if own.keys() <= left.keys():
                rest = {
                    number: each / own[number] if own.get(number) else each
                    for number, each in left.items()
                    if own.get(number) != each
                }
                if (other := self._named.get(_key(rest))) is not None:
                    return place, other
        return None

    def _sum(self, left: Left) -> Iterator[Share]:
        """Yield what depends on each cut, as if parts stood side by side, and what on none."""
        gone = {number for number, each in left.items() if not each}
        with_it = tuple(self._purest(number, gone) for number in gone)
        shares = []
        for number, each in left.items():
            if each:
                place = self._purest(number, gone)
                shares.append(((1 - each) / (1 - self._left[place][number]), place))
        parts = sum((share for share, _ in shares), Fraction(0))
        if parts > 1:  # they do not stand side by side; what they are is not known
            yield Fraction(1), (*(place for _, place in shares), *with_it)
            return
        for share, place in shares:
            yield share, (place, *with_it)
        yield 1 - parts, with_it

    def _purest(self, number: int, besides: set[int]) -> Place:
        """Return a dimension that depends on one cut, and on as few others as can be."""
        mine = (place for place, own in self._left.items() if number in own)
        return min(mine, key=lambda place: len(self._left[place].keys() - besides))


def _key(left: Left) -> frozenset[tuple[int, Fraction]]:
    return frozenset(left.items())


def _terms(
    whole: Lives, moment: frozenset[Made], shares: Mapping[Made, Sequence[Share]]
) -> tuple[Term, ...]:
    """Return what the bytes of a moment depend on."""
    costs: dict[tuple[Place, ...], Fraction] = defaultdict(Fraction)
    for made in moment:
        for share, places in shares[made]:
            costs[places] += share * whole.sizes[made]
    return tuple(Term(float(cost), places) for places, cost in costs.items())
