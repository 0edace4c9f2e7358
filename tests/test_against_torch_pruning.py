"""The torch-pruning side of the comparison: that what prunekit is compared with is sound."""

from __future__ import annotations

import copy
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from prunekit.inputs import zoo
from prunekit.inputs.architectures import build
from prunekit.inputs.data import open_data
from prunekit.inputs.feed import InputSpec
from prunekit.measuring.counting import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from against import fixups, pruned, search, side

MEMORIES = ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups")


@pytest.fixture(scope="module")
def swin() -> tuple[Any, Tensor]:
    """A model that magnitude is told of, which is nothing, and one image."""
    return informed("swin_micro")


def informed(arch: str, importance: str = "magnitude") -> tuple[Any, Tensor]:
    model = build(arch).model
    images, example = open_data(zoo.DATA, model), InputSpec.of(model).example()
    return side.inform(model, importance, images.calibration, example), example


def choice(axes: str = pruned.NARROW, importance: str = "magnitude", **options: str) -> Any:
    return pruned.Choice(importance, "isomorphic", axes, **options)


def heads(model: nn.Module) -> list[int]:
    return [part.num_heads for part in fixups.attentions(model)]


def test_a_mended_model_runs_and_is_the_masked_one(swin):
    told, example = swin

    made = side.prune_once(told, choice(), 0.5, example)

    assert made.model(example).shape == (1, 10)
    assert made.difference < 1e-4
    assert sum(heads(made.model)) < sum(heads(told.model))
    for part in fixups.attentions(made.model):
        assert part.relative_position_bias_table.shape[1] == part.num_heads


def test_the_search_reports_the_macs_that_stats_counts(swin):
    told, example = swin

    found = search.search(told, choice(), 0.5, example)

    before, after = (stats(model, example).macs for model in (told.model, found.best.model))
    assert found.best.macs == 1 - after / before
    assert abs(found.best.macs - 0.5) < 0.005


def test_what_was_not_to_shrink_does_not(swin):
    told, example = swin

    made = side.prune_once(told, choice(), 0.5, example)

    cut = {one.name.rpartition(".")[2] for one in made.removals}
    assert cut == {"qkv", "proj", "fc1", "fc2"}


def test_calls_share_nothing(swin):
    told, example = swin
    first = side.prune_once(told, choice(), 0.5, example)
    side.prune_once(*informed("vit_micro")[:1], choice(), 0.5, informed("vit_micro")[1])
    side.prune_once(told, choice(pruned.WIDE), 0.3, example)

    second = side.prune_once(told, choice(), 0.5, example)

    assert second.removals == first.removals
    assert torch.equal(second.model(example), first.model(example))
    defaults = inspect.signature(tp.pruner.BasePruner).parameters
    assert all(defaults[name].default == {} for name in MEMORIES)


def test_the_original_is_left_alone(swin):
    told, example = swin
    before, sizes = copy.deepcopy(told.model.state_dict()), heads(told.model)

    side.prune_once(told, choice(pruned.WIDE), 0.3, example)

    assert heads(told.model) == sizes
    for name, tensor in told.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_random_is_repeatable_and_leaves_the_generator_alone(swin):
    model, example = swin[0].model, swin[1]
    told = side.inform(model, "random", None, example)
    torch.manual_seed(5)
    state = torch.get_rng_state()

    made = [side.prune_once(told, choice(importance="random"), 0.5, example) for _ in range(2)]

    assert made[0].removals == made[1].removals
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_go_with_the_copy():
    told, _ = informed("vit_micro", "taylor")

    model, _ = told.fresh()

    pairs = list(zip(told.model.parameters(), model.parameters(), strict=True))
    assert all(torch.equal(old.grad, new.grad) for old, new in pairs if old.grad is not None)
    assert any(old.grad.any() for old, _ in pairs if old.grad is not None)
    assert all(old is not new for old, new in pairs)


def test_only_the_folded_scale_keeps_what_the_masked_model_computes(swin):
    told, example = swin

    mended, folded = (
        side.prune_once(told, choice(pruned.WIDE, fix_up=how), 0.3, example)
        for how in ("mended", "folded")
    )

    assert mended.removals == folded.removals
    assert mended.difference > 1e-2  # the comparison is able to fail
    assert folded.difference < 1e-4


def test_the_examples_fix_up_alone_leaves_a_vit_that_does_not_run():
    told, example = informed("vit_micro")

    with pytest.raises(pruned.BrokenError, match="forward raises RuntimeError"):
        side.prune_once(told, choice(fix_up="documented"), 0.5, example)
