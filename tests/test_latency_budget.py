"""A budget in milliseconds: predicted from the times of modules, measured on what is built."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from conftest import refused_by_run
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunekit import prune
from prunekit.cli import main
from prunekit.comparison.grid import Grid
from prunekit.errors import ArtifactError, BudgetError
from prunekit.measuring import own_times as own
from prunekit.measuring.counting import Latency
from prunekit.measuring.saving import Conditions, Saving
from prunekit.planning.budget import Term
from prunekit.planning.curve import Curve
from prunekit.planning.plan import NothingToRemove, OutOfReach, Plan
from prunekit.pruning import cache, closing, latency_table

pytestmark = pytest.mark.usefixtures("timed_quickly")
X = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))


class Sleepy(nn.Linear):
    """A layer whose time is known: it sleeps for each of its weights, and a little besides."""

    def forward(self, x):
        time.sleep(1e-3 + 1e-5 * self.weight.numel())
        return super().forward(x)


class Net(nn.Module):
    """A hidden layer that costs a lot to write, and little to read."""

    def __init__(self):
        super().__init__()
        self.up, self.down = Sleepy(8, 128), nn.Linear(128, 3)

    def forward(self, x):
        return self.down(self.up(x).relu())


@pytest.fixture
def nothing_else_takes_time(monkeypatch):
    """Let a clock go on by what layers sleep, and by nothing that else runs on the machine."""
    now = [0]
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now[-1] + round(1e9 * seconds)))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[-1])
    monkeypatch.setattr(time, "perf_counter", lambda: now[-1] / 1e9)


def by_latency(ratio=0.4, **options):
    torch.manual_seed(0)
    return prune(Net(), "magnitude", ratio, by="latency", example_input=X, **options)


@pytest.mark.usefixtures("nothing_else_takes_time")
def test_the_time_of_what_is_built_is_what_was_asked_for():
    """The layer's time is 1 ms and 10.24 ms for 128 channels; 40 % of it is 56 channels."""
    result = by_latency(multiple=1)
    timing = result.rounds[0].timing
    assert abs(len(result.plan.kept["up"]) - 72) <= 6
    assert result.got == timing.saving.removed == pytest.approx(0.4, abs=0.05)
    assert timing.predicted == pytest.approx(0.4, abs=0.05)
    assert timing.saving.low <= timing.saving.removed <= timing.saving.high


def test_a_table_serves_every_criterion_and_ratio(monkeypatch):
    first = by_latency()
    monkeypatch.setattr(latency_table, "own_times", lambda *_: pytest.fail("measured again"))
    torch.manual_seed(0)
    again = prune(Net(), "random", 0.2, by="latency", example_input=X)
    assert again.rounds[0].timing.asked < first.rounds[0].timing.asked


def test_another_batch_size_is_another_table(monkeypatch):
    by_latency()
    monkeypatch.setattr(latency_table, "own_times", lambda *_: pytest.fail("measured again"))
    with pytest.raises(pytest.fail.Exception):
        by_latency(latency_batch=2)


def test_a_table_that_is_damaged_is_named(tmp_path):
    by_latency()
    (table,) = (tmp_path / "cache").rglob("*.json")
    table.write_text('{"times": [{"up": -1}]}')
    with pytest.raises(ArtifactError, match=r"remove it, and it is measured again"):
        by_latency()
    table.unlink()
    by_latency()


def test_a_place_that_cannot_hold_tables_is_refused_before_one_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    monkeypatch.setattr(latency_table, "own_times", lambda *_: pytest.fail("measured"))
    with pytest.raises(BudgetError, match="let PRUNEKIT_CACHE name a folder"):
        by_latency()


def test_a_batch_that_does_not_fit_is_said(capsys):
    words = "run --arch vit_micro --criterion magnitude --by latency --latency-batch 99999999"
    assert main([*words.split(), "--ratio", "0.1"]) == 2
    said = capsys.readouterr().err
    assert "does not fit into memory" in said
    assert "latency_batch" in said


@pytest.mark.usefixtures("nothing_else_takes_time")
def test_rounds_lead_to_the_time_that_was_asked_for(monkeypatch):
    """One table is made, and only the last round is timed."""
    made = []
    measured = latency_table.own_times
    monkeypatch.setattr(latency_table, "own_times", lambda *a: made.append(1) or measured(*a))
    result = by_latency(multiple=1, steps=3)
    assert made == [1]
    *first, last = result.rounds
    assert [one.timing for one in first] == [None, None]
    assert [round(one.asked, 3) for one in result.rounds] == [0.281, 0.385, 0.4]
    assert abs(len(result.plan.kept["up"]) - 72) <= 6
    assert last.timing.predicted == pytest.approx(0.4, abs=0.05)
    assert result.got == last.timing.saving.removed == pytest.approx(0.4, abs=0.05)


