"""Blocks that are trained towards what they returned."""

from __future__ import annotations

import copy
import io
from itertools import pairwise

import pytest
import torch
from conftest import toy
from rich.console import Console
from torch import nn

from prunekit import load, prune
from prunekit.errors import RepairError
from prunekit.plugin import configured
from prunekit.recovery.rebuild import rebuild_
from prunekit.repairs import REPAIRS
from prunekit.repairs.base import Repair
from prunekit.repairs.chain import chained
from prunekit.report import render
from prunekit.statistics.walk import Walk
from prunekit.testing.block_repairs import example_block

RECONSTRUCT = REPAIRS.get("reconstruct")


def batches_of(images: torch.Tensor) -> list[torch.Tensor]:
    moved = [images.roll(shift, -1) for shift in range(4)] + [images.flip(-1)]
    return [torch.cat([batch, batch.roll(1, -2)]) for batch in moved]


@pytest.mark.parametrize("family", ["vit", "swin", "convnext"])
def test_blocks_and_outputs_come_nearer(family):
    model, images = toy(family)
    batches = batches_of(images)
    options = {"data": batches, "example_input": images, "floor": 0.05}
    one, both = (
        prune(model, "magnitude", 0.5, repair=repair, **options)
        for repair in ("none", "reconstruct")
    )
    with torch.no_grad():
        seen = torch.cat(batches)
        dense, first, second = (m(seen) for m in (model, one.model, both.model))
    assert (second - dense).square().sum() < 0.6 * (first - dense).square().sum()
    gains = both.rounds[-1].rebuilt.values()
    assert gains
    assert all(gain.after <= gain.before for gain in gains)
    assert any(gain.after < 0.9 * gain.before for gain in gains)


def chain(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*layers).eval()


def test_a_block_that_is_worse_for_it_on_unseen_images_stays():
    dense = chain(4, 6, 4)
    small = chain(4, 6, 4)
    with torch.no_grad():
        small[0].weight.mul_(1.1)
    before = copy.deepcopy(small.state_dict())

    def worse(block):
        return {name: 100 * p.detach() for name, p in block.module.named_parameters()}

    broken = Repair("broken", worse, needs="blocks")
    found = rebuild_(small, dense, broken, ["0", "1"], [torch.randn(8, 4) for _ in range(5)])
    assert found["0"].before == found["0"].after
    for name, value in small.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_repair_never_sees_the_batches_that_judge_it():
    dense, small = chain(4, 4), chain(4, 4)
    with torch.no_grad():
        small[0].weight.mul_(1.1)
    images = [torch.full((2, 4), float(number)) for number in range(9)]
    seen = []

    def looks(block):
        if block.name:
            seen.extend(float(batch[0, 0]) for batch in block.inputs)
        return {}

    rebuild_(small, dense, Repair("looks", looks, needs="blocks"), ["0"], images)
    assert sorted(seen) == [1, 2, 3, 5, 6, 7]  # 0, 4 and 8 are held out


def test_of_a_single_batch_half_is_held_out():
    dense, small = chain(4, 4), chain(4, 4)
    with torch.no_grad():
        small[0].weight.mul_(1.1)
    (images,) = [torch.arange(6.0).unsqueeze(1).expand(6, 4)]
    seen = []
    looks = Repair("looks", lambda block: seen.append(block.inputs) or {}, needs="blocks")
    rebuild_(small, dense, looks, ["0"], [images])
    assert [batch[:, 0].tolist() for batch in seen[0]] == [[0, 1, 2]]


def test_blocks_that_lost_outputs_are_rebuilt_with_those_after_them():
    dense, small = chain(4, 8, 8, 4, 3), chain(4, 5, 5, 4, 3)
    images = [torch.randn(8, 4) for _ in range(5)]
    blocks = ["0", "1", "2", "3"]
    assert Walk(dense, small, images).runs(blocks) == [("0", "1", "2"), ("3",)]
    found = rebuild_(small, dense, RECONSTRUCT, blocks, images)
    assert set(found) == {"0 to 2", "3", ""}
    assert found["0 to 2"].after < 0.9 * found["0 to 2"].before


def test_a_block_is_rebuilt_on_what_the_rebuilt_ones_before_it_return():
    dense, small = chain(4, 4, 4), chain(4, 4, 4)
    with torch.no_grad():
        small[0].bias.add_(1.0)
    images = [torch.randn(8, 4) for _ in range(5)]
    given = {}

    def exact(block):
        given[block.name] = torch.cat(block.inputs)
        return {"bias": block.module.bias - 1} if block.name == "0" else {}

    rebuild_(small, dense, Repair("exact", exact, needs="blocks"), ["0", "1"], images)
    assert torch.equal(small[0].bias, dense[0].bias)
    assert "1" not in given  # it gets what it got, and returns what it returned


def test_a_model_that_lost_width_is_one_block():
    dense, small = chain(4, 8, 8, 3), chain(4, 5, 5, 3)
    images = [torch.randn(8, 4) for _ in range(5)]
    assert set(rebuild_(small, dense, RECONSTRUCT, ["0", "1"], images)) == {""}


