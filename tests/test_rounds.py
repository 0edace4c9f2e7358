"""Pruning in rounds: the same promises after every one, and one plan for all of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import (
    FAMILIES,
    TOYS,
    adapter_of,
    axes_of,
    kinds_of,
    of_kind,
    random_plan,
    toy,
    traced,
    write_digits,
)
from test_heads import Plain
from torch import nn

from prunekit import Criterion, load, prune
from prunekit.adapters.finding import adapter_for
from prunekit.artifact import _records
from prunekit.cutting.shrink import shrunk
from prunekit.errors import BudgetError, PruneError, TrainingError
from prunekit.inputs import zoo
from prunekit.inputs.architectures import build
from prunekit.inputs.data import batches, open_data
from prunekit.inputs.feed import InputSpec
from prunekit.planning.rounds import combine, ratios
from prunekit.pruning.job import REPAIR_BATCH, Job
from prunekit.recovery import recipes
from prunekit.recovery.reconstruct import repair_
from prunekit.recovery.training.history import Epoch, Trained
from prunekit.repairs import REPAIRS
from prunekit.tracing.graph import trace


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
    kinds = [kind for kind in kinds_of(family) if kind != "block"]  # branches are large steps
    result = prune(
        model, "magnitude", 0.5, by=by, axes=kinds, steps=3, schedule="linear", multiple=1
    )
    assert len(result.rounds) == 3
    assert all(one.parity.holds for one in result.rounds)
    # Not the difference, which is exactly zero where a processor adds alike in both models.
    assert all(one.parity.scale > 0 for one in result.rounds)
    assert [one.asked for one in result.rounds] == pytest.approx([1 / 6, 2 / 6, 1 / 2])
    assert result.got == pytest.approx(0.5, abs=0.02)
    assert result.plan.asked == 0.5


@pytest.mark.parametrize("arch", zoo.names())
def test_the_artifact_of_many_steps_loads_like_any_other(arch, tmp_path):
    kinds = ["mlp", "head", "head_dim"] if arch in ("swin_micro", "vit_micro") else None
    result = prune(arch, "magnitude", 0.4, axes=kinds, repair="lstsq", steps=3, calibration=16)
    result.save(tmp_path / "small")
    loaded = load(tmp_path / "small")
    image = torch.randn(2, *loaded.pretrained_cfg["input_size"])
    with torch.no_grad():
        assert torch.equal(result.model(image), loaded(image))
    assert all(one.repaired for one in result.rounds)


def test_without_training_every_step_repairs_a_fresh_cut_of_the_original():
    result = prune("vit_micro", "taylor", 0.5, repair="lstsq", steps=2, calibration=16)
    built = build("vit_micro").model
    adapter = adapter_for(built)
    specs = [spec for spec in adapter.axes(built) if spec.name in result.plan.kept]
    axes = trace(built, specs, adapter, InputSpec.of(built).example())
    small = shrunk(built, axes, result.plan, adapter).eval()
    images = open_data("fashion-mnist-mini", built).calibration
    drawn = batches(images, REPAIR_BATCH, limit=16, seed=0)
    blocks = adapter.blocks(built)
    repair_(small, built, axes, result.plan, REPAIRS.get("lstsq"), blocks, drawn)
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name]), name


def test_floors_refer_to_the_original_sizes():
    """All of what leaves, leaves the first block, as far as the floor lets it."""
    model, _ = toy("vit")

    def first_goes(axes):
        return [torch.arange(axis.size) + 1000 * n for n, axis in enumerate(axes)]

    criterion = Criterion("first_goes", first_goes, scope="kind")
    options = {"by": "slices", "axes": ["mlp"], "floor": 0.5, "multiple": 1}
    for steps in (1, 3):
        result = prune(model, criterion, 0.3, steps=steps, **options)
        sizes, kept = result.plan.sizes, result.plan.kept
        assert len(kept["blocks.0.mlp"]) == sizes["blocks.0.mlp"] / 2
        assert len(kept["blocks.1.mlp"]) < sizes["blocks.1.mlp"]
        assert result.got == pytest.approx(0.3, abs=0.01)


def test_a_kind_that_has_no_axis_left_does_not_end_the_rounds():
    """Where one head is left, `auto` sees no axis of heads any more."""

    def heads_first(axes):
        return [torch.arange(axis.size) + 1000.0 * (axis.kind != "head") for axis in axes]

    criterion = Criterion("heads_first", heads_first, scope="model")
    example = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    options = {"axes": ["head", "mlp"], "multiple": 1, "example_input": example}
    mlp = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))
    model = nn.Sequential(Plain(heads=2, width=16), mlp, nn.Linear(16, 3)).eval()
    result = prune(model, criterion, 0.6, steps=3, schedule="linear", **options)
    kept = {result.kinds[name]: len(slices) for name, slices in result.plan.kept.items()}
    assert kept["head"] == 1
    assert kept["mlp"] < 16
    assert len(result.rounds) == 3


def test_rounds_that_have_nothing_to_remove_are_merged():
    model, _ = toy("vit")
    result = prune(model, "magnitude", 0.3, steps=60, schedule="cubic")
    assert 1 < len(result.rounds) < 60
    assert result.plan.asked == 0.3
    assert abs(result.got - prune(model, "magnitude", 0.3).got) < 0.02
    merged = 60 - len(result.rounds)
    assert result.warnings[0].startswith(f"{merged} of 60 rounds had nothing to remove")


def test_a_ratio_that_no_round_reaches_is_refused_before_any_training(tmp_path):
    epochs, steps = [], []
    with pytest.raises(BudgetError, match=r"A ratio of 0\.99 by params is out of reach"):
        prune(
            "vit_micro",
            "magnitude",
            0.99,
            steps=8,
            finetune=RECIPE,
            data=write_digits(tmp_path / "digits"),
            on_epoch=epochs.append,
            on_step=steps.append,
        )
    assert epochs == []
    assert "train" not in steps


def test_rounds_before_a_late_failure_are_kept(tmp_path, monkeypatch):
    trained = []

    def fails_later(job, model, masks=None):
        trained.append(model)
        if len(trained) == 2:
            raise TrainingError("The loss is not a number; lower the learning rate.")
        return job.__class__._train(job, model, masks)

    monkeypatch.setattr(Job, "_train", Job.train_, raising=False)
    monkeypatch.setattr(Job, "train_", fails_later)
    with pytest.raises(TrainingError, match="loss is not a number") as caught:
        prune(
            "vit_micro",
            "magnitude",
            0.5,
            steps=3,
            finetune=RECIPE,
            data=write_digits(tmp_path / "digits"),
        )
    kept = caught.value.finished
    assert len(kept.rounds) == 1
    assert kept.model is trained[0]
    assert 0 < kept.got < 0.5
    kept.save(tmp_path / "kept")
    load(tmp_path / "kept")


def test_scores_are_of_the_model_as_it_is_in_that_round():
    model, _ = toy("vit")
    sizes = []

    def look(axes):
        sizes.append([axis.size for axis in axes])
        return [torch.arange(axis.size).double() for axis in axes]

    prune(model, Criterion("look", look, scope="kind"), 0.4, steps=2)
    assert all(b <= a for a, b in zip(*sizes, strict=True))
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_of_many_steps_cuts_the_very_weights_out_of_the_original(family):
    model, images = toy(family)
    out = next(axis.name for axis in traced(family)[2] if axis.kind == "mlp")
    result = prune(
        model, "magnitude", 0.3, by="slices", axes=["mlp"], exclude=[out], steps=3, multiple=1
    )
    assert len(result.plan.kept) == len(of_kind(traced(family)[2], "mlp")) - 1
    assert out not in result.plan.kept
    axes = [axis for axis in axes_of(model, images, "mlp") if axis.name in result.plan.kept]
    replayed = shrunk(model, axes, result.plan, adapter_of(family)).state_dict()
    assert shapes(result.model) == {name: tuple(t.shape) for name, t in replayed.items()}
    assert all(torch.equal(t, replayed[name]) for name, t in result.model.state_dict().items())
    left = sum(len(kept) for kept in result.plan.kept.values())
    assert 1 - left / sum(result.plan.sizes.values()) == pytest.approx(result.plan.got)


def test_only_what_is_included_shrinks_in_any_step():
    model, _ = toy("vit")
    result = prune(
        model, "magnitude", 0.1, axes=["mlp", "head"], include=["blocks.1.*"], steps=2, multiple=1
    )
    assert set(result.plan.kept) == {"blocks.1.mlp", "blocks.1.attn.head"}
    before, after = shapes(model), shapes(result.model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert all(name.startswith("blocks.1.") for name in changed)


def test_floors_and_rests_refer_to_slices_per_group_of_the_original():
    """Heads of 8 dimensions, of which half must stay in every step."""
    model, _ = toy("vit")
    options = {"by": "slices", "axes": ["head_dim"], "floor": 0.5, "multiple": 1}
    result = prune(model, "random", 0.45, steps=3, schedule="linear", **options)
    for name, kept in result.plan.kept.items():
        assert len(kept) >= 0.5 * result.plan.sizes[name]
    assert [one.asked for one in result.rounds] == pytest.approx([0.15, 0.3, 0.45])
    assert result.plan.asked == 0.45
    assert result.plan.got == pytest.approx(0.45, abs=0.07)


def test_a_run_s_parity_is_that_of_its_worst_round():
    model, _ = toy("vit")
    result = prune(model, "magnitude", 0.4, steps=2)
    for order in (result.rounds, result.rounds[::-1]):
        good, bad = (
            replace(one, parity=replace(one.parity, difference=difference))
            for one, difference in zip(order, (0.0, 1e9), strict=True)
        )
        assert not replace(result, rounds=(good, bad)).parity.holds
        assert not replace(result, rounds=(bad, good)).parity.holds


# --- the images, and training ----------------------------------------------------------


class Sealed:
    """A split that must not be opened."""

    def __len__(self):
        raise AssertionError("the test images were counted")

    def __getitem__(self, index):
        raise AssertionError("a test image was read")


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A folder whose test images raise when they are touched; yields those that were read."""
    from prunekit.pruning import job

    read, find = [], job.find_images

    class Watched(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images, self.targets = images, images.targets

        def __len__(self):
            return len(self.images)

        def __getitem__(self, position):
            read.append(position)
            return self.images[position]

    def sealed(*arguments, **options):
        found = find(*arguments, **options)
        return replace(found, test=Sealed(), calibration=Watched(found.calibration))

    monkeypatch.setattr(job, "find_images", sealed)
    return write_digits(tmp_path / "digits"), read


def test_criterion_and_repair_see_the_same_few_training_images_and_no_others(digits):
    folder, read = digits
    found = []
    for seed in (0, 0, 1):
        read.clear()
        prune("vit_micro", "taylor", 0.4, repair="lstsq", data=folder, calibration=7, steps=2,
              seed=seed)  # fmt: skip
        found.append(set(read))
        assert len(found[-1]) == 7
    assert found[0] == found[1] != found[2]


RECIPE = recipes.find("quick").with_(epochs=1, batch_size=16)


def test_training_follows_every_round(tmp_path):
    epochs, folder = [], write_digits(tmp_path / "digits")
    options = {"data": folder, "steps": 2, "on_epoch": epochs.append}
    result = prune("vit_micro", "magnitude", 0.6, finetune=RECIPE, **options)
    assert len(epochs) == 2
    assert [one.trained.images for one in result.rounds] == [63, 63]
    untrained = prune("vit_micro", "magnitude", 0.6, **options)
    assert not any(one.trained for one in untrained.rounds)
    assert result.recipe["finetune"]["epochs"] == 1
    result.save(tmp_path / "out")
    history = (tmp_path / "out" / "history.jsonl").read_text().splitlines()
    assert len(history) == 2


def test_training_gets_the_training_images_the_dense_teacher_and_the_last_step_s_model(
    digits, monkeypatch
):
    calls = []

    def train_(small, images, recipe, *, teacher, **options):
        calls.append((small, teacher, len(images), options["seed"], recipe))
        with torch.no_grad():
            small.patch_embed.proj.bias.add_(len(calls))
        history = (Epoch(1, 0.1, 1.0, 40.0 + len(calls), 1.0, 1.0),)
        return Trained(history, 1, 10.0, 50.0, 1, 1, ("labels",), 1, "cpu", 1.0)

    monkeypatch.setattr("prunekit.pruning.job.train_", train_)
    result = prune("vit_micro", "magnitude", 0.5, steps=3, finetune=RECIPE, data=digits[0],
                   seed=4)  # fmt: skip
    assert [call[2:] for call in calls] == [(70, 4, RECIPE)] * 3
    assert {id(teacher) for _, teacher, *_ in calls} == {id(calls[0][1])}
    dense = sum(p.numel() for p in calls[0][1].parameters())
    assert dense == result.before.params
    biases = [model.patch_embed.proj.bias for model in (calls[0][1], *(c[0] for c in calls))]
    moved = [float((bias - biases[0]).detach().mean()) for bias in biases]
    assert moved == pytest.approx([0, 1, 1 + 2, 1 + 2 + 3], abs=1e-5)
    assert result.model is calls[-1][0]
    drawn = []
    monkeypatch.setattr("prunekit.artifact.learning_curve", lambda *a: drawn.append(a) or "<svg/>")
    lines = _records(result)["history.jsonl"].splitlines()
    assert [json.loads(line)["val_top1"] for line in lines] == [41.0, 42.0, 43.0]
    ((history, start, best, _),) = drawn
    assert (history, start, best) == (result.rounds[-1].trained.history, 10.0, 1)
