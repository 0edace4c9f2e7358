"""Layers that compute their weight are made plain, and the model returns the same."""

from __future__ import annotations

import oracle
import pytest
import timm
import torch
from timm.layers import (
    CondConv2d,
    Conv2dSame,
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    StdConv2d,
    StdConv2dSame,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from prunekit.errors import ArtifactError
from prunekit.tracing.plain_layers import made_plain, named_plain, plain_layers


class Own(nn.Conv2d):
    """Standardises its weights as BiT's own code does."""

    def forward(self, x):
        v, m = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        weight = (self.weight - m) / torch.sqrt(v + 1e-10)
        rest = self.stride, self.padding, self.dilation, self.groups
        return F.conv2d(x, weight, self.bias, *rest)


class Unit(nn.Module):
    """Gives every output a weight of length 1."""

    def forward(self, weight):
        return weight / weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))


def unit(layer):
    parametrize.register_parametrization(layer, "weight", Unit())
    return layer


KINDS = {
    "std": lambda: StdConv2d(4, 6, 3, stride=2),
    "std same": lambda: StdConv2dSame(4, 6, 3, stride=2, bias=True),
    "std same, static": lambda: StdConv2dSame(4, 6, 3),
    "scaled": lambda: ScaledStdConv2d(4, 6, 3, gamma=1.7, dilation=2),
    "scaled same": lambda: ScaledStdConv2dSame(4, 6, (3, 5), stride=4, gamma=1.7),
    "scaled, groups": lambda: ScaledStdConv2d(4, 8, 3, groups=2),
    "one's own": lambda: Own(4, 6, 3, padding=1, padding_mode="zeros"),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv1d(4, 6, 3)),
    "unit, circular": lambda: unit(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")),
    "unit, linear": lambda: unit(nn.Linear(4, 6)),
    "unit, 3d": lambda: unit(nn.Conv3d(4, 6, (1, 3, 3), padding="same")),
    "weight norm by a hook": lambda: weight_norm(nn.Conv2d(4, 6, 3)),
    "spectral norm by a hook": lambda: spectral_norm(nn.Conv2d(4, 6, 3)),
    "mask by a hook": lambda: prune.l1_unstructured(nn.Conv2d(4, 6, 3), "weight", 0.5),
}


def made(kind):
    torch.manual_seed(0)
    model = nn.Sequential(KINDS[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 2)
    return model.eval()


def inputs(layer):
    if isinstance(layer, nn.Linear):
        return [torch.randn(2, 4)]
    dims = len(layer.kernel_size)
    return [torch.randn(2, 4, *(size + n for n in range(dims))) for size in (11, 12, 13, 14, 30)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_plain_layer_returns_the_same_for_inputs_of_every_size(kind):
    model = made(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    layers = plain_layers(model)
    plain = made_plain(model, layers)

    assert list(layers) == ["0"]
    assert type(plain[0]) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame)
    assert {name for name, _ in plain[0].named_parameters()} <= {"weight", "bias"}
    assert not plain[0]._forward_pre_hooks
    with torch.no_grad():
        for x in inputs(plain[0]):
            expected = model(x)
            assert expected.abs().max() > 0.1
            torch.testing.assert_close(plain(x), expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TwoProducts(nn.Linear):
    def forward(self, x):
        return F.linear(x, 2 * self.weight) + F.linear(x, self.weight)


class Afterwards(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight / self.weight.norm()).relu()


class OfItsInput(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * x.mean())


def set_by_others():
    layer = nn.Linear(4, 4)
    weight = layer.weight.detach().clone()
    del layer._parameters["weight"]
    layer.register_forward_pre_hook(lambda layer, _: setattr(layer, "weight", 2 * weight))
    layer.weight = weight
    return layer


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 4, 3),
        lambda: Conv2dSame(4, 4, 3, stride=2),
        lambda: CondConv2d(4, 4, 3, num_experts=2),
        lambda: TwoProducts(4, 4),
        lambda: Afterwards(4, 4),
        lambda: OfItsInput(4, 4),
        set_by_others,
    ],
)
def test_a_layer_that_is_plain_or_no_linear_map_stays(make):
    torch.manual_seed(0)
    assert plain_layers(nn.Sequential(make()).eval()) == {}


def test_a_layer_in_two_places_is_one_plain_layer_in_both():
    layer = StdConv2d(4, 4, 1)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)}).eval()
    plain = made_plain(model, plain_layers(model))
    assert type(plain["a"]) is nn.Conv2d
    assert plain["a"] is plain["b"][0]


def test_hooks_and_frozen_weights_stay_and_nobody_is_told_of_the_trials():
    model = nn.Sequential(StdConv2d(4, 4, 3).requires_grad_(False)).eval()
    told = []
    model[0].register_forward_hook(lambda *_: told.append("after"))
    model[0].register_forward_pre_hook(lambda *_: told.append("before"))

    plain = made_plain(model, plain_layers(model))

    assert told == []
    assert not plain[0].weight.requires_grad
    plain(torch.ones(1, 4, 5, 5))
    assert told == ["before", "after"]


def test_random_numbers_are_not_drawn():
    model = nn.Sequential(StdConv2d(4, 4, 3)).eval()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    plain_layers(model)
    assert torch.equal(torch.rand(1), expected)


def test_a_name_in_a_file_that_is_no_such_layer_is_a_sentence():
    model = nn.Sequential(StdConv2d(4, 4, 3), nn.Conv2d(4, 4, 3)).eval()
    assert list(named_plain(model, ["0"], "runs/a")) == ["0"]
    with pytest.raises(ArtifactError, match=r"runs/a says that layer '1' of Sequential was made"):
        named_plain(model, ["0", "1"], "runs/a")


TIMM = {
    "test_nfnet": {},
    "nf_resnet26": {},
    "nf_regnet_b0": {},
    "dm_nfnet_f0": {},
    "resnetv2_50x1_bit": {},
    "vit_small_r26_s32_224": {"img_size": 64},
}


@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm_return_the_same(name):
    torch.manual_seed(0)
    model = oracle.vary_(timm.create_model(name, num_classes=7, **TIMM[name]))
    layers = plain_layers(model)
    computed = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)
    assert list(layers) == [n for n, m in model.named_modules() if isinstance(m, computed)]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        found = made_plain(model, layers)(x)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
