"""Residual branches leave whole, and what they still add stays."""

from __future__ import annotations

import json
import math

import pytest
import timm
import torch
from conftest import TOYS, adapter_of, toy, traced
from torch import nn

import prunekit
from prunekit import load, prune
from prunekit.adapters.finding import adapter_for
from prunekit.cli import main
from prunekit.constant import Constant
from prunekit.criteria import CRITERIA
from prunekit.cutting.shrink import shrunk
from prunekit.cutting.silence import masked
from prunekit.errors import BudgetError, CriterionError
from prunekit.measuring import own_times
from prunekit.measuring.counting import mac_terms, macs_by_module, param_terms
from prunekit.planning.left import saved
from prunekit.planning.plan import Plan
from prunekit.pruning import cache
from prunekit.statistics import gather

# Any family by its operations: post-activation, squeeze and excite, layer scales that are applied
# by the block itself, norms after the branch, branches inside of larger modules, one-sided blocks.
FOUND = ["resnet18", "seresnet50", "efficientnet_b0", "regnety_002", "beit_base_patch16_224",
         "cait_xxs24_224", "swinv2_cr_tiny_ns_224", "maxvit_rmlp_pico_rw_256"]  # fmt: skip


def branches(axes):
    return [axis for axis in axes if axis.spec.branch is not None]


def without(axes, *gone):
    """Return the plan that removes some branches and nothing else."""
    kept = {a.name: () if a.name in gone else tuple(range(a.size)) for a in axes}
    return Plan(kept, {axis.name: axis.size for axis in axes}, "params", 0.5, 0.5)


@pytest.mark.parametrize("name", TOYS)
def test_every_branch_can_leave_alone_and_all_can_together(name):
    model, images, axes = traced(name)
    names = [axis.name for axis in branches(axes)]
    assert names
    for gone in [[one] for one in names] + [names]:
        plan = without(axes, *gone)
        small = shrunk(model, axes, plan, adapter_of(name)).eval()
        torch.testing.assert_close(small(images), masked(model, axes, plan)(images))
        assert not torch.allclose(small(images), model(images))


@pytest.mark.parametrize("name", TOYS)
def test_what_a_branch_saves_is_counted_to_the_last(name):
    model, images, axes = traced(name)
    for axis in branches(axes):
        plan = without(axes, axis.name)
        small = shrunk(model, axes, plan, adapter_of(name)).eval()
        lost = count(model) - count(small)
        assert saved(axes, plan, param_terms(model)) == lost > 0
        lost = sum(macs_by_module(model, images).values())
        lost -= sum(macs_by_module(small, images).values())
        assert saved(axes, plan, mac_terms(model, axes, images)) == pytest.approx(lost)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["swin", "vit_layer_scale", "vit_post_norm", "convnext"])
def test_what_is_left_is_what_the_branch_adds_to_no_input(name):
    """An oracle of its own: the last layer's weight at zero, by hand."""
    model, images, axes = traced(name)
    axis = branches(axes)[0]
    branch = axis.spec.branch
    small = shrunk(model, axes, without(axes, axis.name), adapter_of(name)).eval()
    dense, _ = toy(name)
    nn.init.zeros_(dense.get_submodule(branch.last).weight)
    with torch.no_grad():
        torch.testing.assert_close(small(images), dense(images))
    constant = small.get_submodule(branch.core)
    assert isinstance(constant, Constant)
    assert constant.bias.abs().max() > 0


@pytest.mark.parametrize("name", ["swin", "vit", "convnext"])
def test_branches_compete_with_all_other_axes_round_after_round(name):
    model, _ = toy(name)
    kinds = sorted({axis.kind for axis in traced(name)[2]} & {"block", "mlp", "head"})
    one = prune(model, "magnitude", 0.5, axes=kinds, multiple=1)
    two = prune(one.model, "magnitude", 0.3, axes=kinds, multiple=1)
    for result in (one, two):
        assert result.rounds[-1].parity.holds
        assert result.plan.got == pytest.approx(1 - result.after.params / result.before.params)
    steps = prune(model, "magnitude", 0.4, axes=kinds, multiple=1, steps=2, schedule="linear")
    assert steps.plan.got == pytest.approx(1 - steps.after.params / steps.before.params)
    assert any(not kept for result in (one, two) for kept in result.plan.kept.values())


@pytest.mark.parametrize("arch", ["vit_micro", "swin_micro", "convnext_micro", "resnet_micro"])
def test_a_model_without_branches_is_saved_loaded_and_pruned_further(arch, tmp_path):
    result = prune(arch, "magnitude", 0.15, axes=["block"], evaluate=False)
    assert any(not kept for kept in result.plan.kept.values())
    result.save(tmp_path / "one")
    found = load(tmp_path / "one")
    torch.testing.assert_close(found(result.example), result.model(result.example))
    kinds = ["block", "width", "conv" if arch == "resnet_micro" else "mlp"]
    further = prune(str(tmp_path / "one"), "magnitude", 0.2, axes=kinds, evaluate=False)
    assert further.rounds[-1].parity.holds
    further.save(tmp_path / "two")
    found = load(tmp_path / "two")
    torch.testing.assert_close(found(result.example), further.model(result.example))
    gone = {name for name, kept in result.plan.kept.items() if not kept}
    assert gone <= {name for name, kept in further.plan.kept.items() if not kept}


