"""Plans: budgets met as nearly as they can be, and rules that no budget bends.

The networks here are made of tensors only: a chain of layers, each axis cutting the rows of
one and the columns of the next, and attentions, whose dimensions several axes cut at once.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import FAMILIES, adapter_of, random_plan, traced
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from prunekit.axis import Axis, AxisSpec, Fold, Member
from prunekit.cutting.shrink import shrunk
from prunekit.errors import ArtifactError, BudgetError
from prunekit.planning.budget import CLOSE_ENOUGH, Budget, Term
from prunekit.planning.plan import Plan, make_plan

EPS = 1e-9


# --- networks of tensors -------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Axes with scores, and all that `make_plan` is told."""

    axes: tuple[Axis, ...]
    scores: tuple[torch.Tensor, ...]
    by: str
    scope: str
    floor: float
    multiple: int

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {member.name: member.weight for axis in self.axes for member in axis.members}

    @property
    def total(self) -> float:
        """The whole cost; an eighth of all parameters is out of every axis' reach."""
        if self.by == "slices":
            return sum(axis.size for axis in self.axes)
        return sum(weight.numel() for weight in self.weights.values()) * 8 / 7

    def plan(self, ratio: float) -> Plan:
        terms = tuple(
            Term(weight.numel(), tuple((name, dim) for dim in range(weight.dim())))
            for name, weight in self.weights.items()
        )
        budget = Budget(ratio, self.by, self.total, () if self.by == "slices" else terms)
        rules = {"scope": self.scope, "floor": self.floor, "multiple": self.multiple}
        return make_plan(self.axes, self.scores, budget, **rules)

    def plan_or_give_up(self, ratio: float) -> Plan:
        try:
            return self.plan(ratio)
        except BudgetError:
            assume(False)

    def removed(self, kept: dict[str, tuple[int, ...]]) -> float:
        """Count what is removed, by marking every single value that leaves."""
        if self.by == "slices":
            return 1 - sum(map(len, kept.values())) / self.total
        gone = {name: torch.zeros(w.shape, dtype=torch.bool) for name, w in self.weights.items()}
        for axis in self.axes:
            for number in set(range(axis.size)) - set(kept[axis.name]):
                for member in axis.members:
                    for position in member.index[number].tolist():
                        gone[member.name].select(member.dim, position).fill_(True)
        return sum(int(mask.sum()) for mask in gone.values()) / self.total

    def units(self) -> list[list[Axis]]:
        """Return the axes that must change together, as lists."""
        units: dict[str, list[Axis]] = {}
        for axis in self.axes:
            units.setdefault(axis.spec.match or axis.name, []).append(axis)
        return list(units.values())

    def sizes(self, axis: Axis) -> list[int]:
        """Return the sizes per group that the rules allow, ascending."""
        length = axis.size // axis.spec.groups
        least = max(1, math.ceil(self.floor * length - EPS))
        step = self.multiple if axis.spec.rounded else 1
        return [n for n in range(least, length) if n % step == 0] + [length]

    def score_of(self, axis: Axis) -> torch.Tensor:
        return self.scores[self.axes.index(axis)]

    def step(self, kept: dict, unit: list[Axis], by: int) -> dict | None:
        """Return what is kept once a unit takes a step up (1) or down (-1), if it can."""
        first = unit[0]
        sizes = self.sizes(first)
        there = sizes.index(len(kept[first.name]) // first.spec.groups) + by
        if not 0 <= there < len(sizes):
            return None
        return {
            **kept,
            **{axis.name: best(axis, self.score_of(axis), sizes[there]) for axis in unit},
        }


def best(axis: Axis, score: torch.Tensor, count: int) -> tuple[int, ...]:
    """Return the `count` best-scored slices of every group, ascending."""
    length = axis.size // axis.spec.groups
    kept = []
    for start in range(0, axis.size, length):
        ranked = sorted(range(start, start + length), key=lambda slice_: -float(score[slice_]))
        kept += ranked[:count]
    return tuple(sorted(kept))


@st.composite
def cases(draw, by=("params", "slices")) -> Case:
    seed = draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    kinds = st.sampled_from(["mlp", "width"])
    axes = _chain(
        draw(st.lists(st.integers(2, 30), min_size=1, max_size=3)),
        [draw(kinds) for _ in range(3)],
        draw(st.integers(1, 3)),
        generator,
    )
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(2, 6)), max_size=2))
    for number, (heads, dim) in enumerate(shapes):
        axes += _attention(f"attn{number}", heads, dim, generator)
    scores = [torch.rand(axis.size, generator=generator, dtype=torch.float64) for axis in axes]
    return Case(
        tuple(axes),
        tuple(scores),
        draw(st.sampled_from(by)),
        draw(st.sampled_from(["axis", "kind", "model"])),
        draw(st.sampled_from([0.0, 0.1, 0.35])),
        draw(st.sampled_from([1, 2, 4, 8])),
    )


