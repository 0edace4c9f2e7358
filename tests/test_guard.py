"""Plug-ins may read what they are given, and write to none of it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from conftest import toy, traced
from torch import nn

from prunekit import prune
from prunekit.axis import tensors_of
from prunekit.criteria import CRITERIA
from prunekit.criteria.base import Criterion
from prunekit.errors import CriterionError, RepairError, TamperedError
from prunekit.guard import SAMPLE, reading_only
from prunekit.repairs.base import Repair
from prunekit.repairs.given import Product
from prunekit.shared import Shared
from prunekit.statistics import gather
from prunekit.testing import example_axes, example_layer


def swallowed(tensor):
    try:
        tensor.zero_()
    except Exception:
        return


WRITES = {
    "in place": lambda t: t.abs_(),
    "an operator": lambda t: t.__imul__(2),
    "by data": lambda t: t.data.mul_(2),
    "into out": lambda t: torch.mul(t, 2, out=t),
    "one row": lambda t: t[0].zero_(),
    "through a view": lambda t: t.T.mul_(2),
    "many at once": lambda t: torch._foreach_mul_([t], 2),
    "another shape": lambda t: t.resize_(1),
    "swallowed": swallowed,
}
WORDS = r"Criterion 'l1' \(mine:l1\) tried to write to the weight of 'fc1' \(\w+\)"


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_would_write_is_stopped_before_it_does(write, inference):
    weight = torch.randn(4, 4)
    before = weight.clone()
    with (
        pytest.raises(TamperedError, match=rf"{WORDS}.*nothing was changed.*copy") as caught,
        torch.inference_mode(inference),
        reading_only("Criterion 'l1' (mine:l1)", lambda: {"the weight of 'fc1'": weight}),
    ):
        write(weight)
    assert torch.equal(weight, before)
    assert not caught.value.changed


def by_numpy(tensor):
    tensor.numpy()[:, 1:] = 7


def by_data(tensor):
    tensor.data = torch.zeros_like(tensor)


@pytest.mark.parametrize("rows", [4, 1024])
@pytest.mark.parametrize("write", [by_numpy, by_data])
def test_what_is_written_past_torch_is_found(write, rows):
    weight = torch.randn(rows, 1024)
    with (
        pytest.raises(
            TamperedError, match=r"It changed the weight, .* load the model again"
        ) as caught,
        reading_only("It", lambda: {"the weight": weight}),
    ):
        write(weight)
    assert caught.value.changed


def test_what_was_written_is_told_even_if_the_plug_in_failed_afterwards():
    weight = torch.randn(3)

    def fails():
        weight.numpy()[:] = 1
        raise ZeroDivisionError

    with (
        pytest.raises(TamperedError) as caught,
        reading_only("It", lambda: {"the weight": weight}),
    ):
        fails()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "weight",
    [
        torch.tensor([float("nan"), 1.0]),
        torch.randn(50, 60).T,
        torch.randn(40, 8, dtype=torch.bfloat16),
        torch.empty(0, 1),
        torch.tensor(1.0),
        nn.Parameter(torch.randn(3, 3)),
        torch.arange(SAMPLE * 3 + 1),
    ],
    ids=lambda tensor: str(tuple(tensor.shape)),
)
def test_reading_is_free(weight):
    with reading_only("It", lambda: {"the weight": weight}):
        copy = weight.detach().clone()
        copy.zero_()  # its own


def test_another_error_passes_as_it_is():
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught, reading_only("It", dict):
        raise error
    assert caught.value is error


# --- criteria ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", list(example_axes()[0].members[0].tensors))
def test_a_criterion_cannot_write_to(what):
    def writes(axes):
        for axis in axes:
            axis.voters[-1].tensors[what].mul_(2)
        return [torch.arange(axis.size) for axis in axes]

    axes = example_axes()
    before = {name: tensor.clone() for name, tensor in tensors_of(axes).items()}
    with pytest.raises(CriterionError, match=rf"'writes' \(test_guard:.*{what} of 'blocks.0.mlp"):
        Criterion("writes", writes, needs="activations")(axes)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors_of(axes).items())


def test_a_criterion_that_is_refused_spoils_no_other():
    model, images, axes = traced("swin")
    shared = gather("activations", model, axes, [(images, torch.tensor([0, 1]))])
    expected = CRITERIA.get("wanda")(shared)

    def sorts(axes):
        axes.reverse()
        return [axis.members[0].inputs.mean.sort_().values for axis in axes]

    with pytest.raises(CriterionError):
        Criterion("sorts", sorts, needs="activations")(shared)
    assert all(map(torch.equal, expected, CRITERIA.get("wanda")(shared)))


def absolute(axes):
    return [axis.reduce(lambda member: member.weight.abs_()) for axis in axes]


@pytest.mark.parametrize("granularity", ["slice", "weight"])
def test_the_caller_s_model_stays_what_it_was(granularity):
    model, images = toy("vit")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    criterion = Criterion("l1", absolute, weight_level=True)
    with pytest.raises(TamperedError, match=r"'l1' \(test_guard:absolute\).*the weight of 'blocks"):
        prune(model, criterion, 0.3, granularity=granularity, example_input=images)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_runs_that_share_with_it_come_to_the_same():
    alone = prune("vit_micro", "magnitude", 0.3).scores
    shared = Shared()
    with pytest.raises(TamperedError):
        prune("vit_micro", Criterion("l1", absolute), 0.3, shared=shared)
    beside = prune("vit_micro", "magnitude", 0.3, shared=shared).scores
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_watching_a_tensor_takes_microseconds():
    axes = traced("swin")[2]
    start = time.perf_counter()
    with reading_only("It", lambda: tensors_of(axes)):
        pass
    each = (time.perf_counter() - start) / len(tensors_of(axes))
    assert each < 1e-3  # it is some 50 microseconds, before and after together


# --- repairs -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", list(example_layer().tensors))
def test_a_repair_cannot_write_to(what):
    def writes(layer):
        layer.tensors[what].mul_(2)
        return layer.weight, layer.bias

    with pytest.raises(RepairError, match=r"'writes' \(test_guard.* tried to write to the "):
        Repair("writes", writes)(example_layer())


@pytest.mark.parametrize("what", ["queries", "keys", "kept"])
def test_what_mixes_products_cannot_write_to(what):
    def writes(product):
        getattr(product, what).add_(1)

    product = Product("head", torch.eye(4), torch.eye(4), torch.tensor([0, 2]))
    repair = Repair("writes", lambda layer: (layer.weight, layer.bias), product=writes)
    with pytest.raises(TamperedError, match=f"'writes' .*{what.removesuffix('s')}"):
        repair.mix(product)


def test_an_error_says_whether_something_is_changed_in_another_process_too():
    import pickle

    error = pickle.loads(pickle.dumps(TamperedError("It did.", changed=True)))
    assert (str(error), error.changed) == ("It did.", True)


def test_a_replaced_tensor_counts_as_changed():
    def swaps(axes):
        member = axes[0].members[0]
        object.__setattr__(member, "weight", replace(member, weight=member.weight + 1).weight)
        return [torch.arange(axis.size) for axis in axes]

    with pytest.raises(TamperedError, match="changed the weight of"):
        Criterion("swaps", swaps)(example_axes())
