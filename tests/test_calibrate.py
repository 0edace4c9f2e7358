"""What is gathered on calibration images, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import references
import torch
from conftest import CLASSES, FAMILIES, TOYS, axes_of, toy, traced
from torch import nn
from torch.nn import functional as F

from prunekit.axis import AUX, Axis, AxisSpec, Member
from prunekit.criteria import CRITERIA
from prunekit.errors import AdapterError, DataError
from prunekit.statistics import (
    gather,
    gather_activations,
    gather_gradients,
    gather_squared_gradients,
    gradients,
)
from prunekit.statistics.meter import Meter

GATHERERS = [gather_gradients, gather_squared_gradients, gather_activations]
CRITERION_OF = dict(zip(GATHERERS, map(CRITERIA.get, ["taylor", "fisher", "wanda"]), strict=True))
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}  # of sums over some hundred positions


def images_of(name: str, count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = traced(name)[1].shape[1:]
    return torch.randn(count, *shape, generator=generator), torch.arange(count) % CLASSES


def uneven(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images[:3], labels[:3]), (images[3:], labels[3:])]


def voters(axes: list[Axis]) -> dict[str, Member]:
    return {member.name: member for axis in axes for member in axis.voters}


def squares_by_brute_force(model: nn.Module, images, labels) -> dict[str, torch.Tensor]:
    """One backward pass per image; the squares are taken before the mean."""
    totals = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for n in range(len(images)):
        model.zero_grad()
        F.cross_entropy(model(images[n : n + 1]), labels[n : n + 1]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                totals[name] += parameter.grad**2
    return {name: total / len(images) for name, total in totals.items()}


# --- gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_mean_loss_over_all_images(family):
    model, example = toy(family)
    images, labels = images_of(family)
    axes = gather_gradients(model, axes_of(model, example), uneven(images, labels))

    F.cross_entropy(model(images), labels).backward()

    expected = dict(model.named_parameters())
    for name, member in voters(axes).items():
        assert member.grad.abs().max() > 0
        torch.testing.assert_close(member.grad, expected[name].grad, **FLOAT32)


@pytest.mark.parametrize("name", TOYS)
def test_squared_gradients_are_those_of_each_image_alone(name):
    model, example = toy(name)
    images, labels = images_of(name)
    axes = gather_squared_gradients(model, axes_of(model, example), uneven(images, labels))
    expected = squares_by_brute_force(model, images, labels)
    for parameter, member in voters(axes).items():
        scale = float(expected[parameter].max())
        assert scale > 0
        torch.testing.assert_close(
            member.grad_square, expected[parameter], rtol=1e-3, atol=1e-6 * scale
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_squared_gradients_are_not_the_square_of_the_mean(family):
    model, _, axes = traced(family)
    batch = [images_of(family)]
    means = voters(gather_gradients(model, axes, batch))
    squares = voters(gather_squared_gradients(model, axes, batch))
    for name in means:
        square_of_mean = means[name].grad ** 2
        assert (squares[name].grad_square >= square_of_mean * (1 - 1e-3) - 1e-9).all()
        assert squares[name].grad_square.sum() > 1.2 * square_of_mean.sum()


def test_large_models_hold_fewer_gradients_at_once(monkeypatch):
    model, _, axes = traced("vit")
    batch = [images_of("vit")]
    expected = voters(gather_squared_gradients(model, axes, batch))
    seen, each = [], gradients._each
    monkeypatch.setattr(gradients, "MOST_VALUES", 1)
    monkeypatch.setattr(gradients, "_each", lambda *args: seen.append(len(args[2])) or each(*args))
    for name, member in voters(gather_squared_gradients(model, axes, batch)).items():
        torch.testing.assert_close(member.grad_square, expected[name].grad_square)
    assert seen == [1] * 5


class Choosy(nn.Module):
    """Takes a step that depends on its input, which vmap cannot."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.one(x) if x.sum() > 0 else self.other(x)


def axis_of(**weights: torch.Tensor) -> Axis:
    size = min(len(weight) for weight in weights.values())
    rows = torch.arange(size).unsqueeze(1)
    members = tuple(
        Member(f"{name}.weight", "w", 0, rows, weight.detach()) for name, weight in weights.items()
    )
    return Axis(AxisSpec("toy", "w"), size, members)


