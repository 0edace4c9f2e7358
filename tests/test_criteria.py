"""Criteria against their papers, and against what a criterion may and may not do."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import references
import torch
from conftest import FAMILIES, axes_of, kinds_of, toy
from conftest import traced as traced_whole

from prunekit import prune
from prunekit.axis import AUX, Axis, AxisSpec, Member
from prunekit.criteria import CRITERIA
from prunekit.criteria.base import Criterion
from prunekit.criteria.order import descending
from prunekit.cutting.silence import masked
from prunekit.errors import CriterionError
from prunekit.planning.plan import Plan
from prunekit.plugin import configured
from prunekit.shared import Shared
from prunekit.statistics import gather

BUILT_IN = CRITERIA.builtin_names()


def one_axis(*weights: torch.Tensor, role: str = "w") -> Axis:
    """Make an axis of plain matrices; the rows are the slices."""
    size = len(weights[0])
    rows = torch.arange(size).unsqueeze(1)
    members = tuple(Member(f"w{n}", role, 0, rows, w) for n, w in enumerate(weights))
    return Axis(AxisSpec("toy", "w", "w0"), size, members)


@cache
def traced(name: str) -> tuple[torch.nn.Module, torch.Tensor, list[Axis]]:
    """Return a toy with its axes but for whole branches, which test_branches.py is about."""
    model, images, axes = traced_whole(name)
    return model, images, [axis for axis in axes if axis.spec.branch is None]


@cache
def informed(name: str, need: str) -> list[Axis]:
    """Return the axes of a toy with what a criterion needs; shared, never to be modified."""
    model, images, axes = traced(name)
    return gather(need, model, axes, [(images, torch.tensor([0, 3]))])


# Weights are summed in float32, whose relative error over thousands of them stays below this.
FLOAT32 = 1e-5


def assert_scores(name: str, expected, axes=None, rtol=FLOAT32, atol=0.0, **options):
    axes = axes or traced(name)[2]
    scores = CRITERIA.get(expected[0]).configure(**options)(axes)
    for axis, score in zip(axes, scores, strict=True):
        np.testing.assert_allclose(score, expected[1](axis), rtol, atol, err_msg=axis.name)


# --- the numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("p", [1, 2])
def test_magnitude_is_the_power_mean_of_the_weights(family, p):
    def reference(axis):
        return references.magnitude(references.layers_of(axis), p)

    assert_scores(family, ("magnitude", reference), p=p)


@pytest.mark.parametrize("family", FAMILIES)
def test_lamp_is_the_paper_s_score_of_slices(family):
    assert_scores(family, ("lamp", lambda axis: references.lamp(references.layers_of(axis))))


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_dimap_is_the_mean_relative_distortion(family):
    def reference(axis):
        return references.dimap(references.layers_of(axis))

    assert_scores(family, ("dimap", reference), plain=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_dimap_is_the_distortion_of_the_layers_that_read_per_weight_that_leaves(family):
    def reference(axis):
        freed = sum(layer[0].size for layer in references.layers_of(axis))
        return [s / freed for s in references.dimap(references.reading_layers_of(axis))]

    assert_scores(family, ("dimap", reference))


def test_dimap_goes_by_the_price_of_a_slice_unless_it_is_plain():
    axes = traced("swin")[2]
    dear = [replace(axis, price=5.0) for axis in axes]
    dimap, plain = CRITERIA.get("dimap"), CRITERIA.get("dimap").configure(plain=True)
    for axis, by_weight, by_price in zip(axes, dimap(axes), dimap(dear), strict=True):
        torch.testing.assert_close(by_price * 5, by_weight * axis.weights_per_slice)
    assert all(map(torch.equal, plain(axes), plain(dear)))
    useless, useful = (dimap([replace(axes[0], price=price)])[0] for price in (0.0, 100.0))
    torch.testing.assert_close(useless, useful * 100)  # finite, and to be kept


@pytest.mark.parametrize("budget", ["macs", "slices"])
def test_scores_are_told_what_the_budget_counts(budget):
    seen = []

    def recorded(axes):
        seen.extend(axis.price for axis in axes)
        return [torch.rand(axis.size) for axis in axes]

    shared = Shared()
    for by in (budget, "params"):
        prune("vit_micro", Criterion("recorded", recorded), 0.3, by=by, shared=shared)
    count = len(seen) // 2
    assert all(price == 1 if budget == "slices" else price > 1e3 for price in seen[:count])
    assert set(seen[count:]) == {None}


@pytest.mark.parametrize("family", FAMILIES)
def test_zeroing_what_reads_a_slice_is_the_same_as_silencing_the_slice(family):
    """What dimap rests on."""
    model, images, axes = traced(family)
    inner = [axis for axis in axes if axis.kind != "width" and axis.readers != axis.voters]
    assert inner
    for axis in inner:
        plan = Plan({axis.name: (0,)}, {axis.name: axis.size}, "slices", 0.5, 0.5)
        silenced, zeroed = masked(model, [axis], plan), copy.deepcopy(model)
        with torch.no_grad():
            for member in axis.readers:
                weight = zeroed.get_parameter(member.name)
                weight.index_fill_(member.dim, member.index[1:].flatten(), 0)
            torch.testing.assert_close(zeroed(images), silenced(images))
            assert not torch.allclose(zeroed(images), model(images)), axis.name


@pytest.mark.parametrize("family", FAMILIES)
def test_fpgm_is_the_sum_of_distances(family):
    # Distances are computed in float32, by way of squares that cancel.
    def reference(axis):
        return references.fpgm(references.layers_of(axis))

    assert_scores(family, ("fpgm", reference), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("square", [False, True])
def test_taylor_is_the_first_order_change_of_the_loss(family, square):
    def reference(axis):
        weights = references.layers_of(axis)
        gradients = references.layers_of(axis, lambda member: member.grad)
        return references.taylor(weights, gradients, square)

    axes = informed(family, "gradients")
    # A sum of terms that cancel is only as exact as its largest term.
    rtol = 1e-3 if square else FLOAT32  # terms of both signs cancel before they are squared
    assert_scores(family, ("taylor", reference), axes, rtol, square=square)


@pytest.mark.parametrize("family", FAMILIES)
def test_fisher_is_the_second_order_change_of_the_loss(family):
    def reference(axis):
        weights = references.layers_of(axis)
        squares = references.layers_of(axis, lambda member: member.grad_square)
        return references.fisher(weights, squares)

    assert_scores(family, ("fisher", reference), informed(family, "squared_gradients"))


@pytest.mark.parametrize("name", ["wanda", "flap", "vbp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_criteria_of_activations_are_the_papers(family, name):
    model, images, _ = traced(family)
    raw = references.activations(model, images)
    reference = getattr(references, name)
    # Activations are float32, and standardised scores have no scale of their own.
    rtol, atol = (1e-4, 1e-4) if name == "flap" else (1e-4, 0)
    axes = informed(family, "activations")
    assert {axis.kind for axis in axes} == set(kinds_of(family)) - {"block"}
    assert_scores(family, (name, lambda axis: reference(axis, raw)), axes, rtol, atol)


def test_random_follows_its_seed_alone():
    axes = traced("vit")[2]
    first, again, other = (CRITERIA.get("random").configure(seed=s)(axes) for s in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_single_weights_as_slices_make_dimap_and_lamp_the_paper_s_equation():
    weights = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    expected = references.eq10([float(w) ** 2 for w in weights.double()])
    for name in ("dimap", "lamp"):
        (score,) = CRITERIA.get(name)([one_axis(weights)])
        np.testing.assert_allclose(score, expected, rtol=FLOAT32)


def test_aux_members_have_no_vote():
    axis = one_axis(torch.rand(4, 3))
    extra = replace(one_axis(torch.rand(4, 3) * 100, role=AUX).members[0], name="aux")
    both = replace(axis, members=(*axis.members, extra))
    for name in ("magnitude", "lamp", "dimap", "fpgm"):
        assert torch.equal(CRITERIA.get(name)([axis])[0], CRITERIA.get(name)([both])[0])


# --- properties ------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_scaling_a_layer_leaves_dimap_alone_but_not_lamp(family):
    axes = traced(family)[2]
    scaled = [_scaled(axis) for axis in axes]
    dimap, lamp = CRITERIA.get("dimap"), CRITERIA.get("lamp")
    for found in (dimap, dimap.configure(plain=True)):
        for before, after in zip(found(axes), found(scaled), strict=True):
            torch.testing.assert_close(before, after)
    lamps = zip(lamp(axes), lamp(scaled), strict=True)
    assert any(not torch.allclose(before, after) for before, after in lamps)


def _scaled(axis: Axis) -> Axis:
    first = axis.voters[0]
    scaled = replace(first, weight=first.weight * 8)
    return replace(axis, members=tuple(scaled if m is first else m for m in axis.members))


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "random"])
@pytest.mark.parametrize("family", FAMILIES)
def test_permuting_slices_permutes_scores(family, name):
    criterion = CRITERIA.get(name)
    axes = informed(family, criterion.needs)
    orders = [
        torch.randperm(axis.size, generator=torch.Generator().manual_seed(1)) for axis in axes
    ]
    permuted = [_permuted(axis, order) for axis, order in zip(axes, orders, strict=True)]
    for before, after, order in zip(criterion(axes), criterion(permuted), orders, strict=True):
        torch.testing.assert_close(before[order], after, rtol=1e-4, atol=0)


def _permuted(axis: Axis, order: torch.Tensor) -> Axis:
    return replace(axis, members=tuple(replace(m, index=m.index[order]) for m in axis.members))


@pytest.mark.parametrize("name", ["lamp", "dimap", "dimap:plain=true"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_slice_standing_scores_one(family, name):
    axes = traced(family)[2]
    for axis, score in zip(axes, configured(CRITERIA, name)(axes), strict=True):
        score = score * axis.weights_per_slice if name == "dimap" else score
        assert score.max() == pytest.approx(1, rel=1e-12)
        assert (score > 1 - 1e-12).sum() == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_scoring_leaves_the_model_untouched(name):
    model, images = toy("swin")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    criterion = CRITERIA.get(name)
    batch = (images, torch.tensor([0, 1]))
    criterion(gather(criterion.needs, model, axes_of(model, images), [batch]))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_standardised_scores_have_no_unit_of_their_own(family):
    for axis, score in zip(traced(family)[2], _scored("flap", family), strict=True):
        assert abs(score.mean()) < 1e-6, axis.name
        assert score.square().mean() == pytest.approx(1), axis.name


def _scored(name: str, family: str) -> list[torch.Tensor]:
    criterion = CRITERIA.get(name)
    return criterion(informed(family, criterion.needs))


@pytest.mark.parametrize("name", ["wanda", "flap", "vbp"])
def test_images_without_contrast_get_finite_scores(name):
    model, images, axes = traced("swin")
    CRITERIA.get(name)(gather("activations", model, axes, [(images * 0, torch.zeros(2))]))


@pytest.mark.parametrize("name", ["wanda", "flap", "vbp"])
def test_axes_without_activations_are_refused(name):
    with pytest.raises(CriterionError, match=r"'toy' has no activations to score by.*among w0"):
        CRITERIA.get(name)([one_axis(torch.rand(3, 2))])


@pytest.mark.parametrize("name", ["magnitude", "lamp", "dimap", "fpgm"])
def test_a_layer_of_zeros_gets_finite_scores(name):
    (score,) = CRITERIA.get(name)([one_axis(torch.zeros(3, 2), torch.ones(3, 2))])
    assert torch.isfinite(score).all()


# --- the contract ----------------------------------------------------------------------


def bad(*scores: object) -> Criterion:
    return Criterion("bad", lambda axes: scores)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (torch.zeros(2), r"'bad'.*axis 'toy' with a tensor of shape \(2,\); expected .* \(3,\)"),
        (torch.zeros(3, 1), r"'bad'.*axis 'toy' with a tensor of shape \(3, 1\); expected"),
        ([1.0, 2.0, 3.0], r"'bad'.*axis 'toy' with \[1.0, 2.0, 3.0\]; expected a tensor"),
        (torch.tensor([1, float("nan"), 2]), r"'bad' .*scored 1 of the 3 slices of axis 'toy' NaN"),
        (torch.tensor([1, float("inf"), -float("inf")]), r"2 of the 3 .* axis 'toy' NaN or inf"),
    ],
)
def test_a_score_that_is_not_a_finite_number_per_slice_is_refused(score, message):
    with pytest.raises(CriterionError, match=message):
        bad(score)([one_axis(torch.rand(3, 2))])


def test_too_few_scores_are_refused():
    with pytest.raises(
        CriterionError, match=r"'bad' \(test_criteria:.*returned 0 scores for 1 axes"
    ):
        bad()([one_axis(torch.rand(3, 2))])


def test_scores_come_back_as_float64_without_history():
    weight = torch.rand(3, 2, requires_grad=True)
    criterion = Criterion("sum", lambda axes: [axes[0].reduce(lambda m: m.weight)])
    (score,) = criterion([one_axis(weight)])
    assert score.dtype == torch.float64
    assert not score.requires_grad


def test_configure_returns_a_copy_and_keeps_earlier_options():
    def function(axes, *, first: int = 1, second: int = 2):
        return [first * 10 + second]

    plain = Criterion("two", function)
    both = plain.configure(first=3).configure(second=4)
    assert both.options == {"first": 3, "second": 4}
    assert plain.options == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magnitude", {"pp": 1}, r"option of criterion 'magnitude'.*'pp'.*Did you mean 'p'"),
        ("magnitude", {"p": 1.0}, r"'p' of criterion 'magnitude' got 1.0; expected int"),
        ("taylor", {"square": 1}, r"'square' of criterion 'taylor' got 1; expected bool"),
        ("lamp", {"p": 1}, r"'lamp' has no options"),
    ],
)
def test_options_that_do_not_exist_or_fit_are_refused(name, options, message):
    with pytest.raises(CriterionError, match=message):
        CRITERIA.get(name).configure(**options)


def test_magnitude_refuses_other_powers():
    with pytest.raises(CriterionError, match="'p' of criterion 'magnitude' got 3"):
        CRITERIA.get("magnitude").configure(p=3)([one_axis(torch.rand(3, 2))])


@pytest.mark.parametrize(
    ("name", "option", "text", "value"),
    [
        ("magnitude", "p", "1", 1),
        ("random", "seed", "-7", -7),
        ("taylor", "square", "true", True),
        ("taylor", "square", "0", False),
    ],
)
def test_option_text_is_read_as_the_default_s_type(name, option, text, value):
    parsed = CRITERIA.get(name).parse(option, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "option", "text"),
    [("magnitude", "p", "one"), ("magnitude", "p", "1.5"), ("taylor", "square", "perhaps")],
)
def test_unreadable_option_text_is_refused(name, option, text):
    with pytest.raises(CriterionError, match=f"{option!r} of criterion {name!r} got {text!r}"):
        CRITERIA.get(name).parse(option, text)


# --- the order -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_is_that_of_a_stable_sort(dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5000, generator=generator, dtype=dtype)
    values[::3] = values[0]  # ties
    values[1:90:7], values[2:90:7] = 0.0, -0.0
    values[5], values[6], values[7] = torch.inf, 1e-45, -torch.inf
    assert torch.equal(descending(values), values.argsort(descending=True, stable=True))
    assert descending(values[:0]).tolist() == []
