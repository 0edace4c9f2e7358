"""Criteria that know the repair: what slices cost once the others have made up for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import references
import torch
from conftest import FAMILIES, adapter_of, toy, traced
from torch import nn
from torch.nn import functional as F

from prunekit import prune
from prunekit.adapters.answers import blocks_of
from prunekit.axis import Axis, AxisSpec, Member
from prunekit.criteria import CRITERIA, elimination
from prunekit.criteria.base import Criterion
from prunekit.criteria.compensation import never_falling
from prunekit.criteria.elimination import Reader, eliminated
from prunekit.criteria.price import price_of
from prunekit.cutting.shrink import shrunk
from prunekit.errors import AdapterError, CriterionError, DataError
from prunekit.planning.plan import Plan
from prunekit.plugin import configured
from prunekit.recovery.reconstruct import repair_
from prunekit.repairs import REPAIRS
from prunekit.statistics import covariances, gather
from prunekit.statistics.loss import drawn_answer, top_answer

RIDGE = 0.01


def random_reader(size: int, width: int, samples: int, outputs: int = 5) -> Reader:
    columns = size * width
    mixed = torch.randn(columns, columns).double()
    x = torch.randn(samples, columns).double() @ mixed
    weight = torch.randn(outputs, columns).double()
    return Reader(weight.T @ weight, x.T @ x / samples, torch.randperm(columns).view(size, width))


def schur(reader: Reader, gone: list[int]) -> float:
    """Return what is lost by removing some slices at once: Eq. 7 of Optimal Brain Compression."""
    covariance = reader.covariance.numpy()
    damped = covariance + RIDGE * np.diag(covariance).mean() * np.eye(len(covariance))
    columns = reader.index[gone].flatten().numpy()
    inner = np.linalg.inv(np.linalg.inv(damped)[np.ix_(columns, columns)])
    return float(np.trace(inner @ reader.gram.numpy()[np.ix_(columns, columns)]))


@pytest.mark.parametrize("at_once", [1, 4, 1000])
@pytest.mark.parametrize(("size", "width"), [(12, 1), (5, 3)])
def test_slices_leave_by_what_each_adds_and_the_costs_add_up(size, width, at_once, monkeypatch):
    monkeypatch.setattr(elimination, "AT_ONCE", at_once)
    torch.manual_seed(0)
    # One reader of many samples, and one of fewer than it has columns.
    readers = [random_reader(size, width, 400), random_reader(size, width, 3)]
    found = eliminated(readers, RIDGE)
    gone: list[int] = []
    for slice_, cost in zip(found.order.tolist(), found.costs.cumsum(0).tolist(), strict=True):
        tried = {
            j: sum(schur(reader, [*gone, j]) for reader in readers)
            for j in range(size)
            if j not in gone
        }
        assert slice_ == min(tried, key=tried.__getitem__)
        assert cost == pytest.approx(tried[slice_], rel=1e-7)
        gone.append(slice_)


def test_a_reader_that_sees_nothing_costs_nothing():
    torch.manual_seed(0)
    silent = Reader(torch.ones(4, 4), torch.zeros(4, 4), torch.arange(4).unsqueeze(1))
    loud = random_reader(4, 1, 50)
    assert eliminated([silent], RIDGE).costs.isfinite().all()
    assert eliminated([loud], RIDGE).costs.sum() == pytest.approx(
        schur(loud, [0, 1, 2, 3]), rel=1e-7
    )


def test_a_covariance_that_rounding_made_negative_is_taken_for_empty():
    torch.manual_seed(0)
    reader = random_reader(6, 1, 200)
    values, vectors = torch.linalg.eigh(reader.covariance)
    values[0] = -values.mean()  # by far more than the ridge makes up for
    broken = Reader(reader.gram, vectors * values @ vectors.T, reader.index)
    costs = eliminated([broken], RIDGE).costs
    assert costs.isfinite().all()
    assert (costs >= 0).all()


def test_costs_that_fall_are_averaged_with_those_before_them():
    costs = torch.tensor([1.0, 4.0, 2.0, 3.0, 9.0]).double()
    assert never_falling(costs).tolist() == pytest.approx([1, 3, 3, 3, 9], rel=1e-8)
    assert (never_falling(costs).diff() > 0).all()  # so that they still leave in order


def small_axes(family: str, need: str, loss: str = "labels"):
    """Return axes that are read by columns and small enough to try everything, informed."""
    model, images, axes = traced(family)
    chosen = [
        axis
        for axis in axes
        if axis.size <= 48 and axis.spec.branch is None and not axis.spec.product
    ]
    batch = (images, torch.tensor([0, 3]))
    return model, images, gather(need, model, chosen, [batch], loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_obs_is_what_refitting_leaves_of_what_is_read(family):
    model, images, axes = small_axes(family, "covariances")
    raw = references.activations(model, images)

    def scale(member):
        outputs = raw[member.name][1]
        return np.eye(outputs.shape[1]) / np.sqrt((outputs**2).mean(0).sum())

    assert {axis.kind for axis in axes} >= ({"head"} if family != "convnext" else {"mlp"})
    for axis, score in zip(axes, CRITERIA.get("obs")(axes), strict=True):
        expected = references.obs(axis, raw, scale, RIDGE)
        np.testing.assert_allclose(score * price_of(axis), expected, 2e-3, err_msg=axis.name)


@pytest.mark.parametrize("family", FAMILIES)
def test_kfac_weighs_errors_by_the_curvature_of_the_loss(family):
    model, images, axes = small_axes(family, "curvatures")
    raw, curvature = references.activations(model, images), curvatures(model, images, [0, 3])

    def scale(member):
        values, vectors = np.linalg.eigh(curvature[member.name] / 2)
        return np.sqrt(values.clip(0))[:, None] * vectors.T

    for axis, score in zip(axes, CRITERIA.get("kfac")(axes), strict=True):
        expected = references.obs(axis, raw, scale, RIDGE)
        np.testing.assert_allclose(score * price_of(axis), expected, 2e-3, err_msg=axis.name)


def curvatures(model: nn.Module, images: torch.Tensor, labels: list[int]) -> dict[str, np.ndarray]:
    """Return by weight E over images of sum over positions of g g^T, image by image."""
    found: dict[str, np.ndarray] = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    for image, label in zip(images, labels, strict=True):
        outputs, handles = {}, []
        for name, layer in layers.items():
            handles.append(
                layer.register_forward_hook(
                    lambda _, args, out, name=name, seen=outputs: seen.setdefault(
                        f"{name}.weight", out
                    )
                )
            )
        logits = model(image.unsqueeze(0))
        for handle in handles:
            handle.remove()
        loss = F.cross_entropy(logits, torch.tensor([label]))
        gradients = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
        for name, gradient in zip(outputs, gradients, strict=True):
            rows = gradient.movedim(1, -1) if gradient.dim() == 4 and "conv" in name else gradient
            rows = rows.reshape(-1, model.get_parameter(name).shape[0]).double().numpy()
            found[name] = found.get(name, 0) + rows.T @ rows / len(images)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_branch_costs_what_all_of_its_columns_cost(family):
    model, images, axes = traced(family)
    informed = gather("covariances", model, axes, [images])
    scores = dict(zip([a.name for a in informed], CRITERIA.get("obs")(informed), strict=True))
    for axis in informed:
        if axis.spec.branch is None:
            continue
        (last,) = axis.readers
        inside = next(a for a in informed if a.kind == "mlp" and a.readers[0].name == last.name)
        whole = scores[axis.name].sum() * price_of(axis)
        parts = scores[inside.name].sum() * price_of(inside)
        assert float(whole) == pytest.approx(float(parts), rel=1e-4)
        break
    else:
        raise AssertionError("no branch was looked at")


@pytest.mark.parametrize("name", ["obs", "kfac"])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_batches_gives_the_same_scores(family, name):
    model, images, axes = traced(family)
    criterion = configured(CRITERIA, name)
    labels = torch.tensor([0, 3])
    whole = gather(criterion.needs, model, axes, [(images, labels)])
    halves = [(images[:1], labels[:1]), (images[1:], labels[1:])]
    parts = gather(criterion.needs, model, axes, halves)
    for axis, one, other in zip(axes, criterion(whole), criterion(parts), strict=True):
        torch.testing.assert_close(one, other, rtol=5e-3, atol=1e-12, msg=axis.name)


class Grouped(nn.Module):
    """Convolutions of every sort that reads by columns, and a pair of outputs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, stride=2, padding=2, dilation=2, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def test_covariances_are_of_the_patches_of_each_group():
    torch.manual_seed(0)
    model, images = Grouped().eval(), torch.randn(3, 3, 9, 9)
    weight = model.second.weight.detach()
    columns = Member("second.weight", "conv", 1, torch.arange(4).unsqueeze(1), weight)
    axis = Axis(AxisSpec("first", "conv"), 4, (columns,))
    ((member,),) = (a.members for a in gather("covariances", model, [axis], [images]))
    with torch.no_grad():
        x = model.first(images).relu()
    patches = F.unfold(x, 3, dilation=2, padding=2, stride=2)  # (images, 8 * 9, positions)
    rows = patches.movedim(1, 2).reshape(-1, 2, 36).double().numpy()
    for group in range(2):
        expected = np.cov(rows[:, group].T, bias=True)
        np.testing.assert_allclose(member.covariance[group], expected, 1e-4, 1e-6)


