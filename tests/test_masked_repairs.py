"""Repairs of models in which single weights became zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import toy
from torch import nn

from prunekit import load, prune
from prunekit.errors import RepairError
from prunekit.repairs import REPAIRS
from prunekit.repairs.base import Repair
from prunekit.repairs.masked import masked_changes
from prunekit.testing.repairs import example_layer


def test_masked_changes_solve_every_output_by_itself():
    torch.manual_seed(0)
    x = torch.randn(40, 9).double() @ torch.randn(9, 9).double()
    inputs = x.T @ x / 40
    missing, mask = torch.randn(6, 9).double(), torch.rand(6, 9) < 0.6
    mask[0], mask[1] = False, True  # nothing stays, and everything
    ridges = torch.tensor([0.001, 0.1, 10.0]).double()
    found = masked_changes(missing, inputs, ridges, mask)
    for number, ridge in enumerate(ridges.tolist()):
        for row in range(6):
            stays = mask[row].numpy()
            system = inputs.numpy()[np.ix_(stays, stays)] + ridge * np.eye(stays.sum())
            expected = np.zeros(9)
            expected[stays] = np.linalg.solve(system, missing[row].numpy()[stays])
            np.testing.assert_allclose(found[number, row], expected, 1e-4, 1e-6)


def test_directions_without_images_stay_as_they_are():
    torch.manual_seed(0)
    x = torch.randn(40, 3).double()
    x = torch.cat([x, torch.zeros(40, 2).double()], 1)  # two inputs never vary
    weight = torch.randn(4, 5).double()
    change = weight @ (x.T @ x / 40)
    found = masked_changes(
        change, x.T @ x / 40, torch.tensor([1e-6]).double(), torch.ones(4, 5, dtype=torch.bool)
    )
    assert not found[0, :, 3:].any()
    torch.testing.assert_close(found[0, :, :3], weight[:, :3], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["vit", "swin", "convnext"])
@pytest.mark.parametrize("granularity", ["weight", "2:4"])
def test_zeros_stay_and_outputs_come_nearer(family, granularity):
    model, images = toy(family)
    batch = torch.cat([images, images.flip(-1), images.roll(3, -1), images.roll(5, -2)])
    options = {"granularity": granularity, "data": [batch], "example_input": images}
    ratio = None if granularity == "2:4" else 0.4
    plain = prune(model, "magnitude", ratio, **options)
    repaired = prune(model, "magnitude", ratio, repair="lstsq", **options)
    for name, kept in repaired.masks.kept.items():
        assert torch.equal(kept, plain.masks.kept[name])
        assert not repaired.model.get_parameter(name)[~kept].any(), name
    with torch.no_grad():
        dense, *others = (one(batch) for one in (model, plain.model, repaired.model))
    before, after = ((other - dense).square().sum() for other in others)
    assert after < 0.6 * before
    masked = {name.removesuffix(".weight") for name in repaired.masks.kept}
    assert masked <= set(repaired.rounds[-1].repaired)


def test_groups_of_convolutions_are_refitted_within_their_masks():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()
    images = torch.randn(16, 3, 12, 12)
    options = {"granularity": "weight", "data": [images], "example_input": images[:1]}
    plain = prune(model, "magnitude", 0.5, **options)
    repaired = prune(model, "magnitude", 0.5, repair="lstsq", **options)
    with torch.no_grad():
        dense, *others = (one(images) for one in (model, plain.model, repaired.model))
    before, after = ((other - dense).square().sum() for other in others)
    assert after < 0.5 * before
    # The BatchNorm takes up the shift that the convolution, without a bias, cannot.
    assert not torch.equal(repaired.model[3].running_mean, model[3].running_mean)


def test_a_repaired_model_with_zeros_is_saved_and_loaded(tmp_path):
    model, images = toy("vit")
    result = prune(
        model, "dimap", 0.4, granularity="weight", repair="lstsq", data=[images],
        example_input=images,
    )  # fmt: skip
    assert result.sparsity.nonzero == sum(int(p.count_nonzero()) for p in result.model.parameters())
    result.save(tmp_path / "masked")
    again = load(tmp_path / "masked", model=model)
    with torch.no_grad():
        assert torch.equal(again(images), result.model(images))


def test_the_ridge_of_many_outputs_is_chosen_on_some(monkeypatch):
    from prunekit.repairs import lstsq as module

    layer = example_layer(lost=0)
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    layer, *halves = (replace(o, weight=o.weight * mask, mask=mask) for o in (layer, *layer.halves))
    layer = replace(layer, halves=tuple(halves))
    whole = REPAIRS.get("lstsq").function(layer)
    monkeypatch.setattr(module, "OUTPUTS", 2)
    assert module._sample(layer).weight.shape == (2, 12)
    assert all(half.mask.shape == (2, 12) for half in module._sample(layer).halves)
    part = REPAIRS.get("lstsq").function(layer)
    assert part[0].shape == whole[0].shape
    assert layer.error(*part) < layer.error(layer.weight, layer.bias)


def test_a_repair_that_loses_a_zero_is_refused():
    def fills(layer):
        return layer.weight + 1, layer.bias

    repair = Repair("fills", fills, masks=True)
    model, images = toy("vit")
    with pytest.raises(RepairError, match="holds at zero"):
        prune(
            model, "magnitude", 0.3, granularity="weight", repair=repair, data=[images],
            example_input=images,
        )  # fmt: skip
