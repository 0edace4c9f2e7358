"""Every registered plug-in against every public check."""

import pytest
import torch

from prunekit.adapters import ADAPTERS
from prunekit.criteria import CRITERIA
from prunekit.criteria.base import Criterion
from prunekit.testing import adapter_checks, criterion_checks, example_axes

CRITERION_CHECKS = [(name, check) for name in CRITERIA.names() for check in criterion_checks(name)]
ADAPTER_CHECKS = [(name, check) for name in ADAPTERS.names() for check in adapter_checks(name)]


@pytest.mark.parametrize(("name", "check"), CRITERION_CHECKS, ids=str)
def test_every_criterion_keeps_the_contract(name, check):
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
        "leaves weights and gradients untouched",
        "needs no more than it declares",
        "permutes its scores with the slices",
    ]


def test_the_checks_find_an_adapter_that_forgets_cached_attributes(monkeypatch):
    swin = ADAPTERS.get("swin")
    monkeypatch.setattr(type(swin), "fixup", lambda self, model, left: None)
    problems = [check.claim for check in adapter_checks(swin) if check.problem()]
    assert "removing equals masking: head" in problems
    assert "removing equals masking: mlp" not in problems


def test_example_axes_are_the_same_every_time():
    first, second = example_axes(), example_axes()
    assert all(
        (a.members[0].weight == b.members[0].weight).all()
        for a, b in zip(first, second, strict=True)
    )
