"""Repairs: against plain NumPy, against brute force, and on real models."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ATTENTIVE, FAMILIES, TOYS, adapter_of, kinds_of, of_kind, random_plan, traced
from references import least_squares, logits_error
from timm.layers import Conv2dSame, ScaledStdConv2d
from torch import nn

from prunekit import prune, repair
from prunekit.cutting.shrink import shrunk
from prunekit.errors import AdapterError, DataError, RepairError
from prunekit.planning.left import positions_left
from prunekit.recovery.reconstruct import repair_
from prunekit.repairs import REPAIRS
from prunekit.repairs.base import Repair
from prunekit.repairs.given import Product
from prunekit.repairs.lstsq import RIDGES, low_rank
from prunekit.statistics.covariance import TILE, Covariance, gram
from prunekit.statistics.unfolding import NoLinearMap, patches, rows
from prunekit.statistics.walk import Walk
from prunekit.testing import example_layer, repair_checks

LSTSQ, BIAS = REPAIRS.get("lstsq"), REPAIRS.get("bias")


def images(name: str, count: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of noise that fit a toy; the labels are never to be looked at."""
    shape = traced(name)[1].shape[1:]
    drawn = torch.randn(count, *shape, generator=torch.Generator().manual_seed(7))
    return [(batch, torch.full((len(batch),), -1)) for batch in drawn.split(5)]


def repaired(name, kind, repair=LSTSQ, ratio=0.4, blocks=None, data=None):
    """Prune the axes of one kind of a toy at random, and repair it."""
    model, _, axes = traced(name)
    axes, adapter = of_kind(axes, kind), adapter_of(name)
    plan = random_plan(axes, ratio)
    small = shrunk(model, axes, plan, adapter).eval()
    blocks = adapter.blocks(model) if blocks is None else blocks
    gains = repair_(small, model, axes, plan, repair, blocks, data or images(name)).layers
    return model, small, axes, plan, gains


def seen(model, layer, batches):
    """Return what a layer gets and gives, by a hook of the test's own, as 2-D arrays."""
    found = []
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda m, x, y: found.append((x[0], y)))
    with torch.no_grad():
        for batch, _ in batches:
            model(batch)
    handle.remove()
    return tuple(
        np.concatenate([part.reshape(-1, part.shape[-1]).numpy() for part in side]).astype(float)
        for side in zip(*found, strict=True)
    )


def distance(model, small, batches):
    with torch.no_grad():
        pairs = [(model(batch), small(batch)) for batch, _ in batches]
    return float(torch.cat([a - b for a, b in pairs]).square().mean())


