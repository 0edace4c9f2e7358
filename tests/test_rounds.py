"""Pruning in rounds: the same promises after every one, and one plan for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES, TOYS, adapter_of, axes_of, kinds_of, random_plan, toy, traced

from prunekit import load, prune, recipes
from prunekit.errors import BudgetError, PruneError
from prunekit.rounds import combine, ratios
from prunekit.shrink import shrunk


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ratios_rise_and_end_at_what_was_asked(schedule, steps):
    found = ratios(0.6, steps, schedule)
    assert len(found) == steps
    assert found == sorted(set(found))
    assert found[-1] == 0.6


def test_linear_steps_are_equal_and_cubic_ones_get_smaller():
    linear, cubic = (
        [b - a for a, b in zip([0.0, *found], found, strict=False)]
        for found in (ratios(0.6, 4, "linear"), ratios(0.6, 4, "cubic"))
    )
    assert linear == pytest.approx([0.15] * 4)
    assert cubic == sorted(cubic, reverse=True)
    # Zhu and Gupta's s_t = s_f - s_f (1 - t / n)^3, at t = 1 of 4.
    assert cubic[0] == pytest.approx(0.6 * (1 - 0.75**3))


@pytest.mark.parametrize(("steps", "schedule"), [(0, "linear"), (2, "quadratic")])
def test_impossible_schedules_are_refused(steps, schedule):
    with pytest.raises(PruneError, match=r"expected 1 or more|No schedule is called 'quadratic'"):
        prune("vit_micro", ratio=0.5, steps=steps, schedule=schedule)


@pytest.mark.parametrize("name", TOYS)
def test_two_plans_in_turn_are_one_plan(name):
    """The one plan cuts the very weights out of the original that the two leave."""
    model, images, axes = traced(name)
    first = random_plan(axes, 0.3, seed=1)
    small = shrunk(model, axes, first, adapter_of(name)).eval()
    later_axes = axes_of(small, images)
    later = random_plan(later_axes, 0.4, seed=2)
    smaller = shrunk(small, later_axes, later, adapter_of(name)).eval()
    both = shrunk(model, axes, combine(axes, first, later_axes, later), adapter_of(name)).eval()
    expected, found = smaller.state_dict(), both.state_dict()
    assert shapes(smaller) == shapes(both)
    for key, tensor in expected.items():
        torch.testing.assert_close(tensor, found[key], msg=key)
    assert torch.allclose(smaller(images), both(images), atol=1e-5)


def test_lost_heads_keep_as_many_dimensions_in_the_plan_as_the_others():
    model, images, axes = traced("vit")
    chosen = [axis for axis in axes if axis.kind in ("head", "head_dim")]
    first = random_plan(chosen, 0.3, seed=1)
    small = shrunk(model, chosen, first, adapter_of("vit")).eval()
    later_axes = [a for a in axes_of(small, images) if a.kind in ("head", "head_dim")]
    later = random_plan(later_axes, 0.3, seed=2)
    plan = combine(chosen, first, later_axes, later)
    for axis in chosen:
        if axis.kind == "head_dim":
            length = axis.size // axis.spec.groups
            counts = [
                sum(group * length <= n < (group + 1) * length for n in plan.kept[axis.name])
                for group in range(axis.spec.groups)
            ]
            assert len(set(counts)) == 1
            assert counts[0] < length


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("by", ["params", "macs", "slices"])
def test_every_round_holds_parity_and_the_last_meets_the_budget(family, by):
    model, _ = toy(family)
    kinds = kinds_of(family)
    result = prune(
        model, "magnitude", 0.5, by=by, axes=kinds, steps=3, schedule="linear", multiple=1
    )
    assert len(result.rounds) == 3
    assert all(one.parity.holds for one in result.rounds)
    assert all(one.parity.difference > 0 for one in result.rounds)
    assert [one.asked for one in result.rounds] == pytest.approx([1 / 6, 2 / 6, 1 / 2])
    assert result.got == pytest.approx(0.5, abs=0.02)
    assert result.plan.asked == 0.5


@pytest.mark.parametrize("arch", ["swin_micro", "vit_micro", "convnext_micro"])
def test_the_artifact_of_many_steps_loads_like_any_other(arch, tmp_path):
    kinds = None if arch == "convnext_micro" else ["mlp", "head", "head_dim"]
    result = prune(arch, "magnitude", 0.4, axes=kinds, repair="lstsq", steps=3, calibration=16)
    result.save(tmp_path / "small")
    loaded = load(tmp_path / "small")
    image = torch.randn(2, *loaded.pretrained_cfg["input_size"])
    with torch.no_grad():
        assert torch.equal(result.model(image), loaded(image))
    assert all(one.repaired for one in result.rounds)


def test_floors_refer_to_the_original_sizes():
    model, _ = toy("vit")
    once, thrice = (
        prune(model, "random", 0.45, by="slices", axes=["mlp"], floor=0.5, multiple=1, steps=steps)
        for steps in (1, 3)
    )
    for result in (once, thrice):
        for name, kept in result.plan.kept.items():
            assert len(kept) >= 0.5 * result.plan.sizes[name]
        assert result.got == pytest.approx(0.45, abs=0.01)


def test_steps_too_small_to_take_are_refused():
    model, _ = toy("vit")
    with pytest.raises(BudgetError, match=r"fewer steps|less than half a step"):
        prune(model, "magnitude", 0.3, steps=200, schedule="linear")


def test_scores_are_of_the_model_as_it_is_in_that_round():
    model, _ = toy("vit")
    sizes = []

    def look(axes):
        sizes.append([axis.size for axis in axes])
        return [torch.arange(axis.size).double() for axis in axes]

    from prunekit import Criterion

    prune(model, Criterion("look", look, scope="kind"), 0.4, steps=2)
    assert all(b <= a for a, b in zip(*sizes, strict=True))
    assert sizes[0] != sizes[1]


def test_training_follows_every_round():
    recipe = recipes.find("quick").with_(epochs=1)
    epochs = []
    result = prune("vit_micro", "magnitude", 0.6, steps=2, finetune=recipe, on_epoch=epochs.append)
    assert len(epochs) == 2
    assert all(one.trained for one in result.rounds)
    untrained = prune("vit_micro", "magnitude", 0.6, steps=2)
    assert not any(one.trained for one in untrained.rounds)
    assert result.recipe["finetune"]["epochs"] == 1
    same = replace(recipe, epochs=1) == recipe
    assert same
