"""A budget of memory: the peak of a forward pass, moment by moment."""

from __future__ import annotations

import json
import random
from fractions import Fraction

import pytest
import torch
from conftest import refused_by_run
from torch import nn

from prunekit import prune
from prunekit.cli import main
from prunekit.cutting.shrink import shrunk
from prunekit.errors import BudgetError
from prunekit.measuring.alive import Lives, live_peak
from prunekit.measuring.memory import peak_memory
from prunekit.planning.budget import CLOSE_ENOUGH, Budget, Term
from prunekit.planning.left import saved
from prunekit.planning.peak import Peak
from prunekit.planning.plan import OutOfReach, Plan, make_plan
from prunekit.planning.prices import saved_by_one
from prunekit.pruning import footprints
from prunekit.pruning.job import prepare, proved
from prunekit.pruning.memory_terms import _left_of_tensors, _Places, memory_peak
from prunekit.pruning.slices import traced
from prunekit.pruning.watch import Watch
from prunekit.request import Request
from prunekit.shared import Shared

ZOO = ("swin_micro", "vit_micro", "convnext_micro", "resnet_micro", "mobilenet_micro")
BATCH, FLOAT = 8, 4  # images that are counted, and bytes
X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two hidden layers, one after the other, of which the second is the larger."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 60), nn.Linear(60, 6)
        self.c, self.d = nn.Linear(6, 100), nn.Linear(100, 3)

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x))))