def test_models_that_look_at_their_input_are_run_one_image_at_a_time():
    torch.manual_seed(0)
    model, images = Choosy(), torch.randn(6, 6)
    labels = torch.arange(6) % CLASSES
    assert len({bool(image.sum() > 0) for image in images}) == 2
    axis = axis_of(one=model.one.weight, other=model.other.weight)
    found = voters(gather_squared_gradients(model, [axis], [(images, labels)]))
    for name, expected in squares_by_brute_force(model, images, labels).items():
        if name in found:
            torch.testing.assert_close(found[name].grad_square, expected)


# --- activations -----------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_moments_are_those_of_what_layers_read_and_return(name):
    model, _, axes = traced(name)
    images, labels = images_of(name)
    raw = references.activations(model, images)
    for parameter, member in voters(
        gather_activations(model, axes, uneven(images, labels))
    ).items():
        for moments, values in zip((member.inputs, member.outputs), raw[parameter], strict=True):
            assert moments.mean.dtype == moments.variance.dtype == torch.float64
            np.testing.assert_allclose(moments.mean.flatten(), values.mean(0), **FLOAT32)
            np.testing.assert_allclose(moments.variance.flatten(), values.var(0), **FLOAT32)
            square = (values**2).mean(0)
            np.testing.assert_allclose(moments.square.flatten(), square, **FLOAT32)
            broadcast = torch.broadcast_shapes(moments.mean.shape, member.weight.shape)
            assert broadcast == member.weight.shape
        assert member.outputs.mean.shape[0] == len(member.weight)


def test_a_convolution_in_groups_meets_only_its_own_channels():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), torch.randn(8, 4, 5, 5)
    axis = axis_of(**{"0": model[0].weight})
    (member,) = gather_activations(model, [axis], [(images, None)])[0].voters
    means = images.double().mean((0, 2, 3))
    assert member.inputs.mean.shape == (6, 2, 1, 1)
    for row in range(6):
        expected = means[:2] if row < 3 else means[2:]
        torch.testing.assert_close(member.inputs.mean[row].flatten(), expected, **FLOAT32)


@pytest.mark.parametrize("kind", ["mlp", "head", "head_dim", "width"])
def test_members_know_whether_their_layer_reads_the_axis(kind):
    for name in ("swin", "convnext") if kind in ("mlp", "width") else ("swin", "vit"):
        model, _, axes = traced(name)
        for axis in gather_activations(model, axes, [images_of(name)]):
            for member in axis.voters:
                assert member.reads == (member.dim == 1 or "conv_dw" in member.name)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("feature", [-1, -3])
def test_moments_do_not_depend_on_the_size_of_batches(size, feature):
    values = torch.randn(1000, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    meter = Meter(feature)
    for batch in values.split(size):
        meter.add(batch)
    others = [dim for dim in range(4) if dim != 4 + feature]
    moments = meter.moments(lambda v: v)
    # Within a batch the mean of values of size 1 is taken in float32.
    torch.testing.assert_close(moments.mean, values.double().mean(others), rtol=0, atol=1e-6)
    expected = values.double().var(others, correction=0)
    torch.testing.assert_close(moments.variance, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("first", [1e4, 0.0])
def test_a_tiny_variance_survives_a_huge_mean(size, first):
    noise = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    values = 1e4 + 0.01 * noise  # float32 values near 10 000 are a thousandth apart
    values[0] = first  # an outlier at the start moves where the values are counted from
    meter = Meter(-1)
    for batch in values.split(size):
        meter.add(batch)
    expected = values.double().var(0, correction=0)
    assert torch.allclose(meter.moments(lambda v: v).variance, expected, rtol=1e-5)


def test_activations_need_no_labels():
    model, images, axes = traced("vit")
    first, second = (gather("activations", model, axes, [(images, y)]) for y in (None, 10**6))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.voters[0].inputs.mean, other.voters[0].inputs.mean)


@pytest.mark.parametrize("bare", [True, False])
def test_batches_may_be_images_alone(bare):
    model, images, axes = traced("vit")
    expected = gather("activations", model, axes, [(images, None)])
    found = gather("activations", model, axes, [images if bare else [images]])
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.voters[0].inputs.mean, other.voters[0].inputs.mean)


