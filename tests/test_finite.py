"""No weight that is not a number goes in or out."""

import copy

import pytest
import torch
from conftest import toy
from torch import nn

from prunekit.errors import WeightsError
from prunekit.inputs.finite import check_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_parameter_that_is_not_a_number_is_named(value, dtype):
    model = toy("swin")[0].to(dtype)
    check_finite(model, "The model")
    with torch.no_grad():
        model.layers[1].blocks[0].mlp.fc1.weight[3, 2] = value
    said = r"The model has 1 weights in 'layers\.1\.blocks\.0\.mlp\.fc1\.weight' that are infinite"
    with pytest.raises(WeightsError, match=f"^{said}"):
        check_finite(model, "The model")


def test_weights_that_are_finite_until_they_are_rounded_are_found():
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight[0, 0] = 1e300
    check_finite(model, "The model")
    with pytest.raises(WeightsError, match="1 weights in 'weight'"):
        check_finite(copy.deepcopy(model).float(), "The model")


def test_buffers_may_be_masks_and_bounds_and_nothing_else():
    model = nn.BatchNorm1d(3)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    model.register_buffer("bound", torch.tensor(torch.inf))
    model.register_buffer("flags", torch.tensor([True]))
    model.register_buffer("empty", torch.empty(0))
    check_finite(model, "The model")
    model.running_var[1] = torch.nan
    with pytest.raises(WeightsError, match="1 weights in 'running_var' that are"):
        check_finite(model, "The model")