class Joined(nn.Module):
    """Two layers whose outputs stand side by side, next to what never shrinks."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 40), nn.Linear(6, 80), nn.Linear(126, 3)

    def forward(self, x):
        return self.c(torch.cat([self.a(x), self.b(x), x], 1))


def job_of(model, axes=None, **options):
    request = Request(model=model, axes=axes, **options)
    watch = Watch(lambda step: None, shared := Shared())
    return proved(prepare(request, shared, watch, lambda epoch: None))


def peak_and_axes(job):
    axes = traced(job.subject, *job.chosen, job.shared)
    return memory_peak(job.subject, axes), axes


def any_plan(axes, seed):
    """Keep any sizes at all; axes that must agree do."""
    draw, counts, kept = random.Random(seed), {}, {}
    for axis in axes:
        length = axis.size // axis.spec.groups
        least = 0 if axis.spec.branch else min(2, length)  # see the test of a single head
        count = counts.setdefault(axis.spec.match or axis.name, draw.randint(least, length))
        kept[axis.name] = tuple(n for n in range(axis.size) if n % length < count)
    return Plan(kept, {axis.name: axis.size for axis in axes}, "memory", 0.0, 0.0)


# --- what is counted ---------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ZOO)
def test_what_is_counted_without_values_is_what_a_cpu_holds(arch):
    subject = job_of(arch).subject
    assert live_peak(subject.model, subject.example) == peak_memory(subject.model, subject.example)


def test_the_peak_is_known_by_hand():
    assert live_peak(Net(), X) == BATCH * 106 * FLOAT  # d's input was c's output, made from b's


CASES = [
    ("swin_micro", ["mlp", "head", "width", "block"]),
    ("vit_micro", ["mlp", "head", "head_dim", "width"]),
    ("vit_micro", ["mlp", "head", "block"]),
    ("convnext_micro", ["mlp", "width", "block"]),
    ("resnet_micro", ["conv", "block"]),
]


@pytest.mark.parametrize(("arch", "kinds"), CASES)
def test_what_is_predicted_of_any_plan_is_what_its_model_holds(arch, kinds):
    job = job_of(arch, kinds)
    peak, axes = peak_and_axes(job)
    assert peak.cost == live_peak(job.subject.model, job.subject.example)
    seen = set()
    for seed in range(4):
        plan = any_plan(axes, seed)
        small = shrunk(job.subject.model, axes, plan, job.subject.adapter)
        found = live_peak(small, job.subject.example)
        assert peak.cost - saved(axes, plan, [peak]) == pytest.approx(found, rel=1e-9)
        seen.add(found)
    assert len(seen) > 1


def test_what_stays_of_branches_that_are_gone_is_predicted():
    """A constant is added in the place of each, which is as large as the stream."""
    job = job_of("vit_micro", ["block"])
    peak, axes = peak_and_axes(job)
    sizes = {axis.name: axis.size for axis in axes}
    plan = Plan(dict.fromkeys(sizes, ()), sizes, "memory", 0.0, 0.0)
    small = shrunk(job.subject.model, axes, plan, job.subject.adapter)
    found = live_peak(small, job.subject.example)
    assert peak.cost - saved(axes, plan, [peak]) == found < 0.5 * peak.cost


def test_a_single_head_that_is_left_is_never_more_than_was_predicted():
    """With one head, a transposition needs no copy, so that less is held than was predicted."""
    job = job_of("swin_micro", ["head"])
    peak, axes = peak_and_axes(job)
    sizes = {axis.name: axis.size for axis in axes}
    plan = Plan(dict.fromkeys(sizes, (0,)), sizes, "memory", 0.0, 0.0)
    small = shrunk(job.subject.model, axes, plan, job.subject.adapter)
    assert live_peak(small, job.subject.example) <= peak.cost - saved(axes, plan, [peak])


def test_what_stands_side_by_side_shrinks_by_its_own_part():
    job = job_of(Joined(), example_input=X)
    peak, axes = peak_and_axes(job)
    assert {axis.size for axis in axes} == {40, 80}
    for plan in (any_plan(axes, seed) for seed in range(4)):
        small = shrunk(job.subject.model, axes, plan, job.subject.adapter)
        left = sum(len(kept) for kept in plan.kept.values())
        assert live_peak(small, X) == BATCH * (2 * left + 6) * FLOAT  # both parts, and all again
        assert peak.cost - saved(axes, plan, [peak]) == pytest.approx(live_peak(small, X))


HALF, FIFTH = Fraction(1, 2), Fraction(1, 5)
A, B, AB, GONE = ("a", 0), ("b", 0), ("ab", 1), ("branch", 0)
PLACES = {A: {0: HALF}, B: {1: FIFTH}, AB: {0: HALF, 1: FIFTH}, GONE: {2: Fraction(0)}}
SHARES = {
    "nothing": ({}, {(): 1}),
    "one": ({1: FIFTH}, {(B,): 1}),
    "both, by a dimension that is cut by both": ({0: HALF, 1: FIFTH}, {(AB,): 1}),
    "one, in a branch": ({0: HALF, 2: Fraction(0)}, {(A, GONE): 1}),
    "both its dimensions": ({0: HALF * HALF}, {(A, A): 1}),
    "half of it": ({0: Fraction(3, 4)}, {(A,): HALF, (): HALF}),
    "parts": ({0: Fraction(3, 4), 1: Fraction(4, 5)}, {(A,): HALF, (B,): 1 / 4, (): 1 / 4}),
    "half of it, in a branch": (
        {0: Fraction(3, 4), 2: Fraction(0)},
        {(A, GONE): HALF, (GONE,): HALF},
    ),
    "more than there is": ({0: FIFTH, 1: FIFTH}, {(A, B): 1}),
}


@pytest.mark.parametrize("what", SHARES)
def test_what_a_tensor_is_proportional_to_is_what_shrinks_as_it_does(what):
    left, expected = SHARES[what]
    assert {dims: share for share, dims in _Places(PLACES).behind(left)} == expected


def test_a_copy_that_a_cut_makes_needless_is_as_large_as_what_it_copies():
    made, copied, other = ("", "linear", 0), ("", "reshape", 0), ("", "mul", 0)
    whole = Lives({made: 8, copied: 8, other: 6}, {made: (), copied: (made,), other: ()}, ())
    without = Lives({made: 4, other: 6}, {}, ())
    left = _left_of_tensors(whole, [without], [False])
    assert left == {made: {0: HALF}, copied: {0: HALF}, other: {}}


# --- what is planned ---------------------------------------------------------------------------


def test_a_peak_is_the_largest_of_its_sums():
    one, other, fixed = Term(60, (("a", 0),)), Term(30, (("b", 0), ("c", 1))), Term(20, ())
    peak = Peak.of([(other, fixed), (one, fixed)])
    assert (peak.cost, peak.dims) == (80, (("a", 0), ("b", 0), ("c", 1)))
    assert peak.saved([1, 0, 0]) == 0  # the other sum is as large as it was
    assert peak.saved([0.5, 1, 1]) == 30
    assert peak.saved([0, 1, 0.5]) == 80 - 35
    assert peak.saved([0, 0, 0]) == 60
    assert sum(part.cost for part in peak.parts) == (80 + 50) / 2


def budget_of(ratio):
    job = job_of(Net(), example_input=X, exclude=["b"])
    peak, axes = peak_and_axes(job)
    return axes, Budget(ratio, "memory", peak.cost, (peak,))


def planned(ratio, also=()):
    axes, budget = budget_of(ratio)
    scores = [torch.arange(axis.size, dtype=torch.float64) for axis in axes]
    plan = make_plan(axes, scores, budget, multiple=1, also=also, scope="model")
    return {name: len(kept) for name, kept in plan.kept.items()}, plan.got


def test_only_what_holds_too_much_shrinks():
    """At most 80 values may be held: the first layer's 60 and the 6 made of them never matter."""
    sizes, got = planned(1 - 80 / 106)
    assert sizes == {"a": 60, "c": 74}
    assert got == pytest.approx(1 - 80 / 106)
    assert planned(1 - 50 / 106)[0] == {"a": 44, "c": 44}


def test_a_larger_ratio_never_gets_less():
    found = [planned(ratio / 20)[1] for ratio in range(1, 16)]
    assert found == sorted(found)
    assert all(got >= ratio / 20 - CLOSE_ENOUGH for ratio, got in enumerate(found, start=1))


