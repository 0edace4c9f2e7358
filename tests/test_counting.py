"""MACs of every module tree: each operation is counted once, where it belongs."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from conftest import TOYS, toy
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from prunekit import Adapter, AxisSpec, prune
from prunekit.axis import Axis, Member
from prunekit.errors import AdapterError
from prunekit.inputs.architectures import build
from prunekit.measuring.counting import mac_terms, macs_by_module
from prunekit.measuring.macs import count_macs
from prunekit.statistics import gather

ONE = torch.randn(1, 6)


def layer():
    return nn.Linear(6, 6)


def torch_counts(model, example):
    """Return what torch's own counter makes of a real forward pass of one image."""
    counter = FlopCounterMode(display=False)
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), math, counter:
        model(example[:1])
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", TOYS)
def test_modules_add_up_to_what_torch_counts_of_the_whole(name):
    model, images = toy(name)
    assert sum(macs_by_module(model, images).values()) == torch_counts(model, images) > 0


class Looped(nn.Module):
    """Loops over a list and a dictionary of layers, one of which never runs."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([layer(), layer()])
        self.heads = nn.ModuleDict({"used": nn.Linear(6, 2), "spare": layer()})

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.heads["used"](x)


class Shared(nn.Module):
    """Has one layer under two names, and runs it three times."""

    def __init__(self):
        super().__init__()
        self.first = self.second = layer()

    def forward(self, x):
        return self.first(self.second(self.first(x)))


class Outside(nn.Module):
    """Calls a layer of a module that itself never runs, and one whose hooks it passes by."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Sequential(layer(), layer()), nn.Linear(6, 2)

    def forward(self, x):
        return self.last.forward(self.inner[1](x))


class Pair(nn.Module):
    """Takes two inputs, one of them by name, and returns a dictionary of tuples."""

    def __init__(self):
        super().__init__()
        self.left, self.right = layer(), layer()

    def forward(self, x, *, other):
        return {"both": (self.left(x), self.right(other)), "none": None}


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        return self.pair(x, other=x)["both"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Looped(), {"blocks.0": 36, "blocks.1": 36, "heads.used": 12}),
        (Shared(), {"first": 3 * 36}),
        (Outside(), {"inner.1": 36, "": 12}),
        (Many(), {"pair.left": 36, "pair.right": 36}),
    ],
)
def test_a_layer_is_counted_wherever_it_is_called_from(model, expected):
    assert macs_by_module(model, ONE) == expected


def test_what_a_module_multiplies_itself_is_its_own():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer()

        def forward(self, x):
            before = x @ x.T  # (1, 1)
            return self.inner(x) @ x.T + before

    assert macs_by_module(nn.Sequential(Product()), ONE) == {"0": 6 + 6, "0.inner": 36}


def test_a_weight_used_past_its_module_shrinks_with_its_own_dimensions():
    model = Outside()
    terms = {term.dims[0][0]: term.cost for term in mac_terms(model, [], ONE)}
    assert terms == {"inner.1.weight": 36, "last.weight": 12}


def test_of_two_parameters_in_one_product_the_larger_one_is_its_weight():
    class Latent(nn.Module):
        def __init__(self):
            super().__init__()
            self.latent, self.query = nn.Parameter(torch.randn(1, 6)), nn.Linear(6, 6)

        def forward(self, x):
            return self.query(self.latent) + x

    assert count_macs(Latent(), ONE) == {("query", "query.weight"): 36}


def test_products_of_the_owner_of_an_axis_are_proportional_to_the_axis():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer()

        def forward(self, x):
            y = self.inner(x)
            return y @ y.T

    model = nn.Sequential(Attention())
    spec = AxisSpec("a", "width", "0.inner", owner="0")
    member = Member("0.inner.weight", "w", 0, torch.arange(6)[:, None], model[0].inner.weight)
    terms = mac_terms(model, [Axis(spec, 6, (member,))], ONE)
    assert {(term.cost, term.dims) for term in terms} == {
        (36, (("0.inner.weight", 0), ("0.inner.weight", 1))),
        (6, (("0.inner.weight", 0),)),
    }


