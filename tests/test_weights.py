"""Single weights: masks that are exact, that survive, and that are the paper's."""

from __future__ import annotations

import copy
import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import references
import timm
import torch
from conftest import FAMILIES, TOYS, adapter_of, toy, traced, write_digits
from safetensors.torch import load_file, save_file
from test_cli import refused
from test_train import After, stripes

import prunekit
import prunekit.inputs.fashion
from prunekit import Criterion, prune
from prunekit.artifact import MASKS, PLAN, WEIGHTS, masks_of, read_report
from prunekit.axis import AUX, matrix_axis
from prunekit.cli import main
from prunekit.criteria import CRITERIA
from prunekit.errors import (
    AdapterError,
    ArtifactError,
    BudgetError,
    CriterionError,
    DeviceError,
    ParityError,
    TrainingError,
    TrainingInterrupted,
)
from prunekit.inputs.architectures import build
from prunekit.measuring.counting import stats
from prunekit.planning.budget import Budget, Term
from prunekit.recovery.recipes import Recipe
from prunekit.recovery.training import train_
from prunekit.statistics import gather
from prunekit.weights.files import pack, read_masks, unpack
from prunekit.weights.masking import verify_masks, zeroed
from prunekit.weights.masks import MaskPlan, make_masks, make_pattern, shares
from prunekit.weights.matrices import weight_axes
from prunekit.weights.semistructured import is_2_to_4, supported, to_semi_structured

AT_WEIGHT_LEVEL = ["random", "magnitude", "lamp", "dimap", "taylor", "fisher", "wanda"]


def axes_of(name: str):
    return weight_axes(traced(name)[0], adapter_of(name))


@cache
def informed(name: str, need: str):
    model, images, _ = traced(name)
    return gather(need, model, axes_of(name), [(images, torch.tensor([0, 3]))])


def matrices(*shapes, roles="m", value=None):
    """Make axes of matrices called w0, w1, ...; all of one value, or random."""
    generator = torch.Generator().manual_seed(0)
    return [
        matrix_axis(
            f"w{n}",
            roles[n % len(roles)],
            torch.randn(shape, generator=generator) if value is None else torch.full(shape, value),
        )
        for n, shape in enumerate(shapes)
    ]


def planned(axes, scores, fraction, scope="kind") -> MaskPlan:
    budget = Budget(fraction, "slices", float(sum(axis.size for axis in axes)))
    return make_masks(axes, scores, budget, scope=scope)


def zeros(mask) -> int:
    return int((~mask).sum())


# --- choosing --------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["axis", "kind", "model"])
@pytest.mark.parametrize("fraction", [0.01, 0.35, 0.5, 0.999])
@pytest.mark.parametrize("tied", [False, True])
def test_the_count_is_met_exactly_even_if_all_scores_are_equal(scope, fraction, tied):
    axes = matrices((7, 5), (3, 11), (8, 8), (2, 2), roles="ab")
    scores = [torch.ones(axis.size) if tied else axis.members[0].weight.flatten() for axis in axes]
    plan = planned(axes, scores, fraction, scope)
    total = sum(axis.size for axis in axes)
    assert sum(map(zeros, plan.kept.values())) == round(fraction * total)
    pools = {"axis": [[0], [1], [2], [3]], "kind": [[0, 2], [1, 3]], "model": [[0, 1, 2, 3]]}
    for members in pools[scope]:
        size = sum(axes[n].size for n in members)
        gone = sum(zeros(plan.kept[f"w{n}"]) for n in members)
        assert abs(gone - fraction * size) < 1


def test_of_equal_scores_the_first_leave_first():
    axes = matrices((2, 3), (2, 2))
    plan = planned(axes, [torch.ones(6), torch.ones(4)], 0.7)
    assert plan.kept["w0"].sum() == 0
    assert plan.kept["w1"].tolist() == [[False, True], [True, True]]
    plan = planned(axes, [torch.tensor([1.0, 0, 1, 0, 1, 1]), torch.tensor([2.0, 1, 1, 2])], 0.5)
    assert plan.kept["w0"].tolist() == [[False, False, False], [False, False, True]]
    assert plan.kept["w1"].all()


@pytest.mark.parametrize("scope", ["axis", "kind", "model"])
def test_no_weight_that_leaves_its_pool_scores_higher_than_one_that_stays(scope):
    axes = matrices((20, 30), (40, 10), (15, 15), roles="ab")
    scores = [torch.rand(axis.size) for axis in axes]
    plan = planned(axes, scores, 0.4, scope)
    pools = {"axis": [[0], [1], [2]], "kind": [[0, 2], [1]], "model": [[0, 1, 2]]}[scope]
    for members, threshold in zip(pools, plan.thresholds.values(), strict=True):
        masks = torch.cat([plan.kept[f"w{n}"].flatten() for n in members])
        own = torch.cat([scores[n] for n in members])
        assert own[~masks].max() == threshold
        assert own[masks].min() > threshold