# --- the numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["swin", "vit"])
@pytest.mark.parametrize("layer", ["mlp.fc2", "attn.proj"])
def test_a_refitted_layer_is_the_ridge_regression_of_what_it_now_sees(family, layer):
    repair = LSTSQ.configure(ridge=0.01)
    model, small, axes, plan, _ = repaired(family, "all", repair)
    name = next(n for n, _ in model.named_modules() if n.endswith(f"0.{layer}"))
    left = positions_left(axes, plan)[f"{name}.weight"]
    outputs, inputs = left[0].numpy(), left[1].numpy()
    _, y = seen(model, name, images(family))
    x, _ = seen(small, name, images(family))
    weight = model.get_submodule(name).weight.detach().double().numpy()[np.ix_(outputs, inputs)]
    expected = least_squares(x, y[:, outputs], weight, 0.01)
    found = small.get_submodule(name)
    np.testing.assert_allclose(found.weight.detach(), expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.bias.detach(), expected[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["swin", "vit"])
def test_queries_are_refitted_with_the_scale_that_their_fewer_dimensions_ask_for(family):
    repair = replace(LSTSQ.configure(ridge=0.01), product=None)
    model, small, axes, plan, _ = repaired(family, "all", repair, data=images(family, 40))
    name = next(n for n, _ in model.named_modules() if n.endswith("0.attn.qkv"))
    outputs, inputs = (positions_left(axes, plan)[f"{name}.weight"][dim].numpy() for dim in (0, 1))
    attn, now = (m.get_submodule(name.removesuffix(".qkv")) for m in (model, small))
    # Attention divides by the root of the new dimension; it was meant to be that of the old.
    scale = (now.scale / attn.scale) ** -1
    assert scale < 0.95
    factors = np.where(outputs < len(attn.qkv.weight) // 3, scale, 1.0)
    x, y = (seen(m, name, images(family, 40)) for m in (small, model))
    weight = attn.qkv.weight.detach().double().numpy()[np.ix_(outputs, inputs)]
    expected = least_squares(x[0], y[1][:, outputs] * factors, weight * factors[:, None], 0.01)
    np.testing.assert_allclose(now.qkv.weight.detach(), expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(now.qkv.bias.detach(), expected[1], rtol=1e-3, atol=1e-4)


def test_a_refitted_convolution_is_the_ridge_regression_of_its_patches():
    repair = LSTSQ.configure(ridge=0.01)
    model, small, axes, plan, _ = repaired("convnext", "all", repair, data=images("convnext", 40))
    name = "stages.1.downsample.1"  # 2 x 2, in steps of 2
    left = positions_left(axes, plan)[f"{name}.weight"]
    weight = model.get_submodule(name).weight.detach().double()[left[0]][:, left[1]].numpy()
    found = small.get_submodule(name)
    x, y = (_pixels(m, name, images("convnext", 40)) for m in (small, model))
    expected = least_squares(x[0], y[1][:, left[0]], weight.reshape(len(weight), -1), 0.01)
    shown = found.weight.detach().flatten(1)
    np.testing.assert_allclose(shown, expected[0], rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(found.bias.detach(), expected[1], rtol=1e-2, atol=1e-3)


def _pixels(model, layer, batches):
    """Return the 2 x 2 patches a convolution gets, and what it makes of each, as 2-D arrays."""
    found = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda m, x, y: found.append((x[0].double().numpy(), y.double().numpy()))
    )
    with torch.no_grad():
        for batch, _ in batches:
            model(batch)
    handle.remove()
    patches_, pixels = [], []
    for x, y in found:
        n, channels, height, width = x.shape
        cells = x.reshape(n, channels, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 1, 3, 5)
        patches_.append(cells.reshape(-1, 4 * channels))
        pixels.append(y.transpose(0, 2, 3, 1).reshape(-1, y.shape[1]))
    return np.concatenate(patches_), np.concatenate(pixels)


@pytest.mark.parametrize("family", FAMILIES)
def test_bias_makes_every_repaired_layer_s_mean_output_that_of_the_dense_one(family):
    model, small, axes, plan, gains = repaired(family, "mlp", BIAS)
    assert gains
    for name in gains:
        outputs = positions_left(axes, plan)[f"{name}.weight"].get(0)
        dense = seen(model, name, images(family))[1].mean(0)
        now = seen(small, name, images(family))[1].mean(0)
        np.testing.assert_allclose(now, dense if outputs is None else dense[outputs], atol=1e-4)


def test_fitting_on_dense_inputs_is_another_thing():
    repair = LSTSQ.configure(ridge=0.01)
    model, small, axes, plan, _ = repaired("vit", "mlp", replace(repair, inputs="dense"))
    name = "blocks.1.mlp.fc2"
    inputs = positions_left(axes, plan)[f"{name}.weight"][1].numpy()
    x, y = seen(model, name, images("vit"))
    weight = model.get_submodule(name).weight.detach().double().numpy()[:, inputs]
    expected = least_squares(x[:, inputs], y, weight, 0.01)
    found = small.get_submodule(name).weight.detach()
    np.testing.assert_allclose(found, expected[0], rtol=1e-3, atol=1e-4)
    sequential = repaired("vit", "mlp", repair)[1].get_submodule(name).weight
    assert (sequential - found).abs().max() > 1e-2


def test_what_is_a_combination_of_what_stays_is_recovered_exactly():
    model, _, axes = traced("vit")
    axes = of_kind(axes, "mlp")
    name = "blocks.0.mlp"
    model = _with_twins(model, f"{name}.fc1")
    half = axes[0].size // 2
    kept = {a.name: tuple(range(a.size if a.name != name else half)) for a in axes}
    plan = replace(random_plan(axes, 0.4), kept=kept)
    small = shrunk(model, axes, plan, adapter_of("vit")).eval()
    data = images("vit", 40)
    assert distance(model, small, data) > 1e-3
    repair_(small, model, axes, plan, LSTSQ.configure(ridge=1e-7), ["blocks.0", "blocks.1"], data)
    assert distance(model, small, data) < 1e-8


def _with_twins(model, layer):
    """Make the second half of a layer's outputs repeat the first."""
    model = copy.deepcopy(model)
    fc1 = model.get_submodule(layer)
    half = len(fc1.weight) // 2
    with torch.no_grad():
        fc1.weight[half:], fc1.bias[half:] = fc1.weight[:half], fc1.bias[:half]
    return model


def test_low_rank_logits_are_the_best_of_their_rank():
    generator = torch.Generator().manual_seed(0)
    q, k = (
        (torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator)).double()
        for _ in "qk"
    )
    centred = k - k.mean(0)
    product = Product("head", q.T @ q / 500, centred.T @ centred / 500, torch.tensor([0, 2, 5]))
    found = low_rank(product)
    assert found[0].shape == found[1].shape == (3, 6)
    best = logits_error(q.numpy(), centred.numpy(), *(side.numpy() for side in found))
    assert product.error(*found) == pytest.approx(best, rel=1e-6)
    # Eckart and Young: no other map of this rank does better.
    for _ in range(50):
        other = [side + 0.05 * torch.randn(3, 6, generator=generator) for side in found]
        assert logits_error(q.numpy(), centred.numpy(), *(o.numpy() for o in other)) > best
    chosen = torch.eye(6).double()[product.kept]
    assert product.error(chosen, chosen) > best


def test_ridges_are_chosen_on_images_that_were_not_fitted():
    """Few, noisy samples: the least ridge fits them best, and others worst."""
    plenty, few = noisy(2000), noisy(12)
    truth = noisy(4000, seed=9)
    unrepaired = truth.error(truth.weight, truth.bias)
    assert truth.error(*LSTSQ.configure(ridge=1e-6)(few)) > 1.2 * unrepaired
    assert truth.error(*LSTSQ(few)) <= 1.05 * unrepaired
    assert truth.error(*LSTSQ(plenty)) < 0.8 * unrepaired


def test_twice_the_images_get_half_the_ridge_that_was_chosen_on_one_half():
    layer = noisy(200)
    found = LSTSQ(layer)[0]
    fits = {ridge: LSTSQ.configure(ridge=ridge)(layer)[0] for ridge in RIDGES}
    halved = {ridge: LSTSQ.configure(ridge=ridge / 2)(layer)[0] for ridge in RIDGES}
    assert any(torch.equal(found, weight) for weight in halved.values())
    assert not any(torch.equal(found, weight) for weight in fits.values())


def test_where_only_the_mean_is_off_only_the_bias_moves():
    layer = noisy(12, lost=0.0, offset=3.0)
    weight, bias = LSTSQ(layer)
    assert torch.equal(weight, layer.weight)
    assert (bias - layer.bias).abs().min() > 0.5


def noisy(samples, seed=3, lost=0.5, offset=0.0):
    """Return a layer half of whose outputs no linear map can explain."""
    generator = torch.Generator().manual_seed(0)
    weight, missing = torch.randn(2, 4, 30, generator=generator).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 30, generator=generator).double()
    noise = (4 if lost else 1) * torch.randn(samples, 4, generator=generator)
    y = offset + x @ (weight + lost * missing).T + noise
    moments = Covariance()
    moments.add(x, y, samples)
    layer = example_layer()
    parts = [
        replace(
            layer,
            weight=weight,
            bias=torch.zeros(4).double(),
            halves=(),
            **dict(
                zip(
                    ("input_mean", "output_mean", "output_variance", "covariance", "cross"),
                    moments.finish(*halves),
                    strict=True,
                )
            ),
        )
        for halves in ((0,), (1,), (0, 1))
    ]
    return replace(parts[2], halves=tuple(parts[:2]))


def test_without_a_bias_the_weight_takes_up_the_means_as_well_as_can_be():
    layer = example_layer(bias=False)
    weight, bias = LSTSQ.configure(ridge=1e-9)(layer)
    assert bias is None
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = weight + 0.01 * torch.randn(weight.shape, generator=generator)
        assert layer.error(weight, None) < layer.error(other, None)


def test_of_one_image_nothing_is_concluded():
    layer = replace(example_layer(), halves=())
    weight, bias = LSTSQ(layer)
    assert torch.equal(weight, layer.weight)
    assert torch.equal(bias, layer.bias)


@pytest.mark.parametrize("kind", ["mlp", "all"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_few_images_are_enough_to_run(family, count, kind):
    *_, gains = repaired(family, kind, data=[images(family)[0][0][:count]])
    assert gains
    for name, gain in gains.items():
        assert 0 <= gain.after < 1e3, name


def test_few_images_in_a_real_model_are_enough_to_run():
    result = prune("vit_micro", "magnitude", 0.5, repair="lstsq", calibration=3)
    assert all(p.isfinite().all() for p in result.model.parameters())


def test_directions_that_rounding_makes_negative_count_as_empty():
    layer = example_layer()
    values, vectors = torch.linalg.eigh(layer.covariance)
    assert values.argmin() == 0
    negative = values.clone()
    negative[:3] = -1e-3 * values.mean()
    covariances = ((vectors * v) @ vectors.T for v in (negative, negative.clamp(min=0)))
    found, expected = (replace(layer, covariance=c) for c in covariances)
    ridge = LSTSQ.configure(ridge=1e-4)
    assert torch.linalg.cholesky_ex(found.covariance)[1]  # it is not positive definite
    missing = expected.cross - expected.weight @ found.covariance
    penalised = expected.covariance + 1e-4 * found.covariance.diagonal().mean() * torch.eye(8)
    change = torch.linalg.solve(penalised, missing.T).T
    torch.testing.assert_close(ridge(found)[0], layer.weight + change)


def test_moments_do_not_depend_on_batches_and_survive_a_large_mean():
    generator = torch.Generator().manual_seed(0)
    x = 1000 + 0.01 * torch.randn(64, 5, generator=generator)
    y = torch.randn(64, 3, generator=generator) + 7
    for size in (1, 8, 64):
        moments = Covariance()
        for a, b in zip(x.split(size), y.split(size), strict=True):
            moments.add(a, b, len(a))
        mean, out, variance, covariance, cross = moments.finish(0, 1)
        a, b = x.double().numpy(), y.double().numpy()
        joint = np.cov(a.T, b.T, bias=True)
        np.testing.assert_allclose(mean, a.mean(0), rtol=1e-7)
        np.testing.assert_allclose(out, b.mean(0), rtol=1e-6)
        np.testing.assert_allclose(variance, b.var(0), rtol=1e-4)
        np.testing.assert_allclose(covariance, joint[:5, :5], atol=2e-7)
        np.testing.assert_allclose(cross, joint[5:, :5], atol=2e-5)


def test_halves_are_whole_images():
    moments = Covariance()
    x = torch.arange(6.0).repeat_interleave(4).unsqueeze(1)  # 6 images of 4 positions each
    for batch in x.split(12):
        moments.add(batch, batch, 3)
    assert moments.samples == [12, 12]
    # The first batch gives its odd image to one half, the second to the other.
    assert [float(moments.finish(half)[0]) for half in (0, 1)] == pytest.approx([2.0, 3.0])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(3, 5, 3, stride=2, padding=1),
        nn.Conv2d(3, 5, 2, dilation=3),
        nn.Conv2d(3, 5, 1, bias=False),
        nn.Conv2d(4, 6, 3, groups=2, padding=1, stride=2),
        nn.Conv2d(4, 8, (3, 2), groups=4, dilation=(1, 2), stride=(2, 1)),
        nn.Conv2d(3, 5, 3, padding="same", dilation=2),
        nn.Conv2d(3, 5, 3, padding="valid"),
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"),
        Conv2dSame(3, 5, 3, stride=2),
        nn.Conv1d(3, 5, 3, padding=1),
        nn.Conv3d(3, 5, 2, stride=2),
    ],
    ids=str,
)
def test_a_layer_is_the_linear_map_of_its_patches(layer):
    sizes = {nn.Linear: (2, 4, 6), nn.Conv1d: (2, 3, 8), nn.Conv3d: (2, 3, 6, 6, 6)}
    channels = getattr(layer, "in_channels", 3)
    x = torch.randn(sizes.get(type(layer), (2, channels, 8, 9)))
    expected = rows(layer, layer(x))
    groups = getattr(layer, "groups", 1)
    weight = layer.weight.reshape(groups, len(layer.weight) // groups, -1)
    found = patches(layer, x) @ weight.mT
    found = found if layer.bias is None else found + layer.bias.view(groups, 1, -1)
    torch.testing.assert_close(found, expected)


# --- on models -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in TOYS for k in (*kinds_of(n), "all")])
def test_lstsq_brings_every_kind_of_pruned_toy_nearer_to_the_dense_one(name, kind):
    data = images(name, 60)
    model, small, axes, plan, gains = repaired(name, kind, data=data)
    cut = shrunk(model, axes, plan, adapter_of(name)).eval()
    assert gains
    assert distance(model, small, data) < distance(model, cut, data)
    for name, gain in gains.items():
        assert gain.after <= gain.before * (1 + 1e-6) + 1e-6, name


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_change_the_cost_of_a_repair_and_nothing_else(family):
    by_block, whole = (repaired(family, "all", blocks=blocks)[1] for blocks in (None, []))
    for (name, a), b in zip(by_block.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_that_misses_inputs_is_repaired_once_and_in_order(family):
    model, _, axes, plan, gains = repaired(family, "all")
    misses = {
        tensor.removesuffix(".weight")
        for tensor, dims in positions_left(axes, plan).items()
        if 1 in dims
        and model.get_parameter(tensor).shape[1] > len(dims[1])
        and tensor.endswith("weight")
    }
    assert misses <= set(gains)
    order = [name for name, _ in model.named_modules()]
    first = order.index(next(name for name in order if name in misses))
    depthwise = {n for n in order[first:] if getattr(model.get_submodule(n), "groups", 1) > 1}
    assert set(gains) - misses == {a.name for a in axes if a.spec.product} | depthwise
    order = [name for name in order if name in misses]
    assert [name for name in gains if name in misses] == order


@pytest.mark.parametrize("name", [n for n in ATTENTIVE if "head_dim" in kinds_of(n)])
def test_shortened_queries_and_keys_give_nearly_the_logits_there_were(name):
    data = images(name, 30)
    cut, fitted = (repaired(name, "head_dim", r, data=data)[1] for r in (BIAS, LSTSQ))
    model = traced(name)[0]
    assert distance(model, fitted, data) < distance(model, cut, data)
    gains = repaired(name, "head_dim", data=data)[4]
    logits = [gain for name, gain in gains.items() if name.endswith(".qk")]
    assert logits
    assert all(gain.after < gain.before for gain in logits)


SHORTENED = [name for name in ATTENTIVE if "head_dim" in kinds_of(name)]


@pytest.mark.parametrize("name", SHORTENED)
def test_queries_and_keys_that_need_fewer_dimensions_than_they_have_lose_nothing(name):
    """Whatever they are multiplied with, wherever they lie, and whatever the keys' mean is."""
    _, images_, axes = traced(name)
    axes = [axis for axis in axes if axis.kind in ("head", "head_dim")]
    plan = random_plan(axes, 0.4)
    model = _wasteful(name, axes, plan)
    data = images(name, 40)
    small = shrunk(model, axes, plan, adapter_of(name)).eval()
    cut = distance(model, small, data)
    assert cut > 1e-4
    repair_(small, model, axes, plan, LSTSQ, adapter_of(name).blocks(model), data)
    assert distance(model, small, data) < 1e-5 * cut
    with torch.no_grad():
        assert model(images_).abs().mean() > 1e-2


def _wasteful(name, axes, plan):
    """Make queries and keys of few dimensions, and all else that the plan removes unused."""
    model = copy.deepcopy(traced(name)[0])
    generator = torch.Generator().manual_seed(5)
    for axis in axes:
        kept = set(plan.kept[axis.name])
        if axis.spec.product:
            layer = model.get_submodule(axis.name.replace(".qk", ".qkv"))
            for rows_ in axis.voters[0].index.view(axis.spec.groups, -1, 2):  # (dim, 2)
                rank = len(kept) // axis.spec.groups
                _lower_(layer, rows_, rank, generator)
        for member in axis.members:
            if member.name.endswith("attn.proj.weight") and member.dim == 1:
                gone = [n for n in range(axis.size) if n not in kept]
                model.get_parameter(member.name).data[:, member.index[gone].flatten()] = 0
    return model


def _lower_(layer, rows_, rank, generator):
    for side in (0, 1):
        basis = torch.randn(len(rows_), rank, generator=generator)
        own = basis @ torch.randn(rank, layer.in_features, generator=generator)
        layer.weight.data[rows_[:, side]] = own / layer.in_features**0.5
        if layer.bias is not None:
            layer.bias.data[rows_[:, side]] = basis @ torch.randn(rank, generator=generator)
            # Any mean of the keys adds the same to all logits of a query.
            layer.bias.data[rows_[:, side]] += side * torch.randn(len(rows_), generator=generator)


@pytest.mark.parametrize("name", SHORTENED)
def test_what_queries_and_keys_lost_is_told_as_the_mean_over_heads(name):
    model, _, axes, plan, gains = repaired(name, "head_dim")
    axis = next(axis for axis in axes if axis.spec.product)  # the first block gets what it got
    outputs = seen(model, axis.name.replace(".qk", ".qkv"), images(name))[1]
    dim = axis.size // axis.spec.groups
    errors = []
    for group, pairs in enumerate(axis.voters[0].index.view(axis.spec.groups, dim, 2)):
        q, k = (outputs[:, pairs[:, side]] for side in (0, 1))
        own = [n - group * dim for n in plan.kept[axis.name] if n // dim == group]
        # Queries and keys are taken to be independent, as those of a whole data set nearly are.
        chosen = np.eye(dim)[own]
        errors.append(logits_error(q, k - k.mean(0), chosen, chosen))
    assert gains[axis.name].before == pytest.approx(np.mean(errors), rel=1e-3)


def test_only_queries_and_keys_that_were_cut_are_mixed():
    model, _, axes = traced("vit")
    plan = random_plan(axes, 0.4)
    whole = [axis for axis in axes if not axis.name.startswith("blocks.1.attn.")]
    kept = {a.name: plan.kept[a.name] if a in whole else tuple(range(a.size)) for a in axes}
    plan = replace(plan, kept=kept)
    small = shrunk(model, axes, plan, adapter_of("vit")).eval()
    gains = repair_(small, model, axes, plan, LSTSQ, ["blocks.0", "blocks.1"], images("vit")).layers
    assert "blocks.0.attn.qk" in gains
    assert "blocks.1.attn.qk" not in gains


def test_a_layer_comes_with_the_moments_of_either_half():
    layers = []
    watching = Repair("watching", lambda layer: layers.append(layer) or (layer.weight, layer.bias))
    repaired("vit", "mlp", watching, data=images("vit", 10))
    for layer in layers:
        one, other = layer.halves
        assert not torch.allclose(one.cross, other.cross)
        for field in ("input_mean", "output_mean"):
            mean = (getattr(one, field) + getattr(other, field)) / 2
            torch.testing.assert_close(mean, getattr(layer, field))
        assert torch.equal(one.weight, layer.weight)
    layers.clear()
    repaired("vit", "mlp", watching, data=images("vit", 1))
    assert [layer.halves for layer in layers] == [(), ()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_repair_does_not_touch_the_dense_model(family):
    before = {k: v.clone() for k, v in traced(family)[0].state_dict().items()}
    model, small, *_ = repaired(family, "all")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for module in [*model.modules(), *small.modules()]:
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_half_precision_models_are_repaired_in_their_own_precision():
    result = prune("vit_micro", ratio=0.5, repair="lstsq", calibration=8)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    model, _, axes = traced("vit")
    plan = random_plan(of_kind(axes, "mlp"), 0.4)
    half = copy.deepcopy(model).bfloat16()
    small = shrunk(half, of_kind(axes, "mlp"), plan, adapter_of("vit")).eval()
    data = [(x.bfloat16(), y) for x, y in images("vit")]
    repair_(small, half, of_kind(axes, "mlp"), plan, LSTSQ, ["blocks.0", "blocks.1"], data)
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}


def test_some_outputs_of_a_wide_layer_say_which_ridge_is_best():
    """Its outputs repeat those of a narrow one, of which the first is best left as it is."""
    layer = example_layer()
    weight, bias = torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
    weight[0] = torch.linalg.solve(layer.covariance, layer.cross[0])
    bias[0] = layer.output_mean[0] - weight[0] @ layer.input_mean
    halves = tuple(replace(half, weight=weight, bias=bias) for half in layer.halves)
    narrow = replace(layer, weight=weight, bias=bias, halves=halves)
    repeated = torch.arange(len(narrow.weight)).repeat(1 + 600 // len(narrow.weight))
    weight, bias = LSTSQ.function(narrow)
    wide = LSTSQ.function(narrow.of_outputs(repeated))
    torch.testing.assert_close(wide[0], weight[repeated])
    torch.testing.assert_close(wide[1], bias[repeated])


@pytest.mark.parametrize("columns", [TILE - 1, TILE + 1, 3 * TILE + 5])
def test_a_gram_matrix_of_any_size_is_the_product_with_itself(columns):
    x = torch.randn(2, 7, columns, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(x), x.mT @ x)


# --- the walk --------------------------------------------------------------------------


class Odd(nn.Module):
    """Runs one layer twice, one with a keyword, and one never."""

    def __init__(self):
        super().__init__()
        self.twice, self.keyword, self.never = (nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        return self.keyword(input=self.twice(self.twice(x)))


POINTS = [(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), None)]


def test_layers_come_in_the_order_of_their_first_run_and_those_that_never_run_not_at_all():
    walk = Walk(Odd(), Odd(), POINTS)
    assert walk.sections(["never", "keyword", "twice"], []) == [("", ["twice", "keyword"])]


def test_a_block_that_is_given_more_than_the_output_before_it_is_refused():
    with pytest.raises(AdapterError, match="'keyword' does not run on the output"):
        Walk(Odd(), Odd(), POINTS).sections([], ["keyword"])


def test_the_tenth_block_is_not_the_first():
    chain = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2)) for _ in range(12)))
    blocks = [str(number) for number in range(1, 11)]
    sections = Walk(chain, chain, POINTS).sections(["11.0", "10.0", "1.0", "0.0"], blocks)
    found = [(block, names) for block, names in sections if names]
    assert found == [("", ["0.0"]), ("1", ["1.0"]), ("10", ["10.0"]), ("", ["11.0"])]
    assert [block for block, _ in sections[1:-1]] == blocks


def test_the_large_model_runs_once_for_a_section_where_what_it_returns_can_be_held():
    """What runs after a layer may write into what it got and gave."""
    blocks = (nn.Sequential(nn.Hardtanh(), nn.Linear(2, 2), nn.ReLU(inplace=True)) for _ in "12")
    chain = nn.Sequential(*blocks)
    walk, points = Walk(chain, chain, POINTS), POINTS[0][0]
    walk.sections(["0.1", "1.1"], ["0", "1"])
    with torch.no_grad():
        walk.enter("0")
        runs = []
        handle = chain[0].register_forward_hook(lambda *_: runs.append(1))
        ((_, _, outputs, _),) = walk.seen("0.1", [])
        walk.enter("1")
        handle.remove()
        ((_, inputs, _, _),) = walk.seen("1.1")
        torch.testing.assert_close(outputs, chain[0][1](points.clamp(-1, 1)))
        torch.testing.assert_close(inputs, chain[0](points).clamp(-1, 1))
    assert outputs.min() < 0
    assert len(runs) == 2  # and once in the small model, which is the same here


@pytest.mark.parametrize("held", [0, 20_000, 60_000])
def test_what_is_held_of_the_large_model_changes_nothing(held, monkeypatch):
    """Batches of 1 and of 11 images: whether all fits is not to be judged by the first alone."""
    x = torch.cat([batch for batch, _ in images("vit")])
    data = [(x[:1], None), (x[1:], None)]
    whole = repaired("vit", "all", data=data)[1].state_dict()
    monkeypatch.setattr("prunekit.statistics.walk.HELD", held)
    for name, value in repaired("vit", "all", data=data)[1].state_dict().items():
        assert torch.equal(value, whole[name])


# --- what is refused -------------------------------------------------------------------


def test_no_images_is_an_error():
    with pytest.raises(DataError, match="no calibration images"):
        repaired("vit", "mlp", data=iter(()))


def test_blocks_that_are_no_chain_are_refused():
    with pytest.raises(AdapterError, match=r"'blocks.0' does not run on the output"):
        repaired("vit", "mlp", blocks=["blocks.1", "blocks.0"])
    with pytest.raises(AdapterError, match=r"'blocks.1.mlp' does not run on the output"):
        repaired("vit", "mlp", blocks=["blocks.0", "blocks.1.mlp"])


def test_a_layer_that_computes_its_weight_is_no_linear_map_of_its_own():
    with pytest.raises(NoLinearMap, match="computes its weight from the parameter"):
        patches(ScaledStdConv2d(4, 4, 3), torch.randn(1, 4, 8, 8))


@pytest.mark.parametrize("ridge", [-1.0])
def test_a_negative_ridge_is_refused(ridge):
    with pytest.raises(RepairError, match=r"'ridge'.*got -1.0; expected 0 or more"):
        LSTSQ.configure(ridge=ridge)(example_layer())


def test_wrong_weights_are_refused():
    short = Repair("short", lambda layer: (layer.weight[:, 1:], layer.bias))
    with pytest.raises(RepairError, match=r"'short'.*\(6, 7\).*expected \(6, 8\)"):
        short(example_layer())
    wild = Repair("wild", lambda layer: (layer.weight / 0, layer.bias))
    with pytest.raises(RepairError, match=r"'wild'.*NaN or infinite"):
        wild(example_layer())


def times(factor):
    return Repair("big", lambda layer: (layer.weight * factor, layer.bias))


def mixing(value):
    """Return a repair that mixes queries and keys by one value, and refits nothing."""

    def mixed(product):
        return (torch.full((len(product.kept), len(product.keys)), value, dtype=torch.float64),) * 2

    return Repair("big", lambda layer: (layer.weight, layer.bias), product=mixed)


@pytest.mark.parametrize(
    ("repair", "dtype", "message"),
    [
        (times(1e300), torch.float32, "in float32"),
        (times(1e6), torch.float16, "in float16"),
        (mixing(torch.nan), torch.float32, r"head \d' NaN or infinite"),
        (mixing(1e300), torch.float32, "attn.qkv' NaN or infinite in float32"),
    ],
    ids=["float32", "float16", "NaN in a mixture", "a large mixture"],
)
def test_what_is_not_finite_in_the_model_is_never_written(repair, dtype, message):
    model, _, axes = traced("vit")
    model, adapter = copy.deepcopy(model).to(dtype), adapter_of("vit")
    plan = random_plan(axes, 0.4)
    small = shrunk(model, axes, plan, adapter).eval()
    with pytest.raises(RepairError, match=rf"'big' \(test_repairs.*{message}"):
        repair_(small, model, axes, plan, repair, adapter.blocks(model), images("vit"))
    assert all(p.isfinite().all() for p in small.parameters())


def _adds_one_with_or_without_a_bias(layer):
    return layer.weight + 1, layer.bias


def _forgets_that_there_may_be_no_bias(layer):
    return layer.weight, layer.output_mean - layer.weight @ layer.input_mean


def _harms_only_without_a_bias(layer):
    return layer.weight * (5 if layer.bias is None else 1), layer.bias


def _differs_every_time(layer, calls=[]):  # noqa: B006  (that is what is wrong with it)
    calls.append(None)
    return layer.weight, layer.output_mean - layer.weight @ layer.input_mean + 1e-9 * len(calls)


def _writes_to_the_layer(layer):
    shifted = BIAS(layer)
    layer.output_variance.mul_(0.5)
    return shifted


def _divides_by_the_spread(layer):
    weight, bias = BIAS(layer)
    return weight + 0 * weight / layer.covariance.diagonal(), bias


def _minds_the_order(layer):
    """Refit the first of the inputs only."""
    lacking = (layer.cross - layer.weight @ layer.covariance)[:, 0]
    weight = layer.weight.clone()
    weight[:, 0] += lacking / layer.covariance[0, 0].clamp(min=1e-12)
    return weight, layer.output_mean - weight @ layer.input_mean


@pytest.mark.parametrize(
    ("function", "claims"),
    [
        (
            _adds_one_with_or_without_a_bias,
            ["no layer further from the dense one", "nothing where nothing was lost"],
        ),
        (
            _forgets_that_there_may_be_no_bias,
            ["layer's own shape", "no layer further from the dense one"],
        ),
        (_harms_only_without_a_bias, ["no layer further from the dense one"]),
        (_differs_every_time, ["same weights twice"]),
        (_writes_to_the_layer, ["untouched"]),
        (_divides_by_the_spread, ["inputs that never vary"]),
        (_minds_the_order, ["permutes its weights with the inputs"]),
    ],
)
def test_the_checks_find_a_repair_that_is_wrong(function, claims):
    def wrong(layer):  # in one way at a time
        if layer.bias is None and "bias" not in function.__name__:
            return layer.weight, None
        return function(layer)

    alone = [check for check in repair_checks(Repair("wrong", wrong)) if "model" not in check.claim]
    problems = [check.claim for check in alone if check.problem()]
    assert len(problems) == len(claims)
    for claim, problem in zip(claims, problems, strict=True):
        assert claim in problem


# --- repairs of others -----------------------------------------------------------------

HALVE = '''"""Halve what stays."""
from prunekit import repair

@repair("halve")
def halve(layer, *, by: float = 0.5):
    """Multiply the weights that stay."""
    return layer.weight * by, layer.bias
'''


@pytest.fixture
def halve(tmp_path, monkeypatch):
    """A repair in a package of its own, declared as an entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "halving-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halving\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prunekit.repairs]\nhalve = halving:halve\n")
    (tmp_path / "halving.py").write_text(HALVE)
    yield
    REPAIRS._loaded.pop("halve", None)
    sys.modules.pop("halving", None)


def repaired_by(given):
    """Return the weights of layers that missed inputs, as cut and as repaired, and the run."""
    options = {"axes": ["mlp"], "calibration": 4}
    plain, other = (
        prune("vit_micro", "magnitude", 0.3, repair=r, **options) for r in ("none", given)
    )
    names = list(other.rounds[0].repaired)
    assert names
    assert all(name.endswith("mlp.fc2") for name in names)
    pairs = [[r.model.get_submodule(name).weight for r in (plain, other)] for name in names]
    return pairs, other


def test_a_repair_in_a_package_of_its_own_is_found_by_name(halve):
    assert "halve" in REPAIRS.names()
    assert REPAIRS.summary("halve") == "Halve what stays."
    assert "halving" not in sys.modules
    pairs, result = repaired_by("halve:by=0.25")
    assert all(torch.equal(repaired, 0.25 * cut) for cut, repaired in pairs)
    assert (result.recipe["repair"], result.recipe["repair_options"]) == ("halve", {"by": 0.25})


def test_a_repair_of_one_s_own_is_used_by_name_or_itself():
    @repair("fourths")
    def fourths(layer):
        return layer.weight / 4, layer.bias

    try:
        for given in ("fourths", fourths):
            pairs, result = repaired_by(given)
            assert all(torch.equal(repaired, cut / 4) for cut, repaired in pairs)
            assert result.recipe["repair"] == "fourths"
    finally:
        REPAIRS._loaded.pop("fourths")


@pytest.mark.parametrize("blocks", [None, []], ids=["by_block", "whole"])
def test_layers_that_follow_are_refitted_by_repairs_that_say_so(blocks):
    model, small, _, _, gains = repaired("vit", "mlp", LSTSQ.configure(ridge=0.01), blocks=blocks)
    assert list(gains) == [
        "blocks.0.mlp.fc2",
        "blocks.1.attn.qkv",
        "blocks.1.attn.proj",
        "blocks.1.mlp.fc1",
        "blocks.1.mlp.fc2",
        "head",
    ]
    for name in ("blocks.1.attn.qkv", "blocks.1.attn.proj", "head"):
        (x, _), (_, y) = (seen(m, name, images("vit")) for m in (small, model))
        weight = model.get_submodule(name).weight.detach().double().numpy()
        expected = least_squares(x, y, weight, 0.01)
        found = small.get_submodule(name)
        np.testing.assert_allclose(found.weight.detach(), expected[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.bias.detach(), expected[1], rtol=1e-3, atol=1e-4)
    for name in ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj"):
        untouched = (m.get_submodule(name).weight for m in (model, small))
        assert torch.equal(*untouched), name
    assert list(repaired("vit", "mlp", BIAS)[4]) == ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2"]


def test_runs_with_a_repair_repeat_exactly_and_differ_from_those_without():
    first, second, none = (
        prune("vit_micro", ratio=0.5, repair=repair, calibration=16)
        for repair in ("lstsq", "lstsq", "none")
    )
    states = [result.model.state_dict() for result in (first, second, none)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert first.plan == none.plan
    changed = {k for k in states[0] if not torch.equal(states[0][k], states[2][k])}
    assert changed
    assert {name.rpartition(".")[0] for name in changed} <= set(first.rounds[0].repaired)
    assert first.rounds[0].repaired
    assert not none.rounds[0].repaired


def test_the_error_of_logits_is_never_below_zero():
    torch.manual_seed(0)
    for _ in range(50):  # rounding alone: all dimensions stay, and are mixed there and back
        x = torch.randn(8, 8, dtype=torch.float64)
        product = Product("axis", x @ x.T, x.T @ x, torch.arange(8))
        left = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
        assert product.error(left, left) >= 0


def test_a_repair_that_leaves_outputs_nobody_can_measure_is_named():
    huge = Repair("huge", lambda layer: (layer.weight.double() * 1e200, layer.bias))
    model, _, axes = traced("vit")
    axes, double = of_kind(axes, "mlp"), copy.deepcopy(model).double()
    plan = random_plan(axes, 0.4)
    small = shrunk(double, axes, plan, adapter_of("vit")).eval()
    with pytest.raises(RepairError, match=r"'huge'.*no finite numbers"):
        repair_(small, double, axes, plan, huge, ["blocks.0", "blocks.1"], images("vit"))
