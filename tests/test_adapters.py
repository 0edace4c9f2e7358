"""Adapters are other people's code: what they raise or return is told under their name."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from conftest import toy
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from prunekit import Adapter, AxisSpec, Fold, Tie, prune, register
from prunekit.adapters import ADAPTERS, finding
from prunekit.adapters.answers import (
    axes_of,
    blocks_of,
    fixup_,
    matches,
    role_of,
    toy_of,
    unfollowed_by,
)
from prunekit.adapters.finding import adapter_for, find_adapter
from prunekit.axis import Places
from prunekit.errors import AdapterError, PluginWarning, RegistryError
from prunekit.registry import Registry


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.down(self.up(x).relu())


class Own(Adapter):
    name = "own"
    kinds = default_kinds = ("mlp",)

    def matches(self, model):
        return isinstance(model, Net)

    def axes(self, model):
        return [AxisSpec("mlp", "mlp", layer="up")]


def own(**attributes):
    """Return an adapter that differs from `Own` in some attributes."""
    return type("Own", (Own,), {"__module__": "mine", **attributes})()


def answering(method, answer):
    return own(**{method: lambda self, *_: answer})


def failing(method, error):
    def fails(self, *_):
        raise error

    return own(**{method: fails})


@pytest.fixture
def adapters(monkeypatch):
    """Return a registry of adapters of the test's own."""
    own = Registry("adapter", "prunekit.tests", ADAPTERS._builtin, ADAPTERS._kind)
    for module in (finding, sys.modules["prunekit.adapters.base"]):
        monkeypatch.setattr(module, "ADAPTERS", own)
    return own


ASKED = {
    "matches": lambda adapter: matches(adapter, Net()),
    "axes": lambda adapter: axes_of(adapter, Net()),
    "role": lambda adapter: role_of(adapter, "up.weight"),
    "unfollowed": lambda adapter: unfollowed_by(adapter, Net()),
    "blocks": lambda adapter: blocks_of(adapter, Net()),
    "fixup": lambda adapter: fixup_(adapter, Net(), {}),
    "toy": toy_of,
}


@pytest.mark.parametrize("error", [KeyError("blocks"), SystemExit(0), MemoryError("much")])
@pytest.mark.parametrize("method", ASKED)
def test_a_method_that_fails_is_named(method, error):
    reason = rf"{method}\(\), failed with {type(error).__name__}: {error}; correct it"
    with pytest.raises(AdapterError, match=rf"Adapter 'own' \(mine:own\), asked for its {reason}"):
        ASKED[method](failing(method, error))


def test_ctrl_c_is_nobody_s_fault():
    with pytest.raises(KeyboardInterrupt):
        ASKED["axes"](failing("axes", KeyboardInterrupt()))


