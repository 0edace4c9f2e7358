"""Every registered plug-in against every public check."""

from dataclasses import replace
from operator import attrgetter

import pytest
import torch

from prunekit.adapters import ADAPTERS
from prunekit.criteria import CRITERIA
from prunekit.criteria.base import Criterion
from prunekit.repairs import REPAIRS
from prunekit.testing import adapter_checks, criterion_checks, example_axes, repair_checks

CRITERION_CHECKS = [(name, check) for name in CRITERIA.names() for check in criterion_checks(name)]
REPAIR_CHECKS = [(name, check) for name in REPAIRS.names() for check in repair_checks(name)]
ADAPTER_CHECKS = [(name, check) for name in ADAPTERS.names() for check in adapter_checks(name)]


@pytest.mark.parametrize(("name", "check"), CRITERION_CHECKS, ids=str)
def test_every_criterion_keeps_the_contract(name, check):
    check()


@pytest.mark.parametrize(("name", "check"), REPAIR_CHECKS, ids=str)
def test_every_repair_keeps_the_contract(name, check):
    check()


@pytest.mark.parametrize(("name", "check"), ADAPTER_CHECKS, ids=str)
def test_every_adapter_keeps_the_contract(name, check):
    check()


def _broken(axes):
    axes[0].members[0].weight.mul_(2)
    return [torch.arange(axis.size) * axis.members[0].grad.sum() for axis in axes]


def test_the_checks_find_a_broken_criterion():
    problems = [
        check.claim for check in criterion_checks(Criterion("broken", _broken)) if check.problem()
    ]
    assert problems == [
        "leaves weights, gradients and statistics untouched",
        "needs no more than it declares",
        "permutes its scores with the slices",
        "scores models of every family",
    ]


def test_a_criterion_is_held_to_single_weights_if_it_says_that_it_can_score_them():
    def by_position(axes):
        return [torch.arange(axis.size) for axis in axes]

    def all_claims(function, level):
        return criterion_checks(Criterion("own", function, weight_level=level))

    assert not any("single" in check.claim for check in all_claims(by_position, False))
    of_slices, of_both = (len(all_claims(by_position, level)) for level in (False, True))
    assert of_both - 1 == 2 * (of_slices - 1)  # the last claim, about models, covers both levels
    problems = [check.claim for check in all_claims(by_position, True) if check.problem()]
    assert problems == [
        "permutes its scores with the slices",
        "permutes its scores with the slices, of single weights",
    ]
    fluctuation = replace(CRITERIA.get("flap"), weight_level=True)  # goes by `index`
    problems = [check.claim for check in criterion_checks(fluctuation) if check.problem()]
    assert problems
    assert all("single weights" in claim or "models" in claim for claim in problems)


def test_writing_to_a_matrix_is_found():
    def writes(axes):
        found = [axis.members[0].per_slice(axis.members[0].weight) for axis in axes]
        return [score.mul_(2) for score in found] if axes[0].of_weights else found

    checks = criterion_checks(Criterion("own", writes, weight_level=True))
    problems = [check.claim for check in checks if check.problem()]
    assert "leaves weights, gradients and statistics untouched, of single weights" in problems


READERS = {
    "gradients": lambda m: m.grad,
    "squared_gradients": lambda m: m.grad_square,
    "activations": lambda m: m.inputs.mean + m.outputs.mean,
}


@pytest.mark.parametrize("declared", ["nothing", *READERS])
@pytest.mark.parametrize("need", READERS)
def test_the_checks_find_a_criterion_that_needs_more_than_it_declares(need, declared):
    def reads(axes):
        return [axis.reduce(lambda m: READERS[need](m) * m.weight) for axis in axes]

    checks = criterion_checks(Criterion("reads", reads, needs=declared))
    problems = [check.claim for check in checks if check.problem()]
    wrong = ["needs no more than it declares", "scores models of every family"]
    assert problems == ([] if need == declared else wrong)


MOMENTS = ["inputs.mean", "inputs.variance", "outputs.mean", "outputs.variance"]


@pytest.mark.parametrize("field", ["weight", "index", "grad", "grad_square", *MOMENTS])
def test_the_checks_find_a_criterion_that_writes_to(field):
    def writes(axes):
        for axis in axes:
            attrgetter(field)(axis.voters[-1]).mul_(2)
        return [torch.arange(axis.size) for axis in axes]

    checks = criterion_checks(Criterion("writes", writes, needs="activations"))
    found = [check for check in checks if "untouched" in check.claim]
    assert "was changed" in found[0].problem()


def test_the_checks_find_an_adapter_that_forgets_cached_attributes(monkeypatch):
    swin = ADAPTERS.get("swin")
    monkeypatch.setattr(type(swin), "fixup", lambda self, model, left: None)
    problems = [check.claim for check in adapter_checks(swin) if check.problem()]
    assert "removing equals masking: head" in problems
    assert "removing equals masking: mlp" not in problems


def test_the_checks_find_an_adapter_that_cannot_be_repaired(monkeypatch):
    vit = ADAPTERS.get("vit")
    right = type(vit).blocks
    monkeypatch.setattr(type(vit), "blocks", lambda self, model: right(self, model)[::-1])
    problems = [check.claim for check in adapter_checks(vit) if check.problem()]
    assert problems == ["names blocks that run one after the other", "can be repaired"]


def test_example_axes_are_the_same_every_time():
    first, second = example_axes(), example_axes()
    assert all(
        (a.members[0].weight == b.members[0].weight).all()
        for a, b in zip(first, second, strict=True)
    )