def _chain(sizes, kinds, share, generator) -> list[Axis]:
    """Make layers 0, 1, ...; axis n owns rows of layer n and `share` columns each of n + 1."""
    columns = [3, *(size * share for size in sizes)]
    rows = [*sizes, 2]
    weights = [torch.rand(r, c) for r, c in zip(rows, columns, strict=True)]
    axes = []
    for n, size in enumerate(sizes):
        shuffled = torch.randperm(size * share, generator=generator).view(size, share)
        out = Member(f"layer{n}", "w", 0, torch.arange(size).unsqueeze(1), weights[n])
        into = Member(f"layer{n + 1}", "w", 1, shuffled, weights[n + 1])
        axes.append(Axis(AxisSpec(f"axis{n}", kinds[n], f"layer{n}"), size, (out, into)))
    return axes


def _attention(name, heads, dim, generator) -> list[Axis]:
    """Make heads, query-key and value dimensions, as `attention_axes` declares them."""
    qkv, proj = torch.rand(3 * heads * dim, 4), torch.rand(4, heads * dim)
    fused, split = (3, heads, dim), (heads, dim)

    def axis(part, kind, groups, qkv_fold, proj_fold=None):
        members = [Member(f"{name}.qkv", "qkv", 0, qkv_fold.index(), qkv)]
        if proj_fold:
            members.append(Member(f"{name}.proj", "proj", 1, proj_fold.index(), proj))
        match = name if groups else None
        spec = AxisSpec(
            f"{name}.{part}", kind, groups=groups or 1, match=match, rounded=False, layer=None
        )
        return Axis(spec, qkv_fold.size, tuple(members))

    return [
        axis("head", "head", 0, Fold(fused, (1,)), Fold(split)),
        axis("qk", "head_dim", heads, Fold(fused, (1, 2), take=(0, 1))),
        axis("v", "head_dim", heads, Fold(fused, (1, 2), take=(2,)), Fold(split, (0, 1))),
    ]


