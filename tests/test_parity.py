"""Parity holds every output of the small model to the masked one's, and its weights to matter."""

from __future__ import annotations

import pytest
import torch
from conftest import TOYS, random_plan, toy, traced
from torch import nn

from prunekit import Adapter, AxisSpec, ParityError, prune
from prunekit.cutting.hiding import may_hide, noise_where_cuts_hide
from prunekit.cutting.outputs import outputs_of
from prunekit.cutting.parity import Reference, compared, verify
from prunekit.errors import AdapterError

EXAMPLE = torch.randn(4, 8)


class Net(nn.Module):
    """One hidden layer, and two heads; `answer` says what comes out."""

    def __init__(self, answer):
        super().__init__()
        self.hidden, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)
        self.one, self.two = nn.Linear(16, 3), nn.Linear(16, 2)
        self.answer = answer

    def forward(self, x):
        hidden = self.norm(self.hidden(x))
        return self.answer(self.one(hidden), self.two(hidden), hidden)


class NetAdapter(Adapter):
    name = "net"
    kinds = default_kinds = ("mlp",)

    def matches(self, model):
        return isinstance(model, Net)

    def axes(self, model):
        return [AxisSpec("hidden", "mlp", "hidden")]


class Clumsy(NetAdapter):
    """Spoils the second head of the small model."""

    def fixup(self, model, left):
        model.two = nn.Linear(model.two.in_features, 2)


def pruned(answer, adapter=None, **changes):
    torch.manual_seed(0)
    model = Net(answer)
    for name, value in changes.items():
        getattr(model, name).weight.data.fill_(value)
    adapter = adapter or NetAdapter()
    return prune(model, "magnitude", 0.4, adapter=adapter, example_input=EXAMPLE)


ANSWERS = {
    "tuple": lambda one, two, _: (one, two),
    "list": lambda one, two, _: [one, two],
    "dict": lambda one, two, _: {"logits": one, "aux": two},
    "nested": lambda one, two, _: {"logits": one, "rest": (None, [two, one.argmax(1)], "text")},
}
SECOND = {
    "tuple": r"output\[1\]",
    "list": r"output\[1\]",
    "dict": r"output\['aux'\]",
    "nested": r"output\['rest'\]\[1\]\[0\]",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_models_that_return_several_tensors_are_pruned(kind):
    result = pruned(ANSWERS[kind])
    assert result.parity.holds
    assert result.parity.difference < 1e-5 * result.parity.scale > 1e-7
    assert result.after.params < result.before.params


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_output_that_differs_is_named(kind):
    with pytest.raises(
        ParityError, match=rf"pruned model's {SECOND[kind]} differs from the masked"
    ):
        pruned(ANSWERS[kind], Clumsy())


@pytest.mark.parametrize(
    "answer",
    [
        lambda one, two, hidden: (one, hidden),
        lambda one, two, hidden: (hidden, one),
        lambda one, two, hidden: {"features": hidden, "logits": one},
        lambda one, two, hidden: (one, hidden.relu()),
    ],
)
def test_an_axis_that_reaches_one_of_several_outputs_is_refused(answer):
    with pytest.raises(AdapterError, match="'hidden' reaches the model's output"):
        pruned(answer)


def test_a_model_that_returns_no_numbers_of_its_weights_is_refused():
    with pytest.raises(AdapterError, match="Net returns nothing that depends on its weights"):
        pruned(lambda one, two, _: {"class": one.argmax(1)})
    with pytest.raises(AdapterError, match="Net returns dict without any floating-point tensor"):
        outputs_of(Net(lambda one, two, _: {"class": one.argmax(1)}), EXAMPLE)


def test_of_several_outputs_the_one_that_differs_most_in_proportion_counts():
    masked = {"zeros": torch.zeros(2), "large": torch.full((2,), 1e4), "small": torch.ones(2)}
    found = {name: output + 1e-5 * (name != "zeros") for name, output in masked.items()}
    parity = compared(masked, found, 1e-4)
    assert (parity.scale, parity.difference) == (1, pytest.approx(1e-5, rel=0.1))
    assert compared(masked, masked, 1e-4).scale == 1e4  # never that of zeros, which divide


def test_an_output_that_goes_missing_is_noticed():
    outputs = {"output[0]": torch.ones(1, 3), "output[1]": torch.ones(1, 3)}
    reference = Reference(EXAMPLE, outputs, lambda: outputs)
    small = Net(lambda one, two, _: one)
    with pytest.raises(
        ParityError, match=r"returns output, the masked model output\[0\], output\["
    ):
        verify(reference, small)


@pytest.mark.parametrize("error", [ValueError("odd"), AssertionError("odd"), RuntimeError("odd")])
def test_a_small_model_that_fails_in_any_way_is_one_sentence(error):
    def fail(*_):
        raise error

    outputs = {"output": torch.ones(1, 3)}
    reference = Reference(EXAMPLE, outputs, lambda: outputs)
    with pytest.raises(ParityError, match=r"does not run \(.*: odd\)") as raised:
        verify(reference, Net(fail))
    assert raised.value.__cause__ is error


def test_what_rounding_alone_moves_is_compared_in_float64():
    """As in some untrained models, where a small difference grows from layer to layer."""

    def moved(one, two, hidden):
        small = hidden.shape[1] < 16
        return one + (1e-3 if small and one.dtype == torch.float32 else 0), two

    rounded = pruned(moved)
    assert rounded.parity.in_float64
    assert rounded.parity.difference < 1e-7
    assert not pruned(lambda one, two, _: (one, two)).parity.in_float64
    with pytest.raises(ParityError, match="differs from the masked model's by"):
        pruned(lambda one, two, _: ((1e6 * one).sin(), two), adapter=Clumsy())


def test_one_image_is_compared_and_half_precision_in_float32():
    model, images = toy("vit")
    expected = model(images[:1])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        (output,) = outputs_of(model.to(dtype), images.to(dtype)).values()
        assert output.shape == expected.shape
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, expected, rtol=0, atol=0.1)
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_outputs_are_computed_without_checkpointing_which_stays():
    class Watching(nn.Linear):
        def forward(self, x):
            seen.append(self.grad_checkpointing)
            return super().forward(x)

    seen, model = [], Watching(8, 2)
    model.grad_checkpointing = True
    outputs_of(model, EXAMPLE)
    assert (seen, model.grad_checkpointing) == ([False], True)