@pytest.mark.parametrize("method", ["axes", "role", "unfollowed", "fixup"])
def test_a_run_names_the_adapter_that_fails(method):
    adapter, example = failing(method, ZeroDivisionError("by zero")), torch.randn(4, 6)
    with pytest.raises(AdapterError, match=r"'own' \(mine:own\).*ZeroDivisionError: by zero"):
        prune(Net(), "magnitude", 0.3, adapter=adapter, example_input=example)


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("axes", None, r"returned None from axes\(\); expected a list of AxisSpec"),
        ("axes", "mlp", r"returned 'mlp' from axes\(\)"),
        ("axes", ["mlp"], r"returned 'mlp' from axes\(\); expected a list of AxisSpec only"),
        ("axes", [], "declares no axes of Net"),
        ("role", 3, r"returned 3 from role\(\); expected a word"),
        ("unfollowed", "up", r"returned 'up' from unfollowed\(\); expected a list of str"),
        ("unfollowed", 3, r"returned 3 from unfollowed\(\)"),
        ("blocks", "up", r"returned 'up' from blocks\(\)"),
        ("blocks", ["middle"], "names a block 'middle', which Net does not have"),
        ("toy", None, r"returned None from toy\(\); expected a model and a batch"),
        ("toy", (3, torch.ones(1)), r"returned \(3, tensor\(\[1\.\]\)\) from toy\(\)"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(method, answer, message):
    with pytest.raises(AdapterError, match=rf"^Adapter 'own' \(mine:own\) {message}"):
        ASKED[method](answering(method, answer))


FOLD = Fold((32,))


def tied(parameter="up.weight", dim=0, fold=FOLD):
    return AxisSpec("mlp", "mlp", ties=(Tie(parameter, dim, fold),))


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (AxisSpec("", "mlp", "up"), "axis '', whose name is not a word"),
        (AxisSpec("a", "width", "up"), "whose kind 'width' is missing from its kinds"),
        (AxisSpec("a", None, "up"), "whose kind None is missing"),
        (AxisSpec("a", "mlp"), "which names neither a layer nor ties"),
        (AxisSpec("a", "mlp", "up", side="left"), "whose side is 'left'"),
        (AxisSpec("a", "mlp", "up", groups=0), "whose groups are 0"),
        (AxisSpec("a", "mlp", "up", owner="head"), "whose owner 'head' is no module"),
        (AxisSpec("a", "mlp", "up", fold=(32,)), r"folded by \(32,\), which is not a Fold"),
        (AxisSpec("a", "mlp", "up", fold=Fold((32,), (1,))), r"along \(1,\) of the layout \(32,\)"),
        (AxisSpec("a", "mlp", "up", fold=Fold((32, 0))), r"of the layout \(32, 0\)"),
        (AxisSpec("a", "mlp", "up", fold=Fold((2, 16), (0, 0))), r"along \(0, 0\) of the layout"),
        (AxisSpec("a", "mlp", "up", fold=Fold((10**9, 10**9))), "which no dimension is as long as"),
        (tied(fold=Places(32, ((31,), (32,)))), "by 2 rows of places, though its shape is"),
        (tied(fold=Places(32, ((0, 1), (2,)))), "by 2 rows of places, though its shape is"),
        (tied(fold=Fold((2, 16), (0,), (1,))), r"by taking \(1,\) of the layout \(2, 16\) along"),
        (tied(fold=Fold((2, 16), (1,), (2,))), r"by taking \(2,\) of the layout \(2, 16\)"),
        (AxisSpec("a", "mlp", ties=("up",)), "'up' among its ties, which is not a Tie"),
        (tied("middle"), "tied to 'middle', which is no parameter or buffer"),
        (tied(dim=2), r"tied to dimension 2 of 'up.weight', whose shape is \(32, 6\)"),
        (tied(fold=Fold((31,))), r"by the layout \(31,\), though its shape is \(32, 6\)"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(spec, problem):
    with pytest.raises(AdapterError, match=rf"^Adapter 'own' \(mine:own\) declares .*{problem}"):
        axes_of(answering("axes", [spec]), Net())


def test_two_axes_of_one_name_are_refused():
    twice = [AxisSpec("a", "mlp", "up"), AxisSpec("a", "mlp", "up")]
    with pytest.raises(AdapterError, match="axis 'a', which another axis is called too"):
        axes_of(answering("axes", twice), Net())


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"name": ""}, "has no name"),
        ({"name": 3}, "has no name"),
        ({"kinds": "mlp"}, "has kinds of 'mlp', where a tuple of words is expected"),
        ({"kinds": (3,)}, r"has kinds of \(3,\)"),
        ({"kinds": property(lambda self: 1 / 0)}, "failed with ZeroDivisionError"),
        ({"default_kinds": None}, "has default_kinds of None"),
        ({"default_kinds": ("head",)}, "has 'head' among its default_kinds"),
        ({"aliases": 3}, "has aliases of 3"),
    ],
)
def test_an_adapter_that_does_not_declare_what_it_must_is_refused(attributes, problem):
    for accept in (register, lambda adapter: find_adapter(adapter, Net())):
        with pytest.raises(AdapterError, match=rf"^Adapter '\w*' \(mine\) {problem}"):
            accept(own(**attributes))


@pytest.mark.parametrize("given", [Own, 3, object()])
def test_what_is_no_adapter_is_refused(given):
    with pytest.raises(AdapterError, match=r"Expected an adapter or its name, got .*an instance"):
        find_adapter(given, Net())


# --- which one ---------------------------------------------------------------------------


def test_an_adapter_that_does_not_know_the_model_says_so():
    for adapter in ("vit", ADAPTERS.get("vit")):
        with pytest.raises(AdapterError, match=r"Adapter 'vit' does not know Net; .* write one"):
            prune(Net(), "magnitude", 0.3, adapter=adapter, example_input=torch.randn(2, 6))