def test_a_last_round_without_anything_to_do_is_measured_all_the_same():
    """One channel of sixteen is gone after any round, so that the second has nothing to remove."""
    result = by_latency(0.36, multiple=64, steps=2)
    assert len(result.rounds) == 1
    assert "had nothing to remove" in result.warnings[0]
    timing = result.rounds[0].timing
    assert len(result.plan.kept["up"]) == 64
    assert timing.asked == 0.36
    assert result.got == timing.saving.removed == pytest.approx(0.45, abs=0.05)
    assert timing.predicted == pytest.approx(0.45, abs=0.05)


def test_a_correction_that_would_remove_nothing_ends_the_search(monkeypatch):
    bench = Bench(lambda p: 0.4 + p)

    def plan(target):
        if target < 0.2:
            raise NothingToRemove("less than a step")
        return Bench.plan(bench, target)

    monkeypatch.setattr(bench, "plan", plan)
    _, timing = bench.close(0.3, monkeypatch)
    assert timing.tries == bench.built == 1


@given(
    st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.1, 9.0)), min_size=1, max_size=8),
    st.floats(0.05, 1),
    st.floats(0, 1),
)
def test_what_is_left_of_a_curve_goes_on_as_the_curve_does(points, size, further):
    curve = Curve.fitted(*zip(*points, (1.0, 5.0), strict=True))
    term = Term(7.0, (("a", 0),), curve)
    rest = term.after([size])
    both = 7.0 - term.saved([size * further])
    assert rest.cost - rest.saved([further]) == pytest.approx(both)
    assert Term(7.0, ()).after([0.5]).cost == 3.5
    assert term.after([0.0]).cost == 0


def test_a_round_says_what_it_was_asked_for_and_not_what_corrected_plans_are(monkeypatch):
    took = Latency(10.0, 9.0, 11.0)
    found = iter([Saving(0.3, 0.2, 0.4, took, took), Saving(0.4, 0.3, 0.5, took, took)])
    monkeypatch.setattr(closing, "saved_time", lambda *_: next(found))
    result = by_latency(0.4, multiple=1)
    assert result.rounds[0].timing.tries == 2
    assert result.rounds[0].asked == result.plan.asked == 0.4


def test_milliseconds_may_be_named_instead():
    result = by_latency(None, target_ms=7, multiple=1)
    saved = result.rounds[0].timing.saving
    assert saved.small.median == pytest.approx(7, rel=0.15)
    assert result.recipe["ratio"] == pytest.approx(1 - 7 / saved.dense.median, abs=0.1)


def test_own_time_is_without_children():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Sleepy(8, 100)

        def forward(self, x):
            time.sleep(2e-3)
            return self.inner(x)

    (times,) = own.own_times([nn.Sequential(Outer())], X, 1)
    assert times["0.inner"] > 9e6
    assert 2e6 < times["0"] < 6e6
    assert times[""] < 2e6


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.1, 9.0)), min_size=1, max_size=8))
def test_a_curve_never_falls_and_ends_at_one(points):
    sizes, costs = zip(*points, (1.0, 5.0), strict=True)
    curve = Curve.fitted(sizes, costs)
    grid = np.linspace(0.001, 1, 50)
    values = [curve(size) for size in grid]
    assert values == sorted(values)
    assert curve(1.0) == 1
    assert min(values) > 0
    assert curve(0.0) == 0  # what is not there


def test_a_curve_is_what_was_measured_where_that_rises():
    curve = Curve.fitted([0.5, 1.0], [3.0, 4.0])
    assert [curve(0.25), curve(0.5), curve(0.75)] == [0.75, 0.75, 0.875]
    assert curve.slope == 0.5
    assert Curve.fitted([0.25, 0.5, 1.0], [3.0, 2.0, 5.0])(0.3) == 0.5  # the mean of both


class Bench:
    """A model whose time is known, in place of one that is timed: no test can rest on a clock."""

    def __init__(self, measured, most=0.9, step=0.001):
        self.measured, self.most, self.step, self.built = measured, most, step, 0

    def plan(self, target):
        if target > self.most:
            raise OutOfReach("too much", self.most, "latency")
        got = round(target / self.step) * self.step
        return Plan({"a": tuple(range(round(got / self.step)))}, {"a": 999}, "latency", target, got)

    def build(self, plan):
        self.built += 1
        return plan

    def close(self, asked, monkeypatch):
        def saved(dense, plan, example, conditions):
            removed, time = self.measured(plan.got), Latency(1.0, 1.0, 1.0)
            return Saving(removed, removed, removed, time, time)

        monkeypatch.setattr(closing, "saved_time", saved)
        return closing.closed(self.plan, self.build, None, X, asked, Conditions())


CURVES = {
    "as predicted": (lambda p: p, 1),
    "less": (lambda p: 0.6 * p, 2),
    "more": (lambda p: 1.3 * p, 2),
    "bent": (lambda p: p**1.5, 4),
    "nothing at first": (lambda p: max(0.0, p - 0.2), 4),
}