# --- weights that hide a cut -------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_weights_that_matter_hide_nothing(name):
    model, _, axes = traced(name)
    assert not may_hide(model, axes, random_plan(axes, 0.5))


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("convnext", "stages.1.blocks.0.gamma", 1e-6),
        ("vit_layer_scale", "blocks.0.ls1.gamma", 1e-5),
        ("vit", "head.weight", 0.0),
        ("swin", "layers.1.blocks.0.mlp.fc2.weight", 1e-4),
        ("swin", "norm.weight", 0.0),
    ],
)
def test_a_parameter_of_next_to_nothing_may_hide_a_cut(name, parameter, value):
    model, _ = toy(name)
    axes = traced(name)[2]
    model.get_parameter(parameter).data.fill_(value)
    assert may_hide(model, axes, random_plan(axes, 0.5))


@pytest.mark.parametrize("parameter", ["cls_token", "pos_embed", "head.bias", "norm.bias"])
def test_what_is_added_hides_nothing(parameter):
    model, _ = toy("vit")
    axes = traced("vit")[2]
    model.get_parameter(parameter).data.zero_()
    assert not may_hide(model, axes, random_plan(axes, 0.5))


def test_a_cut_of_slices_that_are_zeros_anyway_is_compared_with_noise():
    torch.manual_seed(0)
    model = Net(lambda one, two, _: one + two.sum())
    for tensor in (model.hidden.weight, model.hidden.bias):
        tensor.data[5:13] = 0
    given = {"adapter": NetAdapter(), "example_input": EXAMPLE}
    assert prune(model, "magnitude", 0.4, **given).parity.noisy


def test_a_faint_value_among_others_does_not_count_and_one_far_behind_does():
    plan = random_plan(traced("vit")[2], 0.5)
    model, _ = toy("vit")
    weight = model.blocks[0].mlp.fc1.weight.data
    weight.zero_()
    weight[-1, -1] = 1.0
    assert not may_hide(model, traced("vit")[2], plan)


def test_noise_replaces_vectors_and_what_is_next_to_nothing():
    matrix = torch.randn(4, 4)
    assert noise_where_cuts_hide("a", matrix) is matrix
    assert noise_where_cuts_hide("a", matrix * 1e-6).abs().max() > 0.1
    assert noise_where_cuts_hide("a", torch.ones(4)).min() > 0.5
    count = torch.tensor(3)
    assert noise_where_cuts_hide("a", count) is count


def test_a_wrong_cut_behind_weights_of_nothing_is_found():
    def answer(one, two, _):
        return one + two.sum()

    assert pruned(answer, two=0.0).parity.noisy
    with pytest.raises(ParityError):
        pruned(answer, Clumsy(), two=0.0)
    assert not pruned(answer).parity.noisy