@pytest.mark.parametrize("total", range(21))
def test_shares_add_up_and_are_within_one_of_their_part(total):
    sizes = [7, 7, 1, 5]
    counts = shares(total, sizes)
    assert sum(counts) == total
    assert all(abs(c - total * s / 20) < 1 for c, s in zip(counts, sizes, strict=True))


@pytest.mark.parametrize("target", [0.2, 5.0, 7.4, 7.6, 41.0, 59.0, 60.0])
def test_by_macs_no_other_count_comes_nearer(target):
    axes = matrices((2, 5), (4, 5))
    scores = [torch.linspace(0, 1, 10), torch.linspace(0.01, 0.9, 20)]
    terms = tuple(Term(cost, ((f"w{n}", 0),)) for n, cost in enumerate((30.0, 30.0)))
    if target < 0.75:  # less than half of the first weight, which costs 3 to 1.5
        with pytest.raises(BudgetError, match="half a weight"):
            make_masks(axes, scores, Budget(target / 100, "macs", 100.0, terms), scope="model")
        return
    plan = make_masks(axes, scores, Budget(target / 100, "macs", 100.0, terms), scope="model")
    saved = 3.0 * zeros(plan.kept["w0"]) + 1.5 * zeros(plan.kept["w1"])
    order = torch.cat(scores).argsort(stable=True)
    reachable = torch.tensor([3.0] * 10 + [1.5] * 20)[order].cumsum(0)
    assert abs(saved - target) == pytest.approx(float((reachable - target).abs().min()), abs=1e-5)


# --- the criteria at this level --------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_dimap_is_equation_10_with_one_threshold_for_each_module(family):
    axes = axes_of(family)
    plan = planned(axes, CRITERIA.get("dimap")(axes), 0.35)
    pools = {}
    for axis in axes:
        pools.setdefault(axis.kind, []).append(axis)
    assert set(plan.thresholds) == set(pools)
    for own in pools.values():
        scores = np.concatenate([equation_10(axis.members[0].weight.numpy()) for axis in own])
        kept = np.concatenate([plan.kept[axis.name].flatten() for axis in own])
        # float32 may swap neighbours whose scores agree in seven digits
        assert scores[~kept].max() <= scores[kept].min() * (1 + 1e-5)
        assert abs((~kept).sum() - 0.35 * kept.size) < 1
    assert len(set(plan.thresholds.values())) == len(pools)


def equation_10(weight: np.ndarray) -> np.ndarray:
    """He and Zhou 2024, Eq. 10, over one matrix."""
    s = weight.astype(np.float64).ravel() ** 2
    descending = np.argsort(-s, kind="stable")
    scores = np.empty_like(s)
    scores[descending] = s[descending] / np.cumsum(s[descending])
    return scores


