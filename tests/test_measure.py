"""Costs, counted by hand."""

from __future__ import annotations

import pytest
import torch
from conftest import TOYS, adapter_of, kinds_of, of_kind, random_plan, traced
from torch import nn
from torch.nn import functional as F

from prunekit.axis import Axis, AxisSpec, Member
from prunekit.cutting.shrink import shrunk
from prunekit.errors import DataError
from prunekit.measuring import latency as timing
from prunekit.measuring.accuracy import accuracy
from prunekit.measuring.counting import Latency, mac_terms, macs_by_module, param_terms, stats
from prunekit.measuring.latency import latency
from prunekit.measuring.memory import peak_memory
from prunekit.planning.budget import Budget, Term
from prunekit.planning.plan import Plan, make_plan
from prunekit.planning.prices import priced

FLOAT = 4  # bytes


def macs(model, example):
    return sum(macs_by_module(model, example).values())


# --- multiply-accumulates --------------------------------------------------------------------


def test_macs_of_a_linear_layer_are_its_weights_per_token():
    assert macs(nn.Linear(6, 10), torch.randn(2, 7, 6)) == 7 * 6 * 10


def test_macs_of_a_convolution_are_its_weights_per_output_pixel():
    plain = nn.Conv2d(3, 8, kernel_size=3, stride=2)
    assert macs(plain, torch.randn(2, 3, 9, 9)) == (4 * 4) * 8 * 3 * 9
    depthwise = nn.Conv2d(8, 8, kernel_size=3, padding=1, groups=8)
    assert macs(depthwise, torch.randn(2, 8, 5, 5)) == (5 * 5) * 8 * 9


def test_macs_of_attention_are_those_of_its_two_products():
    class Attention(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn, self.last = Attention(), nn.Linear(4, 5)

        def forward(self, x):
            return self.last(self.attn(x))

    heads, tokens, dim = 3, 7, 4
    own = macs_by_module(Model(), torch.randn(2, heads, tokens, dim))
    assert own["attn"] == 2 * heads * tokens * tokens * dim
    assert own["last"] == heads * tokens * dim * 5
    assert sum(own.values()) == own["attn"] + own["last"]


def test_stats_count_parameters_and_bytes():
    model = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10))
    found = stats(model, torch.randn(2, 6))
    assert found.params == 6 * 10 + 10 + 2 * 10
    # The running mean and variance in float32, and the number of batches as one int64.
    assert found.size_bytes == FLOAT * (found.params + 2 * 10) + 8
    assert found.macs == 6 * 10


CASES = [(name, kind) for name in TOYS for kind in [*kinds_of(name), "all"]]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_plan_by_macs_predicts_the_small_model_s_macs_exactly(name, kind):
    model, images, axes = traced(name)
    axes = of_kind(axes, kind)
    scores = [torch.arange(axis.size, dtype=torch.float64) for axis in axes]
    terms = mac_terms(model, axes, images)
    whole = sum(term.cost for term in terms)
    assert whole == stats(model, images).macs
    budget = Budget(0.4 if kind == "block" else 0.15, "macs", whole, terms)
    plan = make_plan(axes, scores, budget, scope="axis", floor=0, multiple=1)
    small = shrunk(model, axes, plan, adapter_of(name))
    assert whole * (1 - plan.got) == pytest.approx(stats(small, images).macs, rel=1e-12)
    assert plan.got > 0.1


@pytest.mark.parametrize("name", TOYS)
def test_the_price_of_a_slice_is_what_the_model_saves_without_it(name):
    model, images, axes = traced(name)
    by_macs = priced(axes, "macs", mac_terms(model, axes, images))
    for axis in (axis for axis in by_macs if axis.spec.groups == 1 and not axis.spec.match):
        plan = Plan({axis.name: tuple(range(1, axis.size))}, {axis.name: axis.size}, "macs", 0, 0)
        small = shrunk(model, [axis], plan, adapter_of(name))
        saved = stats(model, images).macs - stats(small, images).macs
        assert axis.price == pytest.approx(saved, rel=1e-9), axis.name


def test_a_layer_that_reads_and_writes_an_axis_is_paid_for_once():
    slices, weight = torch.arange(4).unsqueeze(1), torch.rand(4, 4)
    both = tuple(Member("w", "w", dim, slices, weight) for dim in (0, 1))
    term = Term(16, (("w", 0), ("w", 1)))
    (axis,) = priced([Axis(AxisSpec("square", "w"), 4, both)], "macs", [term])
    assert axis.price == 16 - 9


def test_slices_cost_one_where_slices_are_counted_and_no_price_is_set_for_weights():
    axes = traced("swin")[2]
    assert {axis.price for axis in priced(axes, "slices", ())} == {1}
    assert {axis.price for axis in priced(axes, "params", ())} == {None}