def test_columns_that_are_too_many_are_refused(monkeypatch):
    model, images, axes = traced("vit")
    monkeypatch.setattr(covariances, "MOST_COLUMNS", 100)
    with pytest.raises(AdapterError, match="reads 128 inputs, too many"):
        gather("covariances", model, axes, [images])


def test_what_cannot_be_refitted_costs_its_variance():
    model, images, axes = traced("vit")
    (axis,) = (a for a in axes if a.name == "blocks.0.mlp")
    (known,) = gather("covariances", model, [axis], [images])
    blind = replace(
        known, members=tuple(replace(member, covariance=None) for member in known.members)
    )
    (score,) = CRITERIA.get("obs").configure(ridge=1e-9)([blind])
    (reader,) = (m for m in known.readers if m.dim == 1)
    variance = (reader.weight.square() * reader.inputs.variance).sum(0)
    expected = variance / reader.outputs.square.sum() / price_of(axis)
    torch.testing.assert_close(score, expected.double(), rtol=1e-4, atol=0)


def test_the_cost_is_what_the_repair_leaves():
    """Cut one axis by obs: what `lstsq` with that ridge leaves is what was foretold."""
    model, images, axes = traced("vit")
    batch = torch.cat([images, images.flip(-1), images.roll(3, -1), images.roll(5, -2)])
    (axis,) = (a for a in axes if a.name == "blocks.0.mlp")
    (known,) = gather("covariances", model, [axis], [batch])
    (scores,) = CRITERIA.get("obs").configure(ridge=1e-3)([known])
    order = scores.argsort()
    kept = tuple(order[64:].sort().values.tolist())
    plan = Plan({axis.name: kept}, {axis.name: axis.size}, "params", 0.1, 0.1)
    small = shrunk(model, [axis], plan, adapter_of("vit")).eval()
    repair = configured(REPAIRS, "lstsq:ridge=0.001")
    blocks = blocks_of(adapter_of("vit"), model)
    done = repair_(small, model, [axis], plan, repair, blocks, [batch])
    (reader,) = (m for m in known.readers if m.dim == 1)
    foretold = float(scores[order[:64]].sum()) * price_of(axis)
    foretold *= float(reader.outputs.square.sum() / reader.outputs.variance.sum())
    # The cost has the penalty in it, so it is a little more.
    left = done.layers["blocks.0.mlp.fc2"].after
    assert left < foretold < 1.5 * left


