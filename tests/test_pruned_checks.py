"""What a pruned model promises is checked, and a model that breaks a promise is found out."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from prunekit import prune
from prunekit.testing import pruned_checks

X = torch.randn(1, 3, 64, 64)


def pair(name="test_resnet"):
    torch.manual_seed(0)
    large = timm.create_model(name, num_classes=7).eval()
    return prune(large, "magnitude", 0.3, example_input=X, multiple=1).model, large


def problems(small, large):
    found = {check.claim: check.problem() for check in pruned_checks(small, large, X)}
    return {claim: problem for claim, problem in found.items() if problem}


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_byobnet", "mobilenetv3_small_050"]
)
def test_pruned_models_of_timm_do_all_that_the_large_ones_do(name):
    assert problems(*pair(name)) == {}


def own_forward(self, x):
    return self.fc(self.global_pool(self.forward_features(x)))


def odd_(model, **methods):
    model.__class__ = type("Odd", (type(model),), methods)


def nan_(model):
    next(model.parameters()).data.fill_(float("nan"))


def frozen_(model):
    model.fc.weight.requires_grad_(False)


def other_width_(model):
    model.num_features += 1


def without_classifier_(model):
    model.reset_classifier = lambda *_: None


def other_head_(model):
    odd_(model, forward_head=lambda self, x: 2 * self.fc(self.global_pool(x)), forward=own_forward)


def misnamed_(model):
    model.pretrained_cfg = {**model.pretrained_cfg, "classifier": "head"}


def other_stages_(model):
    model.feature_info[0] = {**model.feature_info[0], "num_chs": 1}


def choosing_(model):
    odd_(model, forward=lambda self, x: own_forward(self, x) if x.sum() > -1e9 else x)


BREAKS = {
    nan_: "returns as many finite numbers",
    frozen_: "trains the same parameters",
    other_width_: "takes no classifier, and knows how many features are left",
    without_classifier_: "takes another classifier",
    other_head_: "computes its output from its features",
    misnamed_: "names its stem and its classifier",
    other_stages_: "returns features of each stage, as wide as it says",
    choosing_: "is traced by torch.fx",
}


@pytest.mark.parametrize(
    ("break_", "claim"), BREAKS.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_a_model_that_breaks_a_promise_is_found_out(break_, claim):
    small, large = pair()
    break_(small)
    assert claim in problems(small, large)


def test_what_the_large_model_does_not_do_is_not_asked_of_the_small_one():
    small, large = pair()
    for model in (small, large):
        other_stages_(model)
        misnamed_(model)
    assert problems(small, large) == {}


def test_models_are_not_modified():
    small, large = pair()
    before = copy.deepcopy([model.state_dict() for model in (small, large)])
    problems(small, large)
    for model, state in zip((small, large), before, strict=True):
        assert isinstance(model.fc, nn.Linear)
        assert model.fc.out_features == 7
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