@pytest.mark.parametrize("name", TOYS)
def test_param_terms_add_up_to_the_parameters(name):
    model, images, _ = traced(name)
    assert sum(term.cost for term in param_terms(model)) == stats(model, images).params


@pytest.mark.parametrize("name", TOYS)
def test_a_pruned_model_costs_less_of_everything(name):
    model, images, axes = traced(name)
    small = shrunk(model, axes, random_plan(axes, 0.5), adapter_of(name))
    before, after = stats(model, images), stats(small, images)
    assert after.params < before.params
    assert after.macs < before.macs
    assert after.size_bytes < before.size_bytes


# --- memory and time ---------------------------------------------------------------------------


def test_peak_memory_of_two_layers_is_both_activations_of_the_larger_step():
    model = nn.Sequential(nn.Linear(6, 100), nn.Linear(100, 50), nn.Linear(50, 3))
    # The second layer reads 100 values and writes 50; nothing else is alive meanwhile.
    # The first's input was there before, and the last step holds 50 + 3.
    assert peak_memory(model, torch.randn(2, 6), batch=8) == 8 * (100 + 50) * FLOAT


def test_peak_memory_of_a_two_layer_mlp_is_its_hidden_and_output_values():
    model = nn.Sequential(nn.Linear(6, 100), nn.ReLU(inplace=True), nn.Linear(100, 3))
    assert peak_memory(model, torch.randn(2, 6), batch=4) == 4 * (100 + 3) * FLOAT


def test_latency_times_each_model_at_the_batch_size_asked_for():
    class Counting(nn.Linear):
        batches: list[int]

        def forward(self, x):
            self.batches.append(len(x))
            return super().forward(x)

    models = [Counting(3, 3), Counting(3, 3)]
    for model in models:
        model.batches = []
    times = latency(models, torch.randn(2, 3), batch=5)
    assert all(0 < found.low <= found.median <= found.high for found in times)
    assert models[0].batches == models[1].batches
    assert set(models[0].batches) == {5}


@pytest.mark.parametrize(
    ("seconds", "counted"),
    # 2 models: 42 passes take 4.2 s; 9 take 5.4, of which 2 warm up; 4 take 6; 3 take 60.
    [(0.05, 40), (0.3, 7), (0.75, 3), (10.0, 3)],
)
def test_slow_models_are_timed_less_often_but_never_less_than_three_times(
    monkeypatch, seconds, counted
):
    passes = []
    monkeypatch.setattr(timing, "_time", lambda *_: passes.append(1) or seconds)
    found = timing.latency([nn.Linear(3, 3), nn.Linear(3, 3)], torch.randn(2, 3), batch=1)
    assert found == [Latency(*[1000 * seconds] * 3, counted)] * 2
    assert len(passes) <= 2 * (counted + timing.WARM_UP)


def test_models_are_timed_in_turns_and_the_first_passes_are_left_out(monkeypatch):
    order, models = [], [nn.Linear(3, 3), nn.Linear(3, 3)]

    def one(model, _):
        order.append(models.index(model))
        return 9.0 if len(order) <= 2 * timing.WARM_UP else 1.0

    monkeypatch.setattr(timing, "_time", one)
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", 40.0)
    found = timing.latency(models, torch.randn(2, 3), batch=1)
    assert order == [1, 0, 0, 1] * 2 + [1, 0]
    assert found == [Latency(1000.0, 1000.0, 1000.0, 3)] * 2


def test_checkpointing_changes_neither_time_nor_memory_and_stays(monkeypatch):
    class Net(nn.Sequential):
        grad_checkpointing = False

        def forward(self, x):
            seen.append(self.grad_checkpointing)
            return super().forward(x)

    seen, model = [], Net(nn.Linear(6, 100), nn.Linear(100, 3))
    model.grad_checkpointing = True
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", 0.0)
    timing.latency([model], torch.randn(2, 6), batch=2)
    assert peak_memory(model, torch.randn(2, 6), batch=4) == 4 * (100 + 3) * FLOAT
    assert seen == [False] * 4
    assert model.grad_checkpointing


# --- accuracy ------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Gives every image the logits that are the image."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x


def test_accuracy_counts_first_and_first_five_places_over_all_batches():
    ranking = torch.arange(8.0)  # class 7 first, then 6, 5, 4, 3
    batches = [
        (ranking.repeat(3, 1), torch.tensor([7, 6, 3])),
        (ranking.repeat(1, 1), torch.tensor([2])),
    ]
    assert accuracy(Fixed(), batches) == (25.0, 75.0, 4)


def test_accuracy_of_few_classes_looks_no_further_than_there_are():
    assert accuracy(Fixed(), [(torch.eye(3), torch.tensor([0, 1, 0]))]) == (66.667, 100.0, 3)


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(DataError, match="label 3, but the model tells only 3 classes"):
        accuracy(Fixed(), [(torch.eye(3), torch.tensor([0, 1, 3]))])
