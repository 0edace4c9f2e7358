"""Copies are what deepcopy would make, and what cannot be copied is named with a way out."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from conftest import TOYS, toy
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from prunekit.errors import AdapterError
from prunekit.tracing.checkpointing import without_checkpointing
from prunekit.tracing.copies import copy_with, in_precision, weightless


def copied(model):
    return copy_with(model, lambda _, tensor: tensor.clone())


def assert_same(found, expected, own):
    """Compare two copies of `own` all the way down."""
    assert type(found) is type(expected)
    if isinstance(own, torch.Tensor):
        assert found is not own
        assert torch.equal(found, expected)
    elif isinstance(own, nn.Module):
        assert found is not own
        assert list(vars(found)) == list(vars(expected))
        for name in vars(own):
            assert_same(vars(found)[name], vars(expected)[name], vars(own)[name])
    elif isinstance(own, dict):
        assert found is not own
        assert list(map(str, found)) == list(map(str, expected))
        for one, other, mine in zip(found, expected, own, strict=True):
            assert_same(found[one], expected[other], own[mine])
    elif isinstance(own, list | tuple):
        for one, other, mine in zip(found, expected, own, strict=True):
            assert_same(one, other, mine)
    else:
        assert found == expected or not isinstance(own, int | float | str | set | type(None))


@pytest.mark.parametrize("name", TOYS)
def test_a_copy_is_what_deepcopy_would_make(name):
    model, _ = toy(name)
    assert_same(copied(model), copy.deepcopy(model), model)


class Odd(nn.Module):
    """Holds a bit of everything."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.again = self.layer
        self.bare = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("fleeting", torch.ones(2), persistent=False)
        self.plain = torch.ones(2)
        self.settings = {"a": [1, {"b": 2}], "c": (self.layer, 3)}
        self.loose = {self.layer: "by module"}
        self.ordered = OrderedDict(x=self.settings)
        self.names = {"one", "two"}
        self.calls = []
        object.__setattr__(self, "hidden", [self.layer])
        self.layer.register_forward_hook(self.note)

    def note(self, *_):
        self.calls.append(1)

    def forward(self, x):
        return self.again(self.layer(x))


def test_what_is_shared_in_a_model_is_shared_in_its_copy_and_with_nothing_else():
    model = Odd()
    found = copied(model)
    assert_same(found, copy.deepcopy(model), model)
    assert found.again is found.layer is found.hidden[0] is found.settings["c"][0]
    assert next(iter(found.loose)) is found.layer
    assert found.ordered["x"] is found.settings
    assert found.settings["a"][1] is not model.settings["a"][1]
    assert found.plain is not model.plain
    assert not found.bare.requires_grad
    assert found.state_dict().keys() == model.state_dict().keys()
    found(torch.ones(1, 3))
    assert (len(found.calls), len(model.calls)) == (2, 0)  # the hook went along, to the copy


def test_a_module_s_own_way_to_be_copied_is_taken():
    class Own(nn.Linear):
        def __deepcopy__(self, memo):
            made = type(self)(*self.weight.T.shape)
            made.load_state_dict(self.state_dict())
            made.mark = "own"
            return made

    class State(nn.Linear):
        def __getstate__(self):
            return {**vars(self), "mark": "state"}

    model = nn.Sequential(Own(2, 3), State(3, 2))
    assert [part.mark for part in copied(model)] == ["own", "state"]


@pytest.mark.parametrize("register", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_parametrized_layers_stay_so(register):
    model = nn.Sequential(register(nn.Linear(3, 3)))
    found = copied(model)
    assert parametrize.is_parametrized(found[0], "weight")
    assert torch.equal(found(torch.eye(3)), model(torch.eye(3)))


def masked():
    prune.l1_unstructured(layer := nn.Linear(4, 4), "weight", 0.5)
    return layer


def cached():
    layer = nn.Linear(4, 4)
    layer.seen = layer(torch.ones(1, 4))
    return layer


def run(layer):
    layer(torch.ones(1, 4))
    return layer


@pytest.mark.parametrize(
    "make",
    [
        masked,
        lambda: run(weight_norm(nn.Linear(4, 4))),
        lambda: run(spectral_norm(nn.Linear(4, 4))),
    ],
    ids=["mask", "weight norm", "spectral norm"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_weight_that_a_hook_sets_is_computed_from_the_copied_parameters(make):
    model = nn.Sequential(nn.Linear(4, 4), make()).eval()
    assert not model[1].weight.is_leaf
    x = torch.ones(1, 4)
    found = copied(model)
    assert torch.equal(found(x), model(x))
    doubled = copy_with(model, lambda name, tensor: 2 * tensor if "bias" not in name else tensor)
    assert not torch.equal(doubled(x), model(x))


def test_a_computed_tensor_is_named_with_what_helps():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(cached()))
    with pytest.raises(AdapterError, match=r"Module '1\.0', Linear, holds a tensor '") as raised:
        copied(model)
    assert isinstance(raised.value.__cause__, RuntimeError)
    advice = "model.get_submodule('1.0').seen = model.get_submodule('1.0').seen.detach()"
    assert str(raised.value).endswith(f"; set {advice} first.")
    exec(advice, {"model": model})
    expected = model(torch.ones(1, 4))
    assert torch.equal(copied(model)(torch.ones(1, 4)), expected)


def test_a_lock_is_named_with_where_it_is_held():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].guard = threading.Lock()
    with pytest.raises(AdapterError, match=r"Module '0', Linear, holds 'guard', lock, which"):
        copied(model)
    del model.get_submodule("0").guard
    copied(model)


def test_a_lock_of_the_whole_model_is_named_too():
    model = nn.Linear(4, 4)
    model.guards = {"one": [threading.Lock()]}
    with pytest.raises(
        AdapterError, match=r"The model, Linear, holds 'guards'.*`del model.guards`"
    ):
        copied(model)


def test_a_hook_that_cannot_be_copied_is_named():
    class Hook:
        def __init__(self):
            self.guard = threading.Lock()

        def __call__(self, *_):
            pass

    model = nn.Sequential(nn.Linear(4, 4))
    handle = model[0].register_forward_hook(Hook())
    with pytest.raises(AdapterError, match=r"Module '0', Linear, has a hook that cannot be copied"):
        copied(model)
    handle.remove()
    copied(model)


def test_a_module_that_refuses_is_named():
    class Proud(nn.Linear):
        def __deepcopy__(self, memo):
            raise ValueError("never")

    with pytest.raises(AdapterError, match=r"Module '0', Proud, cannot be copied \(ValueError: ne"):
        copied(nn.Sequential(Proud(2, 2)))


# --- copies to be run --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [weightless, in_precision])
def test_copies_to_be_run_are_in_float32_without_checkpointing(make):
    model = nn.Sequential(nn.Linear(3, 3)).half()
    model[0].grad_checkpointing = True
    found, inputs = make(model, torch.ones(2, 3, dtype=torch.float64))
    assert {p.dtype for p in found.parameters()} == {inputs.dtype} == {torch.float32}
    assert not found[0].grad_checkpointing
    assert model[0].grad_checkpointing
    assert model[0].weight.dtype == torch.float16


def test_checkpointing_is_left_as_it_was_even_by_an_error():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].gradient_checkpointing, model[1].gradient_checkpointing = True, False
    found = []
    with suppress(ZeroDivisionError), without_checkpointing(model):
        found += [part.gradient_checkpointing for part in model]
        raise ZeroDivisionError
    assert found == [False, False]
    assert [part.gradient_checkpointing for part in model] == [True, False]
