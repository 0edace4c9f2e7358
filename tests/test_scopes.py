"""How axes share a budget: by what was measured of each of them alone, and by trying plans out."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import traced
from hypothesis import given
from hypothesis import strategies as st

import prunekit
from prunekit import prune
from prunekit.cli import main
from prunekit.errors import ArtifactError, BudgetError, CriterionError
from prunekit.measuring.counting import param_terms
from prunekit.measuring.divergence import divergence
from prunekit.planning.budget import Budget
from prunekit.planning.chain import make_chain, make_units
from prunekit.planning.plan import make_plan
from prunekit.planning.prices import saved_by_one
from prunekit.planning.sharing import Allocation, Losses, Weighted, parts_of
from prunekit.pruning import cache, search

POINTS = st.lists(st.tuples(st.floats(0.05, 1.0), st.floats(0, 5)), min_size=1, max_size=8)
QUICK = {"axes": ["mlp"], "data": "fashion-mnist-mini", "calibration": 64, "evaluate": False}


@pytest.fixture(autouse=True)
def aside(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


# --- losses -----------------------------------------------------------------------------


@given(POINTS)
def test_losses_are_convex_never_fall_and_lie_below_what_was_measured(points):
    losses = Losses.of(points)
    grid = np.linspace(0.01, losses.gone[-1], 60)
    slopes = [losses.slope(x) for x in grid]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(slopes))
    assert slopes[0] >= 0
    for gone, lost in points:
        highest = max(other for x, other in points if x <= gone)
        assert np.interp(gone, losses.gone, losses.lost) <= max(lost, highest) + 1e-9


def test_losses_that_are_convex_already_stay_as_they_are():
    assert Losses.of([(0.75, 0.9), (0.25, 0.1), (0.5, 0.3)]) == Losses(
        (0.0, 0.25, 0.5, 0.75), (0.0, 0.1, 0.3, 0.9)
    )
    assert Losses.of([(0.5, 1.0), (1.0, 1.2)]).lost == (0.0, 1.2)  # the middle is above the chord


# --- an allocation ----------------------------------------------------------------------


def allocated(losses, ratio):
    """Return how many slices each MLP of a toy keeps, and what there are."""
    model, _, axes = traced("vit")
    axes = [axis for axis in axes if axis.kind == "mlp"]
    terms = param_terms(model)
    prices = {axis.name: saved_by_one(axis, terms) for axis in axes}
    scores = [torch.arange(axis.size, dtype=torch.float64) for axis in axes]
    budget = Budget(ratio, "params", sum(term.cost for term in terms), terms)
    found = dict(zip([axis.name for axis in axes], losses, strict=True))
    plan = make_plan(axes, scores, budget, scope=Allocation(found, prices), multiple=1, floor=0.1)
    return [len(kept) for kept in plan.kept.values()], [axis.size for axis in axes]


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.3])
def test_an_allocation_loses_least_of_all_that_save_as_much(ratio):
    """Against all pairs of sizes; both axes of the toy save equally much."""
    curves = [[(0.25, 0.1), (0.5, 0.4), (0.9, 2.0)], [(0.25, 0.02), (0.5, 0.3), (0.9, 3.0)]]
    losses = [Losses.of(curve) for curve in curves]
    kept, sizes = allocated(losses, ratio)
    size = sizes[0]

    def lost(counts):
        return sum(
            np.interp(1 - n / size, one.gone, one.lost)
            for n, one in zip(counts, losses, strict=True)
        )

    total = sum(kept)
    others = ((n, total - n) for n in range(13, size + 1) if 13 <= total - n <= size)
    assert lost(kept) <= min(map(lost, others)) + 0.02  # in steps of whole slices


def test_an_axis_that_costs_nothing_leaves_first_and_what_was_never_measured_last():
    free, dear = Losses.of([(0.5, 0.0)]), Losses.of([(0.9, 5.0)])
    kept, sizes = allocated([free, dear], 0.15)
    assert kept[1] == sizes[1]
    kept, _ = allocated([free, dear], 0.35)
    assert kept[0] == sizes[0] // 2  # the rest of it was never tried
    assert kept[1] < sizes[1]


# --- weights ----------------------------------------------------------------------------


def test_weights_speed_up_a_part_and_leave_the_order_within():
    _, _, axes = traced("swin")
    axes = [axis for axis in axes if axis.kind in ("mlp", "head")]
    scores = [torch.rand(axis.size, generator=torch.Generator().manual_seed(1)) for axis in axes]
    units = make_units(axes, scores)
    parts = parts_of(units)
    plain = make_chain(units, "kind", 0.1, 1)
    assert make_chain(units, Weighted("kind"), 0.1, 1) == plain
    faster = make_chain(units, Weighted("kind", {parts[0]: 4.0}), 0.1, 1)
    for number in range(len(units)):
        own = [[e.count for e in chain if e.unit == number] for chain in (plain, faster)]
        assert own[0] == own[1]
    place = [[n for n, e in enumerate(chain) if parts[e.unit] == parts[0]][-1]
             for chain in (plain, faster)]  # fmt: skip
    assert place[1] < place[0]


def test_long_rows_of_blocks_are_told_apart_by_thirds():
    result = prune("vit_micro", "magnitude", 0.2, evaluate=False)
    axes = [a for a in traced("vit")[2] if a.kind == "mlp"]
    renamed = [
        replace(axes[0], spec=replace(axes[0].spec, name=name))
        for name, kind in result.kinds.items()
        if kind == "mlp"
    ]
    parts = parts_of(make_units(renamed, [torch.rand(axis.size) for axis in renamed]))
    assert [part[-1] for part in dict.fromkeys(p.split(",")[1].split(" of ")[0] for p in parts)]
    assert sorted({p.rpartition("part ")[2] for p in parts}) == ["1 of 3", "2 of 3", "3 of 3"]


# --- as asked for -----------------------------------------------------------------------


def measured(directory, *options):
    words = ["sensitivity", "--arch", "vit_micro", "--criterion", "magnitude", "--axes", "mlp"]
    words += ["--ratios", "0.5", "--calibration", "64", "--out", str(directory), "--quiet"]
    assert main([*words, *options]) == 0
    return directory


def test_a_budget_is_shared_by_a_sensitivity(tmp_path):
    there = measured(tmp_path / "there")
    result = prune("vit_micro", "magnitude", 0.3, scope=f"sensitivity:{there}", **QUICK)
    assert result.plan.got == pytest.approx(0.3, abs=0.005)
    assert result.recipe["scope"] == f"sensitivity:{there}"
    file = json.loads((there / "sensitivity.json").read_text())
    lost = {effect["axis"]: effect["divergence"] for effect in file["effects"]}
    dearest, freest = max(lost, key=lost.get), min(lost, key=lost.get)
    kept = {name: len(slices) for name, slices in result.plan.kept.items()}
    assert kept[dearest] > kept[freest]
    # The same with the file's own name.
    again = prune("vit_micro", "magnitude", 0.3, scope=f"sensitivity:{there}/sensitivity.json",
                  **QUICK)  # fmt: skip
    assert again.plan.kept == result.plan.kept


def test_a_sensitivity_that_does_not_fit_is_refused(tmp_path):
    there = measured(tmp_path / "there")
    scope = f"sensitivity:{there}"
    with pytest.raises(BudgetError, match="was measured with criterion 'magnitude'"):
        prune("vit_micro", "lamp", 0.3, scope=scope, **QUICK)
    with pytest.raises(BudgetError, match=r"says nothing of blocks\.0\.attn\.head"):
        prune("vit_micro", "magnitude", 0.3, scope=scope, **{**QUICK, "axes": ["mlp", "head"]})
    with pytest.raises(BudgetError, match="measure this model"):
        prune("vit_tiny_patch16_224", "magnitude", 0.3, scope=scope, weights="random",
              axes=["mlp"], include=["blocks.[0-9].mlp"])  # fmt: skip
    with pytest.raises(
        BudgetError, match="was measured with weights 'zoo', and here it is 'random'"
    ):
        prune("vit_micro", "magnitude", 0.3, scope=scope, weights="random", **QUICK)
    with pytest.raises(BudgetError, match="names no file"):
        prune("vit_micro", "magnitude", 0.3, scope="sensitivity:", **QUICK)
    mended = prune("vit_micro", "magnitude", 0.3, scope=scope, repair="bias", **QUICK)
    assert "was measured with repair 'none', and 'bias' is used here" in mended.warnings[-1]
    with pytest.raises(ArtifactError, match="make it with prunekit sensitivity"):
        prune("vit_micro", "magnitude", 0.3, scope="sensitivity:nowhere", **QUICK)
    place = there / "sensitivity.json"
    file = json.loads(place.read_text())
    odd = {**file, "effects": [{**file["effects"][0], "size": 128}, *file["effects"]]}
    place.write_text(json.dumps(odd))
    with pytest.raises(BudgetError, match="has 128 slices"):
        prune("vit_micro", "magnitude", 0.3, scope=scope, **QUICK)
    place.write_text(json.dumps(file))
    place.write_text(json.dumps({**json.loads(place.read_text()), "recipe": None}))
    with pytest.raises(ArtifactError, match="was cut off; repeat it"):
        prune("vit_micro", "magnitude", 0.3, scope=scope, **QUICK)


def test_a_search_is_no_worse_than_the_scopes_it_starts_from():
    asked = {**QUICK, "scope": "search", "trials": 6, "repair": "bias"}
    result = prune("vit_micro", "magnitude", 0.3, **asked)
    found = result.rounds[-1].search
    assert set(found.scopes) == {"axis", "kind", "model"}
    assert found.trials == 6
    assert found.divergence <= min(found.scopes.values())
    assert found.unseen
    assert found.images == 64
    assert result.plan.got == pytest.approx(0.3, abs=0.005)


def test_a_search_that_was_cut_off_judges_only_what_is_new(monkeypatch):
    judged = []
    plain = search.divergence
    monkeypatch.setattr(search, "divergence", lambda *a: judged.append(1) or plain(*a))
    asked = {**QUICK, "scope": "search"}
    first = prune("vit_micro", "magnitude", 0.3, trials=4, **asked)
    assert len(judged) == 4
    whole = prune("vit_micro", "magnitude", 0.3, trials=7, **asked)
    assert len(judged) == 7
    assert whole.rounds[-1].search.divergence <= first.rounds[-1].search.divergence
    prune("vit_micro", "magnitude", 0.31, trials=3, **asked)  # another budget, other trials
    assert len(judged) == 10


def test_divergence_is_that_of_the_predictions():
    dense, small = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    p, q = dense.softmax(-1), small.softmax(-1)
    assert divergence(dense, small) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()))
    assert divergence(dense, dense) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "sensitive"}, "No scope is called 'sensitive'"),
        ({"trials": 3}, "trials is 3, but nothing is searched for"),
        ({"scope": "search", "trials": 0}, "trials is 0; expected 1 or more"),
        ({"scope": "search", "steps": 2}, "shares the budget among axes once"),
        ({"scope": "search", "granularity": "weight"}, "shares the budget among axes once"),
    ],
)
def test_what_cannot_be_shared_so_is_refused(options, message):
    with pytest.raises((BudgetError, CriterionError), match=message):
        prunekit.prune("vit_micro", "magnitude", 0.3, evaluate=False, **options)