@pytest.mark.parametrize("gatherer", [gather_gradients, gather_squared_gradients])
@pytest.mark.parametrize("unlabelled", [lambda x: x, lambda x: [x], lambda x: (x, None)])
def test_gradients_need_labels_and_say_so(gatherer, unlabelled):
    model, images, axes = traced("vit")
    with pytest.raises(DataError, match=r"have no labels, which gradients need; give them labels"):
        gatherer(model, axes, [unlabelled(images)])


@pytest.mark.parametrize("gatherer", GATHERERS)
def test_models_that_return_more_than_logits_are_scored_alike(gatherer):
    model, example = toy("vit")
    axes = axes_of(model, example)
    expected = CRITERION_OF[gatherer](gatherer(model, axes, [images_of("vit")]))
    plain = model.forward
    model.forward = lambda x: {"logits": plain(x), "extra": None}
    found = CRITERION_OF[gatherer](gatherer(model, axes, [images_of("vit")]))
    assert all(map(torch.equal, expected, found))


# --- what all have in common -----------------------------------------------------------


def state_of(model: nn.Module) -> list[object]:
    parts = [(part.training, len(part._forward_hooks)) for part in model.modules()]
    parameters = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return [parts, parameters, {name: value.clone() for name, value in model.state_dict().items()}]


def assert_same_state(before: list[object], after: list[object]) -> None:
    assert before[:2] == after[:2]
    assert all(torch.equal(value, after[2][name]) for name, value in before[2].items())


@pytest.mark.parametrize("gatherer", GATHERERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gathering_leaves_no_trace_in_the_model(gatherer, family):
    model, example = toy(family)
    axes = axes_of(model, example)
    next(model.parameters()).requires_grad_(False)
    model.train()
    list(model.children())[-1].eval()  # parts may be in modes of their own
    before = state_of(model)
    gatherer(model, axes, [images_of(family)])
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("gatherer", GATHERERS)
def test_models_in_training_mode_are_run_in_evaluation_mode(gatherer):
    model, example = toy("vit")
    axes = axes_of(model, example)
    expected = CRITERION_OF[gatherer](gatherer(model, axes, [images_of("vit")]))
    model.pos_drop.p = 0.9
    found = CRITERION_OF[gatherer](gatherer(model.train(), axes, [images_of("vit")]))
    assert all(map(torch.equal, expected, found))


@pytest.mark.parametrize("gatherer", GATHERERS)
def test_a_failure_half_way_leaves_no_trace_either(gatherer):
    model, example = toy("vit")
    axes = axes_of(model, example)
    before = state_of(model.train())
    batches = [images_of("vit"), (torch.randn(1, 3, 9, 9), torch.tensor([0]))]
    with pytest.raises(AssertionError, match="Input height"):
        gatherer(model, axes, batches)
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize(
    ("need", "fields"),
    [
        ("nothing", ()),
        ("gradients", ("grad",)),
        ("squared_gradients", ("grad_square",)),
        ("activations", ("inputs", "outputs")),
    ],
)
def test_what_is_asked_for_is_gathered_for_voters_and_nothing_else(need, fields):
    model, _, axes = traced("vit")
    for axis in gather(need, model, axes, [images_of("vit")]):
        for member in axis.members:
            for field in ("grad", "grad_square", "inputs", "outputs"):
                there = getattr(member, field) is not None
                assert there == (field in fields and member.role != AUX)


@pytest.mark.parametrize("gatherer", [gather_gradients, gather_squared_gradients])
def test_a_label_that_the_model_does_not_know_is_refused(gatherer):
    model, images, axes = traced("vit")
    with pytest.raises(DataError, match=rf"label {CLASSES}.* {CLASSES} classes"):
        gatherer(model, axes, [(images, torch.tensor([0, CLASSES]))])


@pytest.mark.parametrize("gatherer", GATHERERS)
def test_no_images_are_refused(gatherer):
    model, _, axes = traced("vit")
    with pytest.raises(DataError, match="no calibration images"):
        gatherer(model, axes, [])


def test_a_voter_whose_layer_is_not_run_is_refused():
    model = Choosy()
    axis = axis_of(one=model.one.weight, other=model.other.weight)
    with pytest.raises(AdapterError, match=r"'other.weight' took no part.*role 'aux'"):
        gather_activations(model, [axis], [(torch.ones(2, 6), None)])