ratios = st.floats(0.03, 0.7)
properties = settings(
    max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


# --- properties ------------------------------------------------------------------------------


@properties
@given(case=cases(), ratio=ratios)
def test_got_is_what_marking_every_value_counts(case, ratio):
    plan = case.plan_or_give_up(ratio)
    assert plan.got == pytest.approx(case.removed(plan.kept), abs=1e-12)
    assert plan.got > 0


@properties
@given(case=cases(), ratio=ratios)
def test_a_plan_falls_short_only_if_every_further_step_overshoots(case, ratio):
    plan = case.plan_or_give_up(ratio)
    assume(ratio - plan.got > CLOSE_ENOUGH)
    further = [case.step(plan.kept, unit, -1) for unit in case.units()]
    assert all(case.removed(kept) > ratio - EPS for kept in further if kept)


@properties
@given(case=cases(), ratio=ratios)
def test_a_plan_overshoots_only_by_a_step_without_which_it_is_worse(case, ratio):
    plan = case.plan_or_give_up(ratio)
    excess = plan.got - ratio
    assume(excess > CLOSE_ENOUGH)
    back = [case.step(plan.kept, unit, +1) for unit in case.units()]
    assert any(ratio - case.removed(kept) >= excess - EPS for kept in back if kept)


@properties
@given(case=cases(), ratio=ratios)
def test_sizes_obey_floor_and_multiple_in_every_group(case, ratio):
    plan = case.plan_or_give_up(ratio)
    for axis in case.axes:
        groups = torch.tensor(plan.kept[axis.name]) // (axis.size // axis.spec.groups)
        counts = groups.bincount(minlength=axis.spec.groups).tolist()
        assert set(counts) <= set(case.sizes(axis))
        assert len(set(counts)) == 1


@properties
@given(case=cases(), ratio=ratios)
def test_the_best_slices_of_a_group_stay(case, ratio):
    plan = case.plan_or_give_up(ratio)
    for axis in case.axes:
        count = len(plan.kept[axis.name]) // axis.spec.groups
        assert plan.kept[axis.name] == best(axis, case.score_of(axis), count)


@properties
@given(case=cases(), ratio=ratios)
def test_matched_axes_keep_equally_many(case, ratio):
    plan = case.plan_or_give_up(ratio)
    for unit in case.units():
        assert len({len(plan.kept[axis.name]) // axis.spec.groups for axis in unit}) == 1


@properties
@given(case=cases(), first=ratios, second=ratios)
def test_a_larger_ratio_never_removes_less(case, first, second):
    less, more = sorted((first, second))
    assert case.plan_or_give_up(less).got <= case.plan_or_give_up(more).got + EPS


@properties
@given(case=cases())
def test_the_ratio_that_an_error_calls_reachable_is_reachable(case):
    with pytest.raises(BudgetError, match="is out of reach") as caught:
        case.plan(0.999)
    stated = float(re.search(r"at most ([\d.]+) can be removed", str(caught.value))[1])
    assume(stated > 0)
    assert case.plan(stated).got == pytest.approx(stated, abs=CLOSE_ENOUGH + EPS)
    with pytest.raises(BudgetError, match="is out of reach"):
        case.plan(stated + CLOSE_ENOUGH + 0.0011)


@properties
@given(case=cases(), ratio=ratios)
def test_a_plan_survives_json(case, ratio):
    plan = case.plan_or_give_up(ratio)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@properties
@given(case=cases(), ratio=ratios)
def test_within_axes_only_the_order_of_scores_counts(case, ratio):
    ranks = tuple(score.argsort().argsort().double() * 7 - 3 for score in case.scores)
    plain = replace(case, scope="axis", by="slices")
    assert replace(plain, scores=ranks).plan_or_give_up(ratio) == plain.plan(ratio)


# --- examples ----------------------------------------------------------------------------------


def simple(*scores: list[float], kinds: str = "aa", **rules) -> Case:
    axes = []
    for n, values in enumerate(scores):
        rows = torch.arange(len(values)).unsqueeze(1)
        member = Member(f"w{n}", "w", 0, rows, torch.ones(len(values), 2))
        axes.append(Axis(AxisSpec(f"axis{n}", kinds[n]), len(values), (member,)))
    rules = {"by": "slices", "scope": "kind", "floor": 0.0, "multiple": 1, **rules}
    tensors = tuple(torch.tensor(values, dtype=torch.float64) for values in scores)
    return Case(tuple(axes), tensors, **rules)


def test_slices_compete_within_the_scope():
    low, high = [1.0, 2, 3, 4], [5.0, 6, 7, 8]
    assert simple(low, high, scope="axis").plan(0.5).kept == {"axis0": (2, 3), "axis1": (2, 3)}
    assert simple(low, high, scope="kind").plan(0.375).kept == {
        "axis0": (3,),
        "axis1": (0, 1, 2, 3),
    }
    apart = simple(low, high, kinds="ab", scope="kind").plan(0.5)
    assert apart.kept == {"axis0": (2, 3), "axis1": (2, 3)}
    together = simple(low, high, kinds="ab", scope="model").plan(0.375)
    assert together.kept == {"axis0": (3,), "axis1": (0, 1, 2, 3)}


def test_of_equal_scores_the_first_slices_stay():
    assert simple([1.0] * 4).plan(0.5).kept == {"axis0": (0, 1)}


def test_sizes_are_rounded_to_the_nearest_multiple():
    scores = [float(n) for n in range(32)]
    assert len(simple(scores, multiple=8).plan(0.3).kept["axis0"]) == 24
    assert len(simple(scores, multiple=8).plan(0.45).kept["axis0"]) == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_got_is_what_shrinking_a_model_removes(family):
    model, _, axes = traced(family)
    params = sum(p.numel() for p in model.parameters())
    terms = [
        Term(p.numel(), tuple((name, dim) for dim in range(p.dim())))
        for name, p in model.named_parameters()
    ]
    scores = [torch.arange(axis.size, dtype=torch.float64) for axis in axes]
    budget = Budget(0.4, "params", params, tuple(terms))
    plan = make_plan(axes, scores, budget, scope="axis", multiple=1)
    small = shrunk(model, axes, plan, adapter_of(family))
    left = sum(p.numel() for p in small.parameters())
    assert plan.got == pytest.approx(1 - left / params, abs=1e-12)
    assert plan.got == pytest.approx(0.4, abs=CLOSE_ENOUGH)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan")])
def test_a_ratio_outside_zero_and_one_is_refused(ratio):
    with pytest.raises(BudgetError, match=f"The ratio is {ratio}; expected .* between 0 and 1"):
        Budget(ratio, "params", 100)


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_that_is_no_fraction_is_refused(floor):
    with pytest.raises(BudgetError, match=f"The floor is {floor}; expected a fraction"):
        simple([1.0, 2.0], floor=floor).plan(0.5)


@pytest.mark.parametrize("multiple", [0, -8])
def test_a_multiple_below_one_is_refused(multiple):
    with pytest.raises(BudgetError, match=f"The multiple is {multiple}; expected 1 or more"):
        simple([1.0, 2.0], multiple=multiple).plan(0.5)


def test_a_ratio_too_small_for_one_step_is_refused():
    with pytest.raises(
        BudgetError, match=r"ratio of 0\.05 by slices removes less than half a step"
    ):
        simple([1.0, 2, 3, 4]).plan(0.05)


def test_an_unreachable_ratio_names_what_limits_it():
    message = "0.9 by slices .* axes a, a floor of 0.5 and multiples of 1, at most 0.500 can"
    with pytest.raises(BudgetError, match=message):
        simple([1.0, 2, 3, 4], floor=0.5).plan(0.9)


def _without(key):
    return lambda data: data.pop(key)


def _axis_set(key, value):
    return lambda data: data["axes"]["layers.0.width"].update({key: value})


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_without("axes"), "not readable.*axes"),
        (_without("by"), "not readable.*by"),
        (_without("got"), "not readable.*got"),
        (lambda data: data.update(by="pounds"), "not readable"),
        (lambda data: data.update(asked="much"), "not readable.*much"),
        (lambda data: data.update(axes=[1, 2]), "not readable"),
        (_axis_set("kept", None), "not readable"),
        (_axis_set("size", "big"), "not readable.*big"),
        (_axis_set("kept", []), "impossible slices of axis 'layers.0.width'; .* 0 to 15"),
        (_axis_set("kept", [-1, 2]), "impossible slices of axis 'layers.0.width'"),
        (_axis_set("kept", [3, 16]), "impossible slices of axis 'layers.0.width'"),
        (_axis_set("kept", [3, 3]), "impossible slices of axis 'layers.0.width'"),
        (_axis_set("kept", [4, 3]), "impossible slices of axis 'layers.0.width'"),
    ],
)
def test_a_tampered_plan_is_refused(tamper, message):
    data = random_plan(traced("swin")[2], 0.5).to_json()
    Plan.from_json(data)
    tamper(data)
    with pytest.raises(ArtifactError, match=message):
        Plan.from_json(data)
