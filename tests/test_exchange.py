"""Slices that stay are exchanged for others, once a plan says how many there are."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import FAMILIES, toy, traced
from test_compensation import RIDGE, random_reader, schur

from prunekit import prune
from prunekit.criteria import CRITERIA
from prunekit.criteria.base import Criterion
from prunekit.criteria.elimination import eliminated
from prunekit.criteria.exchange import _Table, exchanged
from prunekit.errors import CriterionError
from prunekit.statistics import gather


@pytest.fixture(params=[(9, 1), (6, 2)], ids=["columns", "blocks"])
def problem(request):
    """Return two readers of the same slices, and what keeping some of these costs."""
    torch.manual_seed(1)
    size, width = request.param
    readers = [random_reader(size, width, 400), random_reader(size, width, 5)]

    def cost(kept):
        gone = [j for j in range(size) if j not in kept]
        return sum(schur(reader, gone) for reader in readers) if gone else 0.0

    return readers, size, cost


def test_what_each_slice_is_worth_stays_true_through_sweeps(problem):
    readers, size, cost = problem
    kept = [0, 2, 3]
    tables = [_Table(reader, torch.tensor(kept), RIDGE) for reader in readers]

    def check():
        worth = sum(table.worth() for table in tables)
        for j in range(size):
            with_it, without = cost([*kept, j]), cost([k for k in kept if k != j])
            expected = without - cost(kept) if j in kept else cost(kept) - with_it
            assert float(worth[j]) == pytest.approx(expected, rel=1e-6)

    check()
    for slice_, out in ((2, True), (5, False), (1, False), (5, True), (2, False)):
        for table in tables:
            table.sweep(slice_, out=out)
        kept = [k for k in kept if k != slice_] if out else [*kept, slice_]
        check()


def test_no_exchange_of_two_slices_is_left_that_the_search_looks_for(problem):
    readers, size, cost = problem
    for start in itertools.combinations(range(size), 3):
        found = exchanged(readers, torch.tensor(start), 1, 100, RIDGE).tolist()
        assert len(set(found)) == 3
        assert cost(found) <= cost(start) * (1 + 1e-9)
        # Neither in and out, nor out and in, makes it smaller.
        added = min((j for j in range(size) if j not in found), key=lambda j: cost([*found, j]))
        best = min(cost([k for k in (*found, added) if k != j]) for j in (*found, added))
        assert cost(found) <= best * (1 + 1e-6)


def test_from_an_elimination_it_is_never_worse_and_often_the_best():
    torch.manual_seed(0)
    best, better = 0, 0
    for _ in range(20):
        readers = [random_reader(8, 1, 400), random_reader(8, 1, 4)]

        def cost(kept, readers=readers):
            return sum(schur(one, [j for j in range(8) if j not in kept]) for one in readers)

        start = eliminated(readers, RIDGE).order[4:]
        found = exchanged(readers, start, 1, 100, RIDGE).tolist()
        assert cost(found) <= cost(start.tolist()) * (1 + 1e-9)
        better += cost(found) < 0.999 * cost(start.tolist())
        least = min(cost(list(some)) for some in itertools.combinations(range(8), 4))
        best += cost(found) <= least * (1 + 1e-6)
    assert best >= 12
    assert better >= 1


def test_slices_are_exchanged_within_their_group_and_no_more_often_than_asked():
    torch.manual_seed(0)
    readers = [random_reader(12, 1, 400)]
    start = torch.tensor([0, 1, 6, 7])
    found = exchanged(readers, start, 2, 100, RIDGE)
    assert (found < 6).sum() == 2
    assert torch.equal(exchanged(readers, start, 2, 0, RIDGE), start)
    one = exchanged(readers, start, 2, 1, RIDGE)
    assert len(set(one.tolist()) - set(start.tolist())) <= 2


def test_all_or_nothing_has_nothing_to_exchange():
    torch.manual_seed(0)
    readers = [random_reader(4, 1, 50)]
    assert exchanged(readers, torch.arange(4), 1, 9, RIDGE).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_keeps_its_counts(family):
    model, images = toy(family)
    batch = torch.cat([images, images.flip(-1), images.roll(3, -1)])
    options = {"data": [batch], "example_input": images, "repair": "lstsq"}
    by_obs, by_osscar = (prune(model, name, 0.4, **options) for name in ("obs", "osscar"))
    counts = [{n: len(k) for n, k in one.plan.kept.items()} for one in (by_obs, by_osscar)]
    assert counts[0] == counts[1]
    assert (by_obs.plan.kept != by_osscar.plan.kept) == (family == "swin")


def refining(change) -> Criterion:
    def score(axes):
        return [torch.arange(axis.size) for axis in axes]

    return Criterion("refining", score, refine=change)


def test_a_criterion_of_one_s_own_exchanges_slices():
    model, images = toy("vit")
    first = refining(lambda axis, kept: torch.arange(len(kept)))
    result = prune(model, first, 0.3, axes=("mlp",), example_input=images)
    assert all(kept == tuple(range(len(kept))) for kept in result.plan.kept.values())


REFUSED = [
    ("fewer", lambda axis, kept: kept[1:], "expected as many"),
    ("twice", lambda axis, kept: kept * 0, "expected as many"),
    ("outside", lambda axis, kept: kept + axis.size, "slices, from 0"),
    ("below", lambda axis, kept: kept - axis.size, "slices, from 0"),
    ("floats", lambda axis, kept: kept + 0.5, "whole numbers"),
    ("nothing", lambda axis, kept: None, "returned None"),
    ("raises", lambda axis, kept: kept[axis], "The refine of Criterion 'refining'.* failed"),
]


@pytest.mark.parametrize(
    ("change", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_is_no_choice_of_as_many_slices_is_refused(change, message):
    model, images = toy("vit")
    with pytest.raises(CriterionError, match=message):
        prune(model, refining(change), 0.3, axes=("mlp",), example_input=images)


def test_a_refine_that_cannot_be_called_is_refused_at_once():
    with pytest.raises(CriterionError, match="expected a function of an axis"):
        refining("x")


def test_groups_keep_as_many():
    model, images, axes = traced("vit")
    (axis,) = (a for a in axes if a.name == "blocks.0.attn.v")
    (known,) = gather("covariances", model, [axis], [images])
    osscar = CRITERIA.get("osscar")
    half = axis.size // axis.spec.groups // 2
    kept = [g * 2 * half + n for g in range(axis.spec.groups) for n in range(half)]
    found = torch.tensor(osscar.refined(known, kept))
    assert (found // (2 * half)).bincount().tolist() == [half] * axis.spec.groups
    everything = [n for n in range(axis.size) if n % (2 * half) < half or n < 2 * half]
    with pytest.raises(CriterionError, match="of every group"):
        refining(lambda axis, kept: torch.tensor(everything[: len(kept)])).refined(known, kept)