@pytest.mark.parametrize("arch", FOUND)
def test_any_family_s_branches_are_found_and_leave_exactly(arch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(arch)
    result = prune(model.eval(), "random", 0.15, axes=["block"], scope="kind", evaluate=False)
    gone = [name for name, kept in result.plan.kept.items() if not kept]
    assert gone
    assert not [w for w in result.warnings if w.startswith("Left alone")]
    assert result.plan.got == pytest.approx(1 - result.after.params / result.before.params)
    assert sum(isinstance(part, Constant) for part in result.model.modules()) == len(gone)


def test_auto_finds_the_branches_that_the_adapters_were_told_of():
    for name in ("swin", "vit", "vit_layer_scale", "convnext"):
        model, images = toy(name)
        known = {axis.spec.branch.last for axis in branches(traced(name)[2])}
        result = prune(
            model, "random", 0.1, axes=["block"], adapter="auto", scope="kind",
            example_input=images, multiple=1,
        )  # fmt: skip
        auto = prunekit.adapters.ADAPTERS.get("auto").seeing(model, images)
        found = {spec.branch.last for spec in auto.axes(model) if spec.branch is not None}
        assert found == known
        assert result.rounds[-1].parity.holds


def test_a_branch_that_is_gone_is_never_dropped_in_training():
    """Stochastic depth drops branches whole, and would drop the constant."""
    result = prune("vit_tiny_patch16_224", "magnitude", 0.2, axes=["block"], evaluate=False,
                   weights="random")  # fmt: skip
    model = result.model.train()
    for name, kept in result.plan.kept.items():
        if not kept:
            block, _, core = name.removesuffix(".block").rpartition(".")
            number = 1 if core == "attn" else 2
            parts = (model.get_submodule(f"{block}.{p}{number}") for p in ("norm", "drop_path"))
            assert all(type(part) is nn.Identity for part in parts)


def test_intermediate_features_keep_their_shapes_and_meaning():
    model, images, axes = traced("swin")
    names = [axis.name for axis in branches(axes)][:3]
    plan = without(axes, *names)
    small = shrunk(model, axes, plan, adapter_of("swin")).eval()
    expected = masked(model, axes, plan).forward_intermediates(images, intermediates_only=True)
    for one, other in zip(
        small.forward_intermediates(images, intermediates_only=True), expected, strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore")  # of timm's own resizing
def test_a_swin_without_attention_takes_images_of_other_sizes():
    model, _, axes = traced("swin")
    axes = branches(axes)
    names = [axis.name for axis in axes if ".attn." in axis.name]
    plan = without(axes, *names)
    small = shrunk(model, axes, plan, adapter_of("swin")).eval()
    small.set_input_size((32, 32))
    large = masked(model, axes, plan)
    large.set_input_size((32, 32))
    larger = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(small(larger), large(larger))


@pytest.mark.parametrize("name", ["swin", "vit_layer_scale", "convnext"])
def test_influence_is_the_variance_that_is_lost_over_the_energy_of_the_stream(name):
    model, images, axes = traced(name)
    chosen = [axis for axis in axes if axis.kind in ("block", "mlp")]
    batch = torch.cat([images, images.flip(-1), images + 1])
    scores = CRITERIA.get("influence")(gather("activations", model, chosen, [batch[:4], batch[4:]]))
    for axis, score in zip(chosen, scores, strict=True):
        if axis.spec.branch is None:
            continue
        before, after = stream(model, axis.spec.branch, batch)
        added = (after - before).double()
        lost = (added - added.mean(0)).square().sum(1).mean()
        price = sum(member.weights_per_slice for member in axis.members)
        expected = lost / before.double().square().sum(1).mean() / price
        assert float(score) == pytest.approx(float(expected), rel=1e-3)


def stream(model, branch, images):
    """Return the stream before and after a branch, (positions, channels), by its block's code."""
    block = model.get_submodule(branch.core.rpartition(".")[0])
    seen = {}
    handles = [
        model.get_submodule(branch.modules[0]).register_forward_pre_hook(
            lambda _, args: seen.update(before=args[0])
        ),
        block.register_forward_hook(lambda _, args, out: seen.update(block=out)),
        model.get_submodule(branch.modules[-1]).register_forward_hook(
            lambda _, args, out: seen.update(added=out)
        ),
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    before, added = seen["before"], seen["added"]
    if branch.scale is not None:  # ConvNeXt: channels first, and the sum is the block's output
        return (x.movedim(1, -1).flatten(0, -2) for x in (before, seen["block"]))
    return (x.flatten(0, -2) for x in (before, before + added))


def test_what_says_nothing_of_branches_is_refused():
    with pytest.raises(BudgetError, match="where a residual branch is alone"):
        prune("vit_micro", "fpgm", 0.2, axes=["block"], evaluate=False)
    with pytest.raises(CriterionError, match="scores all 20 residual branches the same"):
        prune("vit_micro", "fpgm", 0.2, axes=["block"], scope="kind", evaluate=False)


@pytest.mark.parametrize("name", ["dimap", "lamp", "flap"])
def test_what_is_relative_in_an_axis_is_relative_on_a_stream(name):
    """Each of these divides by what the axis holds, and a branch is alone on its axis."""
    model, images, axes = traced("swin")
    criterion = CRITERIA.get(name)
    scores = criterion(gather(criterion.needs, model, branches(axes), [images]))
    by_width = {}
    for axis, score in zip(branches(axes), scores, strict=True):
        by_width.setdefault(len(axis.voters[0].weight), []).append(float(score))
    assert len(by_width) == 2
    assert all(len(set(found)) == len(found) == 4 for found in by_width.values())
    if name == "flap":
        assert all(math.isclose(sum(found), 0, abs_tol=1e-6) for found in by_width.values())


def test_a_repair_refits_what_comes_after_a_branch_that_left():
    same = {"axes": ["block"], "data": "fashion-mnist-mini", "timed": False}
    cut = prune("vit_micro", "influence", 0.25, evaluate=True, **same)
    repaired = prune("vit_micro", "influence", 0.25, evaluate=True, repair="lstsq", **same)
    assert cut.plan.kept == repaired.plan.kept
    assert repaired.rounds[-1].repaired
    assert repaired.after.top1 > cut.after.top1


def test_adapters_offer_no_axes_inside_what_is_gone():
    model, _, axes = traced("vit")
    names = [axis.name for axis in branches(axes) if axis.name.startswith("blocks.0.")]
    small = shrunk(model, axes, without(axes, *names), adapter_of("vit")).eval()
    left = {spec.name for spec in adapter_for(small).axes(small)}
    assert not [name for name in left if name.startswith("blocks.0.")]
    assert [name for name in left if name.startswith("blocks.1.")]


def test_the_terminal_shows_which_branches_are_gone(capsys):
    words = ["run", "--arch", "vit_micro", "--criterion", "magnitude", "--axes", "block,mlp"]
    words += ["--ratio", "0.2", "--no-evaluation", "--no-timing", "--scope", "kind", "--json"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    gone = [name.removesuffix(".block") for name, axis in report["axes"].items()
            if axis["kind"] == "block" and not axis["kept"]]  # fmt: skip
    assert gone
    assert main(words[:-1]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = {line[0]: line[2:] for line in lines if len(line) > 2 and set(line[1]) <= set("█░")}
    assert {name for name, said in shown.items() if said == ["gone"]} == set(gone)
    assert shown["branches"] == [str(20 - len(gone)), "of", "20"]
    assert not [name for name in shown if name.endswith(".block")]


def test_sensitivity_cuts_a_branch_once(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    monkeypatch.setattr(own_times, "PASSES", (2, 2))
    found = prunekit.sensitivity(
        "vit_micro", "influence", axes=["mlp", "block"], include=["blocks.0.*"], ratios=[0.5],
        calibration=64, by="latency",
    )  # fmt: skip
    by_axis = {effect.axis: effect for effect in found.effects}
    assert by_axis.keys() == {"blocks.0.mlp", "blocks.0.mlp.block", "blocks.0.attn.block"}
    whole, half = by_axis["blocks.0.mlp.block"], by_axis["blocks.0.mlp"]
    assert (whole.asked, whole.kept, whole.size) == (1.0, 0, 1)
    assert half.kept == 128
    assert whole.params > 2 * half.params  # its norm leaves too
    assert whole.latency > 0


def test_messages_of_branches_speak_of_branches():
    with pytest.raises(BudgetError, match="a branch leaves whole or not at all"):
        prune("vit_micro", "magnitude", 0.01, axes=["block"], evaluate=False)
    result = prune("vit_micro", "magnitude", 0.25, axes=["block"], evaluate=False)
    assert "a branch leaves whole or not at all" in result.warnings[-1]
    with pytest.raises(BudgetError, match="params, macs or latency"):
        prunekit.sensitivity("vit_micro", "magnitude", by="slices")


@pytest.mark.parametrize("repair", ["bias", "lstsq"])
def test_a_repair_moves_the_constant_to_what_the_branch_added_on_average(repair):
    """Of the first branch, before which nothing changed, and by a hook of its own."""
    model, images = toy("vit_layer_scale")
    axes = {"axes": ["block"], "include": ["blocks.0.attn.block", "blocks.1.mlp.block"]}
    batches = [torch.cat([images, images + 1]), images * 2]
    result = prune(
        model, "magnitude", 0.2, scope="kind", repair=repair, data=batches, calibration=6, **axes
    )
    assert not result.plan.kept["blocks.0.attn.block"]
    added = []
    hook = model.get_submodule("blocks.0.ls1").register_forward_hook(
        lambda _, args, out: added.append(out)
    )
    with torch.no_grad():
        model(torch.cat(batches))
    hook.remove()
    constant = result.model.get_submodule("blocks.0.attn").bias
    torch.testing.assert_close(constant, added[0].mean((0, 1)), rtol=1e-4, atol=1e-5)
    assert "blocks.0.attn" in result.rounds[0].repaired