def test_the_reference_is_the_slow_one():
    weight = np.random.default_rng(0).normal(size=(4, 6))
    np.testing.assert_allclose(equation_10(weight), references.eq10(weight.ravel() ** 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_lamp_scores_weights_as_dimap_does_and_differs_in_where_they_compete(family):
    axes = axes_of(family)
    lamp, dimap = CRITERIA.get("lamp"), CRITERIA.get("dimap")
    for one, other in zip(lamp(axes), dimap(axes), strict=True):
        torch.testing.assert_close(one, other)
        assert one.dtype == torch.float32
    assert (lamp.scope, dimap.weight_scope) == ("model", "kind")


def test_single_weights_compete_where_the_criterion_says_unless_told_otherwise():
    def scope(level, chosen=None):
        return prune("vit_micro", "dimap", 0.3, granularity=level, scope=chosen).recipe["scope"]

    assert (scope("slice"), scope("weight"), scope("weight", "axis")) == ("model", "kind", "axis")


@pytest.mark.parametrize("family", FAMILIES)
def test_wanda_is_the_weight_times_the_size_of_its_input(family):
    model, images, _ = traced(family)
    raw = references.activations(model, images)
    axes = informed(family, "activations")
    for axis, score in zip(axes, CRITERIA.get("wanda")(axes), strict=True):
        member = axis.members[0]
        expected = np.abs(member.weight.numpy()) * references.met(member, raw)
        np.testing.assert_allclose(score, expected.ravel(), 1e-5, err_msg=axis.name)


@pytest.mark.parametrize("family", FAMILIES)
def test_taylor_and_fisher_are_products_weight_by_weight(family):
    for axis, score in pairs(family, "taylor", "gradients"):
        member = axis.members[0]
        np.testing.assert_allclose(score, (member.weight * member.grad).abs().flatten())
    for axis, score in pairs(family, "fisher", "squared_gradients"):
        member = axis.members[0]
        expected = member.weight.square() * member.grad_square / 2
        np.testing.assert_allclose(score, expected.flatten(), 1e-6)
        assert score.max() > 0


def pairs(family, criterion, need):
    axes = informed(family, need)
    return zip(axes, CRITERIA.get(criterion)(axes), strict=True)


def test_magnitude_is_the_absolute_weight():
    axes = axes_of("vit")
    for p in (1, 2):
        for axis, score in zip(axes, CRITERIA.get("magnitude").configure(p=p)(axes), strict=True):
            torch.testing.assert_close(score, axis.members[0].weight.abs().flatten())


def test_those_that_make_sense_at_this_level_say_so():
    said = [name for name in CRITERIA.names() if CRITERIA.get(name).weight_level]
    assert said == AT_WEIGHT_LEVEL


# --- n of every m ----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (1, 64), (63, 64)])
@pytest.mark.parametrize("shape", [(6, 64), (5, 128), (3, 64, 2, 3)], ids=str)
def test_every_group_keeps_its_n_best_and_of_equal_ones_the_last(n, m, shape):
    (axis,) = matrices(shape)
    tied = torch.randint(0, 3, (axis.size,)).float()
    for score in (axis.members[0].weight.flatten(), tied):
        (mask,) = make_pattern([axis], [score], n, m).kept.values()
        assert mask.shape == shape
        places = np.moveaxis(score.view(shape).numpy(), 1, -1).reshape(-1, m)
        stays = np.moveaxis(mask.numpy(), 1, -1).reshape(-1, m)
        for own, kept in zip(places, stays, strict=True):
            best = sorted(range(m), key=lambda i: (-own[i], -i))[:n]
            assert set(np.flatnonzero(kept)) == set(best)


@pytest.mark.parametrize("name", TOYS)
def test_every_toy_has_two_zeros_among_every_four_inputs(name):
    model, images = toy(name)
    result = prune(model, "magnitude", granularity="2:4", example_input=images)
    assert result.masks.granularity == "2:4"
    for key in result.masks.kept:
        weight = result.model.get_parameter(key)
        groups = weight.movedim(1, -1).reshape(-1, 4)
        assert ((groups == 0).sum(1) == 2).all()
    left_out = [key for key, p in model.named_parameters() if p.dim() == 4 and p.shape[1] == 1]
    assert not set(left_out) & set(result.masks.kept)
    assert bool(left_out) == any("one input per output" in said for said in result.warnings)
    gone = sum(mask.numel() for mask in result.masks.kept.values()) / 2
    assert result.got == gone / sum(p.numel() for p in model.parameters())
    assert (result.plan.asked, result.plan.kept) == (result.got, {})


def test_a_pattern_is_saved_and_loaded_like_single_weights(tmp_path):
    result = prune("convnext_micro", "wanda", granularity="1:4", calibration=8)
    result.save(tmp_path / "saved")
    model = prunekit.load(tmp_path / "saved")
    assert all(
        torch.equal(model.get_parameter(name) != 0, mask)
        for name, mask in masks_of(tmp_path / "saved", model).items()
    )
    report = read_report(tmp_path / "saved")
    assert (report["recipe"]["ratio"], report["recipe"]["scope"]) == (None, None)
    assert report["recipe"]["axes"] == ["mlp"]


PATTERNS = {
    "ratio": (["2:4", "--ratio", "0.5"], "leave the ratio out"),
    "scope": (["2:4", "--scope", "kind"], "leave the scope out"),
    "divide": (["3:7"], "'blocks.0.attn.qkv.weight' has 64 inputs"),
    "order": (["4:2"], "1 <= n < m <= 64"),
    "none": (["0:2"], "1 <= n < m <= 64"),
    "large": (["1:65"], "1 <= n < m <= 64"),
    "text": (["2:x"], "No granularity is called '2:x'"),
    "criterion": (["2:4", "--criterion", "vbp"], "single weights"),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_patterns_that_cannot_be_are_one_sentence(case, capsys):
    (pattern, *arguments), expected = PATTERNS[case]
    assert expected in refused(
        capsys, "run", "--arch", "vit_micro", "--granularity", pattern, *arguments
    )


def test_a_layer_that_does_not_divide_can_be_left_out_as_the_sentence_says():
    model, images = toy("convnext")  # widths of 8, 12, 16 and 24, and four times that
    options = {"granularity": "2:8", "example_input": images}
    with pytest.raises(AdapterError, match="has 12 inputs") as error:
        prune(model, "magnitude", **options)
    name = str(error.value).split("'")[1]
    assert prune(model, "magnitude", exclude=[name], **options).got > 0
    with pytest.raises(AdapterError, match=r"None of the chosen layers.*--axes"):
        prune(model, "magnitude", axes=["conv"], **options)


@pytest.mark.cuda
@pytest.mark.skipif(not supported(), reason="needs a CUDA device with sparse tensor cores")
def test_a_pattern_becomes_semi_structured_tensors_that_compute_the_same():
    torch.manual_seed(0)
    dense = timm.create_model("vit_tiny_patch16_224", num_classes=10).eval()
    model = prune(dense, "magnitude", granularity="2:4").model.half().cuda()
    fast = to_semi_structured(model)
    assert isinstance(fast.blocks[0].mlp.fc1.weight, torch.sparse.SparseSemiStructuredTensor)
    image = torch.randn(2, 3, 224, 224, dtype=torch.float16, device="cuda")
    with torch.inference_mode():
        expected, found = model(image), fast(image)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.skipif(supported(), reason="there is such a device")
def test_without_such_a_device_the_conversion_says_so():
    with pytest.raises(DeviceError, match=r"compute capability 8\.0"):
        to_semi_structured(build("vit_micro").model)


def test_a_pattern_is_told_from_single_weights():
    by_pattern = prune("vit_micro", "magnitude", granularity="2:4").model
    by_weight = prune("vit_micro", "magnitude", 0.6, granularity="weight").model
    one_in_four = prune("vit_micro", "magnitude", granularity="1:4").model
    assert is_2_to_4(by_pattern.blocks[0].mlp.fc1.weight)
    assert is_2_to_4(one_in_four.blocks[0].mlp.fc1.weight)
    assert not is_2_to_4(by_weight.blocks[0].mlp.fc1.weight)
    assert not is_2_to_4(torch.zeros(2, 6))


# --- what becomes of a model -----------------------------------------------------------


def masked(name, criterion="magnitude", ratio=0.3, **options):
    model, images = toy(name)
    return model, prune(
        model, criterion, ratio, granularity="weight", example_input=images, **options
    )


@pytest.mark.parametrize("name", TOYS)
def test_every_toy_loses_single_weights_of_its_matrices_and_nothing_else(name):
    model, result = masked(name)
    total, gone, after = 0, 0, result.model.state_dict()
    roles = {n: adapter_of(name).role(n) for n, p in model.named_parameters() if p.dim() > 1}
    for key, before in model.state_dict().items():
        total += before.numel() if key in dict(model.named_parameters()) else 0
        changed = after[key] != before
        assert not changed.any() or roles[key] != AUX, key
        gone += int(changed.sum())
        assert not after[key][changed].any()
    assert gone == round(0.3 * total)
    assert result.got == pytest.approx(0.3, abs=1 / total)
    assert result.parity is None
    (done,) = result.rounds
    assert done.masking.zeros == gone
    assert done.masking.same == sum(t.numel() for t in model.state_dict().values()) - gone
    assert not {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in result.model.parameters()
    }


def test_the_zeros_are_positive():
    _, result = masked("swin")
    for name, mask in result.masks.kept.items():
        assert not torch.signbit(result.model.get_parameter(name)[~mask]).any()


@pytest.mark.parametrize("scope", ["axis", "kind", "model"])
def test_the_scope_says_which_densities_are_equal(scope):
    _, result = masked("swin", scope=scope)
    layers = result.sparsity.layers.values()
    by_layer = {round(layer.nonzero / layer.weights, 2) for layer in layers}
    by_kind = {kind: density([one for one in layers if one.kind == kind]) for kind in KINDS}
    assert (len(by_layer) == 1) == (scope == "axis")
    assert (len(set(by_kind.values())) == 1) == (scope != "model")
    assert (
        list(result.sparsity.thresholds)
        == {
            "axis": list(result.masks.kept),
            "kind": KINDS,
            "model": ["model"],
        }[scope]
    )


KINDS = ["qkv", "proj", "mlp"]


def density(layers):
    return round(sum(one.nonzero for one in layers) / sum(one.weights for one in layers), 2)


@pytest.mark.parametrize("by", ["params", "macs", "slices"])
@pytest.mark.parametrize("ratio", [0.15, 0.5])
@pytest.mark.parametrize("arch", ["swin_micro", "vit_micro", "convnext_micro"])
def test_the_budget_is_met_by_an_independent_count(arch, by, ratio):
    dense = build(arch).model
    result = prune(dense, "dimap", ratio, granularity="weight", by=by)
    params, before = (sum(map(how, dense.parameters())) for how in (torch.numel, left))
    after = sum(map(left, result.model.parameters()))
    weights, zeroed, macs, saved = counted(result.model)
    removed = {
        "params": zeroed / params,  # a few of them were zero before
        "macs": saved / macs,
        "slices": zeroed / weights,
    }[by]
    # One weight's MACs are as many as the positions it is used at.
    assert removed == pytest.approx(ratio, abs=1e-4 if by == "macs" else 1 / weights)
    assert result.got == pytest.approx(removed, abs=1e-6)
    found = result.sparsity
    assert 0 <= zeroed - (before - after) < 10
    assert (found.nonzero, found.nonzero_before, found.params) == (after, before, params)
    assert (found.weights, found.macs) == (weights, macs)
    assert found.implied_macs == pytest.approx(macs - saved, abs=50)


def left(parameter) -> int:
    return int((parameter != 0).sum())


def counted(model):
    """Count by hand, with hooks: prunable weights, zeros in them, all MACs, and those of zeros."""
    example, found = torch.zeros(1, *model.pretrained_cfg["input_size"]), []

    def look(layer, inputs, output, name):
        if {"attn", "mlp", "conv_dw"} & set(name.split(".")):
            gone = int((layer.weight == 0).sum())
            found.append((layer.weight.numel(), gone, gone * output.numel() // len(layer.weight)))

    handles = [
        layer.register_forward_hook(partial(look, name=name))
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    ]
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    weights, gone, saved = map(sum, zip(*found, strict=True))
    return weights, gone, stats(model, example).macs, saved


def test_roles_and_patterns_choose_matrices():
    _, result = masked("swin", ratio=0.1, axes=("mlp",), exclude=("*.fc2.weight",))
    assert result.recipe["axes"] == ["mlp"]
    assert result.masks.kept
    assert all(name.endswith("fc1.weight") for name in result.masks.kept)
    assert masked("swin")[1].recipe["axes"] == KINDS
    assert masked("convnext")[1].recipe["axes"] == ["conv", "mlp"]


@pytest.mark.parametrize("name", AT_WEIGHT_LEVEL)
def test_every_such_criterion_runs_end_to_end_and_repeats(name):
    options = {"granularity": "weight", "data": "fashion-mnist-mini", "calibration": 8}
    first, second = (prune("vit_micro", name, 0.4, **options) for _ in range(2))
    for mask, same in zip(first.masks.kept.values(), second.masks.kept.values(), strict=True):
        assert torch.equal(mask, same)
    assert first.got == pytest.approx(0.4, abs=1e-5)


def test_the_proof_finds_a_zero_that_is_not_and_a_weight_that_moved():
    model, result = masked("vit")
    kept = result.masks.kept
    name, mask = next(iter(kept.items()))
    for where in (~mask, mask):
        small = zeroed(model, kept)
        with torch.no_grad():
            small.get_parameter(name)[where] += 1e-20
        if where is mask:  # too little to change most weights, so by a bit
            with torch.no_grad():
                at = where.nonzero()[0].tolist()
                weight = small.get_parameter(name)
                weight[at[0], at[1]] = torch.nextafter(
                    weight[at[0], at[1]], torch.tensor(torch.inf)
                )
        with pytest.raises(ParityError, match=name):
            verify_masks(model, small, kept)
    small = zeroed(model, kept)
    with torch.no_grad():
        small.head.bias[0] += 1
    with pytest.raises(ParityError, match=r"'head\.bias'"):
        verify_masks(model, small, kept)


def test_half_precision_and_models_with_zeros_are_masked_too():
    model, images = toy("vit")
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[:3] = 0
    result = prune(
        model.bfloat16(), "dimap", 0.3, granularity="weight", example_input=images.bfloat16()
    )
    assert not result.masks.kept["blocks.0.mlp.fc1.weight"][:3].any()
    assert result.got == pytest.approx(0.3, abs=1e-4)
    assert result.sparsity.nonzero_before == result.sparsity.params - 96


# --- what is saved ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    result = prune("vit_micro", "dimap", 0.4, granularity="weight")
    directory = tmp_path_factory.mktemp("weights") / "saved"
    result.save(directory)
    return result, directory


def test_masks_and_weights_survive_saving_bit_for_bit(saved):
    result, directory = saved
    model = prunekit.load(directory)
    assert type(model) is type(result.model)
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(model.state_dict()[name].view(torch.uint8), tensor.view(torch.uint8))
    kept = masks_of(directory, model)
    assert kept.keys() == result.masks.kept.keys()
    assert all(torch.equal(kept[name], mask) for name, mask in result.masks.kept.items())


def test_a_mask_takes_a_bit_a_weight(saved):
    result, directory = saved
    assert (directory / MASKS).stat().st_size < result.sparsity.weights / 8 + 10_000
    odd = torch.rand(3, 5) > 0.5
    assert torch.equal(unpack(pack(odd), odd.shape), odd)


def copied(directory, tmp_path):
    import shutil

    return shutil.copytree(directory, tmp_path / "copy")


def test_altered_or_missing_masks_are_refused(saved, tmp_path):
    copy = copied(saved[1], tmp_path)
    data = bytearray((copy / MASKS).read_bytes())
    data[-1] ^= 1
    (copy / MASKS).write_bytes(data)
    with pytest.raises(ArtifactError, match=r"masks\.safetensors is not what was saved"):
        prunekit.load(copy)
    (copy / MASKS).unlink()
    with pytest.raises(ArtifactError, match=r"masks\.safetensors is missing"):
        prunekit.load(copy)


def test_masks_that_do_not_fit_the_model_are_refused(saved, tmp_path):
    result, directory = saved
    good = load_file(directory / MASKS)
    name = next(iter(good))
    cases = {
        "the model lacks": {**good, "nowhere.weight": good[name].clone()},
        "expected a bit for each": {**good, name: good[name][:-1]},
        "are not zero, although": {**good, name: torch.zeros_like(good[name])},
    }
    for said, masks in cases.items():
        save_file(masks, tmp_path / "masks")
        with pytest.raises(ArtifactError, match=said):
            read_masks(tmp_path / "masks", result.model)
    (tmp_path / "masks").write_bytes(b"none")
    with pytest.raises(ArtifactError, match="is corrupt"):
        read_masks(tmp_path / "masks", result.model)


def test_an_artifact_of_slices_has_no_masks(tmp_path):
    prune("vit_micro", "magnitude", 0.5).save(tmp_path / "saved")
    assert not (tmp_path / "saved" / MASKS).exists()
    assert "masks_sha256" not in json.loads((tmp_path / "saved" / PLAN).read_text())
    assert masks_of(tmp_path / "saved", prunekit.load(tmp_path / "saved")) == {}


def test_masks_replace_slices_in_a_directory_and_the_other_way_round(saved, tmp_path):
    target = tmp_path / "saved"
    small = prune("vit_micro", "magnitude", 0.5)
    for result in (small, saved[0], small):
        result.save(target)
        assert (target / MASKS).exists() == (result.masks is not None)
        prunekit.load(target)


# --- fine-tuning -----------------------------------------------------------------------

TRAINED = Recipe(
    epochs=2, batch_size=16, lr=1e-2, weight_decay=0.1, clip_grad=0.5, crop=0.9, ema_decay=0.5
)


def check_tuned(before, model, kept):
    """Make sure that zeros are zero, and that of the other weights most have changed."""
    for name, mask in kept.items():
        weight = model.get_parameter(name).detach()
        assert not weight[~mask].any(), name
    after = torch.cat([model.get_parameter(name)[mask] for name, mask in kept.items()])
    was = torch.cat([before.get_parameter(name)[mask] for name, mask in kept.items()])
    assert (after != was).float().mean() > 0.9


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "momentum", "lr": 0.1},
        {"optimizer": "lamb", "clip_grad": 0.0},
        {"ema_decay": 0.0, "accumulate": 2},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_training_changes_weights_but_no_zeros(settings):
    _, result = masked("vit", ratio=0.5)
    model, images = copy.deepcopy(result.model), stripes(200)
    trained = train_(model, images, replace(TRAINED, **settings), masks=result.masks.kept)
    assert trained.best_epoch > 0
    check_tuned(result.model, model, result.masks.kept)
    assert all(not p._backward_hooks for p in model.parameters())


def test_without_masks_the_zeros_would_not_stay():
    _, result = masked("vit", ratio=0.5)
    model = copy.deepcopy(result.model)
    train_(model, stripes(200), TRAINED)
    with pytest.raises(AssertionError, match="qkv"):
        check_tuned(result.model, model, result.masks.kept)


def test_distilling_keeps_zeros_too():
    dense, result = masked("swin", ratio=0.5)
    model = copy.deepcopy(result.model)
    recipe = replace(TRAINED, distill=True, feature_weight=0.5, lr=3e-3, epochs=4)
    trained = train_(model, stripes(200), recipe, teacher=dense, masks=result.masks.kept)
    assert trained.learnt_from == ("labels", "logits", "features")
    check_tuned(result.model, model, result.masks.kept)


def test_an_optimizer_that_moves_zeros_is_refused_after_one_update():
    _, result = masked("vit", ratio=0.5)
    seen = []
    with pytest.raises(TrainingError, match=r"'muon' moved [\d,]+ weights of 'blocks\.0.*adamw"):
        train_(
            copy.deepcopy(result.model),
            stripes(200),
            replace(TRAINED, optimizer="muon", lr=1e-3),
            masks=result.masks.kept,
            on_update=seen.append,
        )
    assert seen == []


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return str(write_digits(tmp_path_factory.mktemp("weights-digits")))


FAST = {"epochs": 3, "batch_size": 8, "lr": 3e-3, "validation": 0.4}


@pytest.mark.parametrize("granularity", ["weight", "2:4"])
def test_a_run_that_trains_keeps_its_zeros(granularity, digits, tmp_path, capsys):
    (tmp_path / "fast.toml").write_text(
        "batch_size = 8\nlr = 0.003\nvalidation = 0.4\ndistill_weight = 0.05\n"
    )
    flags = ["--granularity", granularity, "--finetune", "25", "--recipe", tmp_path / "fast.toml"]
    flags += ["--data", digits, "--distill", "--out", tmp_path / "out"]
    assert main([*RUN[:3], *map(str, flags)]) == 0
    assert "training kept the zeros" in " ".join(capsys.readouterr().out.split())
    report, model = read_report(tmp_path / "out"), prunekit.load(tmp_path / "out")
    assert report["rounds"][0]["trained"]["best_epoch"] > 0
    assert report["rounds"][0]["trained"]["learnt_from"] == ["labels", "logits"]
    check_tuned(build("vit_micro").model, model, masks_of(tmp_path / "out", model))
    assert report["got"] == pytest.approx(report["asked"], abs=1e-5)


def test_a_saved_model_is_fine_tuned_with_its_masks(saved, digits, tmp_path):
    result, directory = saved
    out = tmp_path / "tuned"
    prunekit.finetune(directory, out, data=digits, overrides=FAST, device="cpu")
    assert (out / MASKS).read_bytes() == (directory / MASKS).read_bytes()
    model = prunekit.load(out)
    kept = masks_of(out, model)
    check_tuned(result.model, model, kept)
    old, new = read_report(directory), read_report(out)
    assert new["sparsity"]["nonzero"] == sum(int(left(p)) for p in model.parameters())
    assert new["sparsity"]["implied_macs"] == pytest.approx(old["sparsity"]["implied_macs"], abs=50)
    assert main(["show", str(out)]) == 0
    again = tmp_path / "again"
    prunekit.finetune(out, again, data=digits, overrides=FAST, device="cpu")
    check_tuned(model, prunekit.load(again), kept)


@pytest.mark.parametrize("granularity", ["weight", "2:4"])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits_and_zeros(
    granularity, digits, tmp_path, monkeypatch
):
    source = tmp_path / "masked"
    result = prune("vit_micro", "magnitude", granularity=granularity)
    result.save(source)
    recipe = {**FAST, "weight_decay": 0.1}
    options = {"data": digits, "overrides": recipe, "device": "cpu"}
    whole = prunekit.finetune(source, tmp_path / "whole", **options)
    assert whole.trained.best_epoch > 0  # so what is compared was trained after the stop
    monkeypatch.setattr("prunekit.recovery.training.loop.LOOK", 2)  # of the 5 updates of an epoch
    out = tmp_path / "out"
    with pytest.raises(TrainingInterrupted, match="after 2 of 5 updates of epoch 1; add --resume"):
        prunekit.finetune(source, out, should_stop=After(0), **options)
    prunekit.finetune(source, out, resume=True, **options)
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    check_tuned(result.model, prunekit.load(out), result.masks.kept)


def test_two_processes_keep_the_same_zeros(saved, digits, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "29641", "-m", "prunekit", "finetune", saved[1]]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in FAST.items()]
    command += ["--data", digits, "--out", tmp_path / "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(list(map(str, command)), check=True, capture_output=True, env=environment)
    assert read_report(tmp_path / "out")["finetune"]["processes"] == 2
    model = prunekit.load(tmp_path / "out")
    check_tuned(saved[0].model, model, masks_of(tmp_path / "out", model))


# --- the command line ------------------------------------------------------------------

RUN = ["run", "--arch", "vit_micro", "--granularity", "weight"]


@pytest.fixture
def few_images(monkeypatch):
    read = prunekit.inputs.fashion._idx
    monkeypatch.setattr(prunekit.inputs.fashion, "_idx", lambda root, stem: read(root, stem)[:500])


def test_run_show_and_eval_tell_of_zeros(few_images, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main([*RUN, "--ratio", "0.3", "--out", out]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "non-zero params",
        "implied MACs",
        "granularity weight, scope kind, axes qkv+proj+mlp",
        "kept of each matrix",
        "blocks.9.attn.qkv ",
        "asked -30.00%, got -30.00%",
        "weights became zero and",
        "Dense kernels multiply zeros as well",
    ):
        assert expected in printed
    lines = [line.rstrip() for line in printed.splitlines()]
    assert all(len(line) <= 80 for line in lines if not line.startswith("saved"))
    assert main(["show", out]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == lines[:-1]
    assert main(["eval", out, "--json"]) == 0
    report = read_report(tmp_path / "out")
    assert json.loads(capsys.readouterr().out)["top1"] == report["after"]["top1"]
    found = report["sparsity"]
    assert found["weights"] == sum(layer["weights"] for layer in found["layers"].values())
    assert found["nonzero"] == sum(
        int(t.count_nonzero()) for t in load_file(tmp_path / "out" / WEIGHTS).values()
    )
    assert "latency" in found["note"]
    assert (report["recipe"]["granularity"], report["recipe"]["floor"]) == ("weight", None)


REFUSED = {
    "typo": (["--granularity", "wieght"], "Did you mean 'weight'"),
    "criterion": (["--criterion", "fpgm"], "does not say that it can score single weights"),
    "flap": (["--criterion", "flap"], "weight_level=True"),
    "steps": (["--steps", "2"], "leave the steps out"),
    "floor": (["--floor", "0.2"], "leave floor out"),
    "multiple": (["--multiple", "4"], "leave multiple out"),
    "role": (["--axes", "qvk"], "Did you mean 'qkv'"),
    "slice-kind": (["--axes", "head"], "Known: mlp, proj, qkv"),
    "include": (["--include", "nothing"], "matches no weight matrix"),
    "exclude": (["--exclude", "*"], "no weight matrix to mask"),
    "unreachable": (["--ratio", "0.99"], "are 0.9"),
    "unreachable-macs": (["--ratio", "0.99", "--by", "macs"], "are 0."),
    "tiny": (["--ratio", "1e-7"], "less than half a weight"),
    "ratio": (["--ratio", "1"], "between 0 and 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_says_nothing_about_single_weights_is_one_sentence(case, capsys, tmp_path):
    arguments, expected = REFUSED[case]
    said = refused(capsys, *RUN, "--out", tmp_path / "out", *arguments)
    assert expected in said
    assert list(tmp_path.iterdir()) == []


def test_the_largest_ratio_that_is_named_can_be_had():
    with pytest.raises(BudgetError, match=r"are (0\.\d+) of") as error:
        prune("vit_micro", "magnitude", 0.999, granularity="weight")
    most = float(str(error.value).partition(" are ")[2].partition(" of")[0])
    result = prune("vit_micro", "magnitude", most, granularity="weight")
    assert result.got == pytest.approx(most, abs=1e-5)
    with pytest.raises(BudgetError, match="out of reach"):
        prune("vit_micro", "magnitude", most + 0.001, granularity="weight")


def test_what_slices_default_to_is_what_masks_let_pass():
    defaults = inspect.signature(prune).parameters
    limits = {name: defaults[name].default for name in ("floor", "multiple")}
    assert prune("vit_micro", "magnitude", granularity="weight", **limits).masks is not None


def test_a_criterion_of_ones_own_scores_single_weights_if_it_says_so():
    def l1(axes):
        return [axis.reduce(lambda m: m.weight.abs()) for axis in axes]

    with pytest.raises(CriterionError, match="'l1' does not say"):
        prune("vit_micro", Criterion("l1", l1), granularity="weight")
    own = prune("vit_micro", Criterion("l1", l1, weight_level=True), granularity="weight")
    theirs = prune("vit_micro", "magnitude:p=1", granularity="weight", scope="axis")
    for mask, same in zip(own.masks.kept.values(), theirs.masks.kept.values(), strict=True):
        assert torch.equal(mask, same)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_scores_that_are_not_finite_are_refused(value):
    def broken(axes):
        return [torch.full((axis.size,), value, dtype=torch.float64) for axis in axes]

    with pytest.raises(CriterionError, match=r"qkv\.weight.*NaN or infinite"):
        prune("vit_micro", Criterion("broken", broken, weight_level=True), granularity="weight")


def test_a_member_without_statistics_says_so():
    axes = axes_of("vit")
    assert all(axis.of_weights for axis in axes)
    assert replace(axes[0].members[0], grad=None).index.numel() == 0