def test_what_a_slice_saves_is_counted_at_all_moments():
    axes, budget = budget_of(0.3)
    prices = {axis.name: saved_by_one(axis, budget.terms) for axis in axes}
    assert prices["a"] > 0  # though it does not touch the peak
    assert prices["c"] == pytest.approx(2 * prices["a"])  # the second is there when it is read, too


def test_what_is_out_of_reach_says_what_is_within():
    with pytest.raises(OutOfReach, match=r"at most 0\.\d+ .*no axis reaches are 0\.0\d+ of it"):
        planned(0.99)


# --- whole runs --------------------------------------------------------------------------------


def test_the_last_stages_stay_where_the_first_hold_the_peak():
    result = prune("convnext_micro", "magnitude", 0.2, by="memory")
    held = result.rounds[-1].footprint
    assert result.got == held.removed == pytest.approx(held.predicted)
    assert held.removed >= 0.2 - CLOSE_ENOUGH
    stays = [len(kept) == result.plan.sizes[name] for name, kept in result.plan.kept.items()]
    assert not stays[0]
    assert all(stays[4:])
    assert result.warnings == ()


@pytest.mark.parametrize("arch", ["swin_micro", "vit_micro", "resnet_micro"])
def test_memory_is_met_beside_another_budget(arch):
    kinds = ["conv", "block"] if arch == "resnet_micro" else ["mlp", "head", "width", "block"]
    one = prune(arch, "influence", 0.2, axes=kinds, calibration=32)
    both = prune(arch, "influence", 0.2, axes=kinds, calibration=32, also={"memory": 0.4})
    example = one.example
    dense = both.rounds[-1].footprint.dense
    assert 1 - live_peak(one.model, example) / dense < 0.4 - CLOSE_ENOUGH
    assert 1 - live_peak(both.model, example) / dense >= 0.4 - CLOSE_ENOUGH
    assert both.got >= 0.2 - CLOSE_ENOUGH
    assert both.parity.holds
    assert both.warnings == ()


def test_rounds_lead_to_the_same_peak():
    result = prune("vit_micro", "magnitude", 0.2, by="memory", steps=2)
    assert [one.footprint.asked for one in result.rounds] == [pytest.approx(0.175), 0.2]
    assert result.got == result.rounds[-1].footprint.removed >= 0.2 - CLOSE_ENOUGH
    assert result.rounds[-1].footprint.predicted == pytest.approx(result.got)


def test_a_model_that_holds_more_than_was_predicted_is_told_of(monkeypatch):
    monkeypatch.setattr(footprints, "live_peak", lambda *_: 1_200_000)
    (said,) = prune("vit_micro", "magnitude", 0.3, also={"memory": 0.2}).warnings
    assert said.startswith("Asked to remove 20.0% of the peak memory, predicted 20.")
    assert "got 2.3%" in said


def test_memory_is_that_of_the_whole_model():
    for asked in ({"by": "memory"}, {"also": {"memory": 0.2}}):
        with pytest.raises(BudgetError, match=r"pass include=\['a\.\*'\]"):
            prune(Net(), "magnitude", 0.2, example_input=X, at="a", **asked)


REFUSED = {
    "--by memory --also memory=0.2": "memory is the budget already",
    "--also memory=1.2": "also asks for 1.2 of memory",
    "--by memory --granularity 2:4 --criterion magnitude": "save no memory by themselves",
    "--also memory=0.7": "by memory is out of reach",
    "--by memory --ratio 0.9 --no-timing": "removed, and tensors that no axis reaches",
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_gets_one_sentence(words, capsys):
    assert REFUSED[words] in refused_by_run(words, capsys)


def test_where_nothing_is_within_reach_no_smaller_ratio_is_advised(capsys):
    words = "run --arch resnet_micro --axes block --exclude layer1.* --criterion influence"
    assert main([*words.split(), "--by", "memory"]) == 2
    said = capsys.readouterr().err
    assert "at most 0.000" in said
    assert "lower" not in said


def test_what_a_cut_saves_of_a_peak_is_not_said_of_one_axis(capsys):
    assert main(["sensitivity", "--arch", "vit_micro", "--by", "memory"]) == 2
    assert "got by 'memory'" in capsys.readouterr().err


def test_it_is_saved_and_shown(tmp_path, capsys):
    words = f"run --arch vit_micro --criterion magnitude --also memory=0.2 --out {tmp_path / 'it'}"
    assert main([*words.split(), "--no-evaluation", "--no-timing"]) == 0
    assert main(["show", str(tmp_path / "it")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("memory peak 1.23 MB to") == 2
    held = json.loads((tmp_path / "it" / "report.json").read_text())["rounds"][0]["footprint"]
    assert held["asked"] == 0.2
    assert held["dense"] > held["small"]