def test_an_adapter_is_found_by_name():
    assert find_adapter("vit", toy("vit")[0]) is ADAPTERS.get("vit")
    with pytest.raises(RegistryError, match=r"No adapter is called 'vitt'\. Did you mean 'vit'"):
        find_adapter("vitt", Net())


def test_a_passed_adapter_is_taken_at_its_word():
    adapter = answering("matches", False)
    assert find_adapter(adapter, Net()) is adapter


def test_an_adapter_that_fails_to_answer_is_passed_over(adapters):
    adapters.add("own", failing("matches", KeyError("x")))
    adapters.add("fine", own(name="fine"))
    with pytest.warns(
        PluginWarning, match=r"'own' \(mine:own\), asked for its matches.*passed over"
    ):
        assert adapter_for(Net()).name == "fine"
    assert adapter_for(Net()).name == "fine"  # with no other warning
    with pytest.raises(
        AdapterError, match=r"No adapter knows DataParallel; .*Passed over: Adapter 'own'"
    ):
        adapter_for(DataParallel(nn.Linear(1, 1)))


def test_an_adapter_of_another_shape_is_passed_over(adapters):
    adapters.add("own", own(kinds=None))
    with pytest.warns(PluginWarning, match="'own' .* has kinds of None"):
        assert adapter_for(toy("swin")[0]).name == "swin"


# --- wrappers ------------------------------------------------------------------------------


def averaged(model):
    return AveragedModel(model)


WRAPPERS = {
    "DataParallel": (DataParallel, "model.module"),
    "compile": (torch.compile, "model._orig_mod"),
    "AveragedModel": (averaged, "model.module"),
    "ModelEma": (ModelEma, "model.ema"),
    "ModelEmaV2": (ModelEmaV2, "model.module"),
    "ModelEmaV3": (ModelEmaV3, "model.module"),
    "both": (lambda model: DataParallel(torch.compile(model)), "model.module._orig_mod"),
    "Sequential": (lambda m: nn.Sequential(nn.Identity(), m), "model.get_submodule('1')"),
}


@pytest.mark.parametrize(("wrap", "expected"), WRAPPERS.values(), ids=WRAPPERS)
def test_of_a_wrapper_it_is_told_what_to_pass(wrap, expected):
    model = wrap(toy("vit")[0])
    with pytest.raises(AdapterError) as caught:
        adapter_for(model)
    assert f"No adapter knows {type(model).__name__};" in str(caught.value)
    assert f"It wraps a model: pass {expected}" in str(caught.value)
    assert adapter_for(eval(expected, {"model": model})).name == "vit"


def test_of_distributed_models_too(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = DistributedDataParallel(toy("swin")[0])
        with pytest.raises(AdapterError, match=r"pass model\.module\."):
            adapter_for(model)
    finally:
        torch.distributed.destroy_process_group()


def test_a_peft_model_is_to_be_merged_first():
    class PeftModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.base_model = toy("vit")[0]

        def merge_and_unload(self):
            return self.base_model

    model = PeftModel()
    with pytest.raises(AdapterError, match=r"pass model\.merge_and_unload\(\)"):
        adapter_for(model)
    assert adapter_for(model.merge_and_unload()).name == "vit"


def test_what_is_installed_is_read_once_for_all_parts_of_a_model(monkeypatch):
    """Reading it takes milliseconds, and a model has hundreds of parts."""
    read = []
    monkeypatch.setattr(finding, "usable", lambda: read.append(1) or [ADAPTERS.get("vit")])
    adapter_for(timm.create_model("test_resnet"))
    assert len(read) == 1


def test_what_no_family_knows_is_looked_at():
    assert adapter_for(timm.create_model("resnet18")).name == "auto"
    assert adapter_for(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))).name == "auto"


@pytest.mark.parametrize(
    ("wrap", "expected"), list(WRAPPERS.values())[:-1], ids=list(WRAPPERS)[:-1]
)
def test_of_a_wrapped_model_of_any_family_too(wrap, expected):
    model = wrap(timm.create_model("test_resnet"))
    with pytest.raises(AdapterError, match="It wraps a model: pass ") as caught:
        adapter_for(model)
    told = str(caught.value).rpartition("pass ")[2].partition(", or add at=")[0].rstrip(".")
    assert isinstance(eval(told, {"model": model}), nn.Module)