def test_the_whole_model_is_rebuilt_at_last():
    dense, small = chain(4, 6, 4, 3), chain(4, 6, 4, 3)
    with torch.no_grad():
        small[2].bias.add_(1.0)  # after the last block
    images = [torch.randn(8, 4) for _ in range(5)]
    found = rebuild_(small, dense, configured(REPAIRS, "reconstruct:epochs=50"), ["0", "1"], images)
    assert set(found) == {""}
    assert found[""].after < found[""].before


def test_a_model_without_blocks_is_one_block():
    dense, small = chain(4, 8, 3), chain(4, 5, 3)
    found = rebuild_(small, dense, RECONSTRUCT, [], [torch.randn(8, 4) for _ in range(5)])
    assert set(found) == {""}
    assert found[""].after < found[""].before


def test_zeros_stay_through_a_reconstruction(tmp_path):
    model, images = toy("vit")
    result = prune(
        model, "magnitude", 0.5, granularity="weight", repair="lstsq,reconstruct",
        data=batches_of(images), example_input=images,
    )  # fmt: skip
    for name, kept in result.masks.kept.items():
        assert not result.model.get_parameter(name)[~kept].any(), name
    assert any(gain.after < gain.before for gain in result.rounds[-1].rebuilt.values())
    result.save(tmp_path / "saved")
    with torch.no_grad():
        again = load(tmp_path / "saved", model=model)
        assert torch.equal(again(images), result.model(images))


def test_a_block_whose_training_diverged_stays():
    dense, small = chain(4, 6, 4), chain(4, 6, 4)
    with torch.no_grad():
        small[0].weight.mul_(1.1)
    before = copy.deepcopy(small.state_dict())
    wild = configured(REPAIRS, "reconstruct:rate=1e30")
    rebuild_(small, dense, wild, ["0", "1"], [torch.randn(8, 4) for _ in range(5)])
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_half_precision_blocks_are_trained_in_float32():
    model, images = toy("vit")
    model, images = model.bfloat16(), images.bfloat16()
    result = prune(
        model, "magnitude", 0.4, repair="reconstruct", data=batches_of(images), example_input=images
    )
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert any(gain.after < gain.before for gain in result.rounds[-1].rebuilt.values())


def test_the_dense_model_is_untouched_and_nothing_wants_gradients():
    model, images = toy("swin")
    before = copy.deepcopy(model.state_dict())
    wanted = [p.requires_grad for p in model.parameters()]
    result = prune(
        model, "magnitude", 0.4, repair="reconstruct", data=batches_of(images), example_input=images
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in result.model.parameters())


WRONG = [
    (lambda block: None, "expected its parameters, by name"),
    (lambda block: {"nothing": torch.zeros(1)}, "expected parameters that it has"),
    (lambda block: {"0.weight": torch.zeros(1)}, r"expected \(4, 5\)"),
    (
        lambda block: {"0.weight": block.module[0].weight * float("nan")},
        "made '0.weight' of block 'mlp' NaN or infinite; correct",
    ),
    (lambda block: {"0.weight": torch.ones(4, 5)}, "holds at zero"),
]


@pytest.mark.parametrize(("function", "message"), WRONG, ids=[m for _, m in WRONG])
def test_what_is_no_block_is_refused(function, message):
    repair = Repair("wrong", function, needs="blocks", masks=True)
    with pytest.raises(RepairError, match=message):
        repair.rebuild(example_block(masked=True))


def test_a_report_names_repairs_as_they_are_written_and_the_whole_model_apart():
    model, images = toy("vit")
    spec = "lstsq:ridge=0.01+reconstruct:epochs=2,rate=0.01"
    result = prune(
        model, "magnitude", 0.4, repair=spec, data=batches_of(images), example_input=images
    )
    said = " ".join(" ".join(line.split()) for line in report_text(result.report()))
    assert f"repair {spec}, " in said
    blocks = len(result.rounds[-1].rebuilt) - 1
    assert f"mean error of {blocks} blocks on unseen images" in said
    assert "mean error of 1 reconstruction of the whole model on unseen images" in said


def report_text(report) -> list[str]:
    console = Console(width=1000, file=io.StringIO())
    console.print(render(report))
    return console.file.getvalue().splitlines()


def test_the_order_of_a_chain_is_that_in_which_nothing_is_undone():
    assert [one.name for one in chained("lstsq,reconstruct")] == ["lstsq", "reconstruct"]
    with pytest.raises(RepairError, match="write lstsq,reconstruct"):
        chained("reconstruct,lstsq")


@pytest.mark.parametrize(("option", "value"), [("epochs", 0), ("rate", 0.0)])
def test_options_that_train_nothing_are_refused(option, value):
    with pytest.raises(RepairError, match=option):
        configured(REPAIRS, "reconstruct").configure(**{option: value})


def test_a_model_of_several_outputs_without_blocks_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x), x

    with pytest.raises(RepairError, match="more than one tensor"):
        rebuild_(Two(), Two(), RECONSTRUCT, [], [torch.randn(8, 4)])