def test_a_correction_that_would_remove_nothing_leaves_what_was_tried(monkeypatch):
    class Coarse(Bench):
        def plan(self, target):
            if target < 0.04:
                raise NothingToRemove("less than half a step")
            return super().plan(target)

    bench = Coarse(lambda p: min(1.0, 10 * p))  # the dense model spends time on its weights, too
    plan, timing = bench.close(0.05, monkeypatch)
    assert (timing.tries, plan.got) == (1, pytest.approx(0.05, abs=0.01))
    with pytest.raises(NothingToRemove):
        bench.close(0.03, monkeypatch)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("asked", [0.2, 0.4])
def test_what_was_predicted_wrongly_is_corrected(name, asked, monkeypatch):
    measured, most = CURVES[name]
    bench = Bench(measured)
    plan, timing = bench.close(asked, monkeypatch)
    assert timing.miss <= closing.CLOSE
    assert timing.saving.removed == measured(plan.got)
    assert bench.built == timing.tries <= most


def test_the_best_of_what_was_built_is_taken(monkeypatch):
    bench = Bench(lambda p: 0.3 * p)
    plan, timing = bench.close(0.5, monkeypatch)
    assert plan.got == pytest.approx(bench.most)  # 0.27 is all there is
    assert timing.tries == bench.built
    assert timing.miss > closing.CLOSE


def test_no_plan_is_built_twice(monkeypatch):
    bench = Bench(lambda p: 0.5 * p, step=0.3)
    bench.close(0.3, monkeypatch)
    assert bench.built <= 3


def test_what_is_out_of_reach_is_said_before_anything_is_built(monkeypatch):
    bench = Bench(lambda p: p, most=0.3)
    with pytest.raises(OutOfReach, match=r"at most 30\.0% can be removed at batch 1"):
        bench.close(0.4, monkeypatch)
    assert not bench.built


def test_a_miss_is_a_warning(monkeypatch):
    found = Saving(0.1, 0.05, 0.2, Latency(10.0, 9.0, 11.0), Latency(9.0, 8.0, 10.0))
    monkeypatch.setattr(closing, "saved_time", lambda *_: found)
    (warning,) = (said for said in by_latency().warnings if said.startswith("Asked for"))
    assert "Asked for 6 ms, measured 9 ms" in warning
    assert "between 5.0% and 20.0%" in warning


def test_several_budgets_are_all_met():
    one = prune("vit_micro", "magnitude", 0.3, axes=["mlp", "head"])
    both = prune("vit_micro", "magnitude", 0.3, axes=["mlp", "head"], also={"macs": 0.45})
    assert 1 - one.after.macs / one.before.macs < 0.4
    assert 1 - both.after.macs / both.before.macs == pytest.approx(0.45, abs=0.01)
    assert 1 - both.after.params / both.before.params > 0.3
    assert both.warnings == ()
    same = prune("vit_micro", "magnitude", 0.3, axes=["mlp", "head"], also={"macs": 0.1})
    assert same.plan.kept == one.plan.kept


REFUSED = {
    "--target-ms 1000000 --by latency": "the dense model takes",
    "--target-ms 3 --by latency --ratio 0.3": "Both a ratio",
    "--target-ms 3": "target_ms is about latency",
    "--target-ms -1 --by latency": "expected more than 0",
    "--latency-batch 4": "latency_batch is about latency",
    "--compile": "compile is about latency",
    "--by latency --latency-batch 0": "expected 1 or more",
    "--by latency --latency-dtype int8": "No precision is called 'int8'",
    "--by latency --granularity 2:4 --criterion magnitude": "save no time by themselves",
    "--also latency=0.3": "No further budget",
    "--also params=0.3": "params is the budget already",
    "--also macs=1.3": "also asks for 1.3 of macs",
    "--by latency --ratio 0.99": "of the latency is out of reach",
    "--also macs=0.3 --steps 2": "in one round",
    "--also macs=0.99": "by macs is out of reach",
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_gets_one_sentence(words, capsys):
    assert REFUSED[words] in refused_by_run(words, capsys)


def test_a_further_budget_is_named_once(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--arch", "vit_micro", "--also", "macs=0.1,macs=0.2"])
    assert "'macs' is there twice" in capsys.readouterr().err


def test_a_further_budget_needs_its_share(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--arch", "vit_micro", "--also", "macs"])
    assert "say how much, as in macs=0.3" in capsys.readouterr().err


def test_part_of_a_model_has_no_latency():
    with pytest.raises(BudgetError, match=r"pass include=\['up\.\*'\]"):
        by_latency(at="up")


def test_it_is_saved_shown_and_compared(tmp_path, capsys):
    out = tmp_path / "small"
    words = "run --arch swin_micro --by latency --ratio 0.05 --no-evaluation --no-timing"
    assert main([*words.split(), "--out", str(out)]) == 0
    assert main(["show", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("at batch 1, float32; asked for") == 2
    timing = json.loads((out / "report.json").read_text())["rounds"][0]["timing"]
    assert timing["conditions"] == {"batch": 1, "dtype": "float32", "compiled": False}
    grid = Grid.of({"arch": ["swin_micro"], "by": ["latency", "params"], "latency_batch": 4}, "it")
    asked = [grid.request(cell) for cell in grid.cells({"swin_micro": ("mlp", "head")})]
    assert [one.latency_batch for one in asked] == [4, 1]
