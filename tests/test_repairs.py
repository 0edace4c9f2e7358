"""Repairs: against plain NumPy, against brute force, and on real models."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ATTENTIVE, FAMILIES, TOYS, adapter_of, kinds_of, of_kind, random_plan, traced
from references import least_squares, logits_error
from torch import nn

from prunekit import prune
from prunekit.covariance import Covariance, patches, rows
from prunekit.errors import AdapterError, DataError, RepairError
from prunekit.reconstruct import repair_
from prunekit.repairs import REPAIRS
from prunekit.repairs.base import Product, Repair
from prunekit.repairs.lstsq import low_rank
from prunekit.shrink import positions_left, shrunk
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
    gains = repair_(small, model, axes, plan, repair, blocks, data or images(name))
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


def noisy(samples, seed=3):
    """Return a layer half of whose outputs no linear map can explain."""
    generator = torch.Generator().manual_seed(0)
    weight, lost = torch.randn(2, 4, 30, generator=generator).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 30, generator=generator).double()
    y = x @ (weight + lost / 2).T + 4 * torch.randn(samples, 4, generator=generator)
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


def test_of_one_image_nothing_is_concluded():
    layer = replace(example_layer(), halves=())
    weight, bias = LSTSQ(layer)
    assert torch.equal(weight, layer.weight)
    assert torch.equal(bias, layer.bias)


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
    [nn.Linear(6, 5), nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(3, 5, 1, bias=False)],
    ids=str,
)
def test_a_layer_is_the_linear_map_of_its_patches(layer):
    x = torch.randn(2, 4, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 8, 8)
    expected = rows(layer, layer(x))
    found = patches(layer, x) @ layer.weight.flatten(1).T
    found = found if layer.bias is None else found + layer.bias
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
    assert set(gains) - misses == {a.name for a in axes if a.spec.product}
    order = [name for name, _ in model.named_modules() if name in misses]
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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_repair_does_not_touch_the_dense_model(family):
    before = {k: v.clone() for k, v in traced(family)[0].state_dict().items()}
    model = repaired(family, "all")[0]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


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


# --- what is refused -------------------------------------------------------------------


def test_no_images_is_an_error():
    with pytest.raises(DataError, match="no calibration images"):
        repaired("vit", "mlp", data=iter(()))


def test_blocks_that_are_no_chain_are_refused():
    with pytest.raises(AdapterError, match=r"'blocks.0' does not run on the output"):
        repaired("vit", "mlp", blocks=["blocks.1", "blocks.0"])
    with pytest.raises(AdapterError, match=r"'blocks.1.mlp' does not run on the output"):
        repaired("vit", "mlp", blocks=["blocks.0", "blocks.1.mlp"])


def test_a_convolution_in_groups_is_refused():
    with pytest.raises(AdapterError, match=r"Conv2d.*--exclude"):
        patches(nn.Conv2d(4, 4, 3, groups=2), torch.randn(1, 4, 8, 8))


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


def test_the_checks_find_a_repair_that_does_harm():
    harmful = Repair("harmful", lambda layer: (layer.weight + 1, layer.bias))
    problems = [check.claim for check in repair_checks(harmful) if check.problem()]
    assert problems == [
        "brings no layer further from the dense one",
        "changes nothing where nothing was lost",
    ]


def test_a_repair_without_training_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"Repair 'bias' needs training images"):
        prune("swin_t", weights="random", ratio=0.3, repair="bias")


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
    assert all(k.rpartition(".")[0].endswith(("fc2", "proj")) for k in changed)
    assert first.rounds[0].repaired
    assert not none.rounds[0].repaired