def test_torch_s_own_attention_is_counted_in_full_by_its_weights():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens = 5
    found = count_macs(model, torch.randn(1, tokens, 8))
    assert found["self_attn", "self_attn.in_proj_weight"] == tokens * 8 * 24
    assert found["self_attn", "self_attn.out_proj.weight"] == tokens * 8 * 8
    assert found["self_attn", ""] == 2 * tokens * tokens * 8


# --- gradient checkpointing --------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(layer(), layer()), reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_without_a_switch_is_counted_once(reentrant):
    assert macs_by_module(Checkpointed(reentrant), ONE) == {"inner.0": 36, "inner.1": 36}


def test_a_model_with_checkpointing_is_pruned_as_without_and_keeps_it():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=7)
    plain = prune(model, "magnitude", 0.3)
    model.set_grad_checkpointing(True)
    found = prune(model, "magnitude", 0.3)
    assert (found.before, found.after) == (plain.before, plain.after)
    assert found.plan == plain.plan
    assert model.grad_checkpointing
    assert found.model.grad_checkpointing


INFORMED = [{"criterion": name} for name in ("taylor", "fisher", "wanda")]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("words", [{"repair": "lstsq"}, *INFORMED], ids=str)
def test_statistics_are_the_same_with_checkpointing(words):
    model, found = build("vit_micro").model, []
    for on in (False, True):
        model.set_grad_checkpointing(on)
        found.append(prune(model, ratio=0.3, data="fashion-mnist-mini", calibration=16, **words))
    for one, other in zip(*(result.model.state_dict().values() for result in found), strict=True):
        assert torch.equal(one, other)


def test_checkpointing_that_gradients_cannot_pass_is_named():
    model = Checkpointed(False)
    index = torch.arange(6)[:, None]
    member = Member("inner.0.weight", "mlp", 0, index, model.inner[0].weight)
    axis = Axis(AxisSpec("a", "mlp"), 6, (member,))
    images = [(ONE, torch.zeros(len(ONE), dtype=torch.int64))]
    with pytest.raises(AdapterError, match=r"Checkpointed .*switch gradient checkpointing off"):
        gather("gradients", model, [axis], images)


# --- models that the meta device cannot run ----------------------------------------------------


class Choosy(nn.Module):
    """Looks at a value to decide what it does."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x):
        x = self.up(x).relu()
        return self.down(x) if x.sum().item() > -1 else x


class ChoosyAdapter(Adapter):
    name = "choosy"
    kinds = default_kinds = ("mlp",)

    def matches(self, model):
        return isinstance(model, Choosy)

    def axes(self, model):
        return [AxisSpec("hidden", "mlp", "up")]


def test_a_model_that_needs_values_is_counted_with_them_and_says_so():
    model = Choosy().half()
    with pytest.warns(UserWarning, match=r"Choosy does not run without values \(RuntimeError: .*"):
        assert macs_by_module(model, ONE) == {"up": 96, "down": 32}
    assert {p.dtype for p in model.parameters()} == {torch.float16}


def test_attention_of_a_model_that_needs_values_is_counted_in_its_plain_form():
    class Net(nn.Sequential):
        def forward(self, x):
            x = super().forward(x) * x.sum().item()
            return F.scaled_dot_product_attention(x, x, x)

    plain = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    tokens = 5
    expected = sum(macs_by_module(plain, torch.randn(1, tokens, 8)).values())
    with pytest.warns(UserWarning, match="does not run without values"):
        found = macs_by_module(Net(plain), torch.randn(1, tokens, 8))
    assert sum(found.values()) == expected + 2 * tokens * tokens * 8


@pytest.mark.filterwarnings("ignore:Choosy does not run without values")
def test_a_model_that_needs_values_is_pruned():
    result = prune(Choosy(), "magnitude", 0.49, adapter=ChoosyAdapter(), example_input=ONE)
    assert (result.before.macs, result.after.macs) == (128, 64)


def test_a_tensor_that_is_neither_parameter_nor_buffer_needs_no_values():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(6, 2)
            self.scale = torch.ones(2)

        def forward(self, x):
            return super().forward(x) * self.scale

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert macs_by_module(Scaled(), ONE) == {"": 12}


def test_an_input_that_does_not_fit_is_one_sentence():
    with pytest.raises(AdapterError, match=r"Looped does not run on an input of shape \(1, 5\)"):
        macs_by_module(Looped(), torch.randn(1, 5))