# --- of the model's own answers -------------------------------------------------------------


@pytest.mark.parametrize("name", ["taylor", "fisher", "kfac"])
def test_own_answers_need_no_labels(name):
    criterion = configured(CRITERIA, f"{name}:loss=self")
    model, images, axes = traced("vit")
    assert not criterion.needs_labels
    assert CRITERIA.get(name).needs_labels
    criterion(gather(criterion.needs, model, axes, [images], criterion.loss))
    with pytest.raises(DataError, match="have no labels"):
        gather(criterion.needs, model, axes, [images])


@pytest.mark.parametrize(("name", "answer"), [("taylor", top_answer), ("fisher", drawn_answer)])
def test_own_answers_are_labels(name, answer):
    model, images, axes = traced("swin")
    criterion = CRITERIA.get(name)
    with torch.no_grad():
        labels = answer(model(images))
    own = criterion(gather(criterion.needs, model, axes, [images], "self"))
    given = criterion(gather(criterion.needs, model, axes, [(images, labels)]))
    for one, other in zip(own, given, strict=True):
        torch.testing.assert_close(one, other)


def test_drawn_answers_follow_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    shares = drawn_answer(logits).bincount() / len(logits)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.015)


def test_images_that_are_no_numbers_are_told_in_a_sentence():
    model, images, axes = traced("vit")
    with pytest.raises(CriterionError, match="NaN or infinite; check the weights and the calib"):
        CRITERIA.get("obs")(gather("covariances", model, axes, [images * float("nan")]))


def test_a_loss_of_one_s_own_criterion_is_one_of_the_two():
    def mine(axes, *, loss="labels"):
        return [torch.ones(axis.size) for axis in axes]

    mine = Criterion("mine", mine, needs="gradients").configure(loss="foo")
    with pytest.raises(CriterionError, match="No loss is called 'foo'"):
        prune("vit_micro", mine, 0.3)


def test_other_losses_are_refused():
    with pytest.raises(CriterionError, match="'labels' or 'self'"):
        configured(CRITERIA, "fisher:loss=mine")
    with pytest.raises(CriterionError, match="above 0"):
        configured(CRITERIA, "obs:ridge=0")


def test_a_run_with_own_answers_takes_images_without_labels():
    model, images = toy("vit")
    result = prune(
        model, "kfac:loss=self", 0.3, data=[images], repair="lstsq", example_input=images[:1]
    )
    assert result.got == pytest.approx(0.3, abs=0.05)
    with pytest.raises(DataError, match="label"):
        prune(model, "kfac", 0.3, data=[images], example_input=images[:1])
