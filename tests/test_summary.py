"""Tests of what a comparison says: rankings, ties, and the sentences about them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from records import DENSE, IMAGES, correct, record

from prunekit.comparison.cell import Timing
from prunekit.comparison.findings import Findings
from prunekit.comparison.statistics import interval, mcnemar
from prunekit.comparison.summary import summarise
from prunekit.comparison.wording import SINGLE

SOME = {"made": "2026-01-01T00:00:00+00:00", "calibration": 512}


def summary(records, cells=None, seeds=(0,)) -> Findings:
    cells = len(records) if cells is None else cells
    return summarise(records, command="prunekit compare", seeds=seeds, cells=cells, **SOME)


def only(records):
    (standing,) = summary(records).standings
    return standing


def rows(records):
    return {row.name: row for row in only(records).rows}


def seeded(criterion, *rights, **where):
    """Return records of several seeds."""
    return [
        record(criterion, right, seed=n, seeded=True, **where) for n, right in enumerate(rights)
    ]


@pytest.fixture
def four():
    """Four criteria: two tied at the top, one clearly behind, and a poor control."""
    return [
        record("flap", correct(89, noise=1)),
        record("lamp", correct(88.9, noise=2)),
        record("taylor", correct(85, noise=3)),
        *seeded("random", correct(75, noise=4), correct(74, noise=5), correct(76, noise=6)),
    ]


class TestRows:
    def test_a_row_has_the_figures_of_its_run(self):
        right = correct(88, noise=1)
        row = rows([record("lamp", right, got=0.497)])["lamp"]
        assert (row.top1, row.worst, row.best) == (88, 88, 88)
        assert row.deviation is None
        assert row.lost == pytest.approx(2)
        assert (row.low, row.high) == interval([right])
        assert row.got == 0.497
        assert row.residual == pytest.approx(-0.003)
        assert (row.params, row.macs) == (503, 5030)
        assert row.latency_ms == {"1": 2.0, "8": 5.0}
        assert row.speedup == {"1": 2.0, "8": 1.6}

    def test_a_row_has_no_speed_until_all_its_models_were_timed(self):
        runs = seeded("random", 75, 77)
        row = rows([runs[0], replace(runs[1], timing=None)])["random"]
        assert (row.speedup, row.latency_ms) == (None, None)

    def test_seeds_are_averaged_and_their_spread_is_given(self):
        row = rows(seeded("random", 75, 77, 79))["random"]
        assert row.seeds == (0, 1, 2)
        assert row.top1 == pytest.approx(77)
        assert (row.worst, row.best) == (75, 79)
        assert row.deviation == pytest.approx(2)

    def test_one_run_stands_for_all_seeds_that_make_no_difference(self):
        row = rows([record("lamp", seed=n) for n in (3, 1)])["lamp"]
        assert (row.seeds, row.seeded) == ((1,), False)

    def test_ranks_go_down_with_top1_and_equals_share_one(self, four):
        same = record("twin", correct(85, noise=3))
        ranks = {name: row.rank for name, row in rows([*four, same]).items()}
        assert ranks == {"flap": 1, "lamp": 2, "taylor": 3, "twin": 3, "random": 5}

    def test_those_that_lead_are_the_first_and_all_tied_with_it(self, four):
        assert {row.name for row in only(four).rows if row.leads} == {"flap", "lamp"}

    @pytest.mark.parametrize(
        ("got", "missed"), [(0.505, False), (0.495, False), (0.5051, True), (0.49, True)]
    )
    def test_a_row_more_than_half_a_point_off_is_not_ranked(self, four, got, missed):
        standing = only([*four, record("fpgm", 89.5, got=got)])
        row = next(row for row in standing.rows if row.name == "fpgm")
        assert row.missed == missed
        assert (row.rank is None) == missed
        assert (row is standing.rows[-1]) == missed
        assert any("fpgm" in (pair.first, pair.second) for pair in standing.pairs) != missed
        assert row.top1 == 89.5

    def test_one_seed_that_is_off_takes_its_row_out(self, four):
        runs = seeded("fpgm", 89, 89, 89)
        report = {**runs[1].report, "got": 0.49}
        row = rows([*four, runs[0], replace(runs[1], report=report), runs[2]])["fpgm"]
        assert row.missed
        assert row.residual == pytest.approx(-0.01)
        assert row.got == pytest.approx(0.4967, abs=1e-4)

    def test_a_problem_takes_its_row_out_and_is_told(self, four):
        standing = only([*four, record("vbp", problem="Out of reach.")])
        assert standing.rows[-1].name == "vbp"
        assert standing.rows[-1].problem == "Out of reach."
        assert standing.rows[-1].top1 is None

    def test_a_problem_with_some_seeds_says_with_which(self):
        runs = seeded("vbp", 80, 80, 80)
        runs[1] = record("vbp", seed=1, seeded=True, problem="No.")
        assert rows(runs)["vbp"].problem == "Seed 1: No."
        assert rows([record("vbp"), runs[1]])["vbp"].problem == "Seed 1: No."
        assert rows([record("vbp"), record("vbp", seed=1, problem="No.")])["vbp"].problem == "No."
        same = [record("vbp", seed=n, seeded=True, problem="No.") for n in (0, 1)]
        assert rows(same)["vbp"].problem == "No."


class TestPairs:
    def test_every_pair_of_ranked_rows_is_there_the_better_one_first(self, four):
        pairs = [(pair.first, pair.second) for pair in only(four).pairs]
        assert pairs == list(combinations(["flap", "lamp", "taylor", "random"], 2))
        assert all(pair.difference > 0 for pair in only(four).pairs)

    def test_a_pair_has_the_p_value_of_its_test(self, four):
        pair = only(four).pairs[0]
        p = mcnemar(four[0].correct, four[1].correct)
        assert (pair.difference, pair.p) == (pytest.approx(0.1), p)
        assert pair.verdict == "tie"

    def test_the_pairs_of_a_column_are_one_family(self):
        right = np.ones(IMAGES, bool)
        worse = right.copy()
        worse[:7] = False  # 7 images to none: a p-value of 1/64
        two = [record("a", right), record("b", worse)]
        assert only(two).pairs[0].verdict == "better"
        more = [record(name, worse) for name in "cdef"]
        pair = only([*two, *more]).pairs[0]
        assert pair.p == 1 / 64
        assert pair.verdict == "tie"

    def test_a_tie_with_the_first_need_not_be_one_with_all(self):
        base = np.ones(IMAGES, bool)
        first, second, third = base.copy(), base.copy(), base.copy()
        first[:100] = False
        second[100:201] = False  # on images of its own: 101 to 100
        third[100:230] = False  # on the second's, and 29 more
        standing = only([record(n, r) for n, r in (("a", first), ("b", second), ("c", third))])
        verdicts = {(pair.first, pair.second): pair.verdict for pair in standing.pairs}
        assert verdicts == {("a", "b"): "tie", ("a", "c"): "tie", ("b", "c"): "better"}
        assert all(row.leads for row in standing.rows)


class TestNames:
    def test_a_criterion_with_one_scope_is_called_by_its_name(self):
        assert set(rows([record("a", scope="kind"), record("b", scope="model")])) == {"a", "b"}

    def test_a_criterion_with_several_is_called_by_both(self):
        found = rows([record("a"), record("a", 80.0, scope="model"), record("b")])
        assert set(found) == {"a, scope kind", "a, scope model", "b"}

    def test_a_sentence_has_no_comma_in_a_name(self):
        sentence = only([record("a"), record("a", 80.0, scope="model")]).sentence
        assert sentence.startswith("a in scope kind leads with 85.0 % [")


class TestSentence:
    def test_ties_are_called_ties_and_the_control_is_shown(self, four):
        low, high = interval([four[0].correct])
        assert only(four).sentence == (
            f"flap leads with 89.0 % [{low:.1f}, {high:.1f}]; lamp is tied with it; the random "
            "control is at 75.0 %."
        )

    def test_a_lead_beyond_noise_is_said_to_be_one(self, four):
        assert "], clear of all 2 others; the random" in only([four[0], *four[2:]]).sentence

    def test_a_control_says_what_it_is_as_good_as(self):
        runs = [
            record("flap", correct(89, noise=1)),
            record("random", correct(80, noise=2)),
            record("magnitude", correct(80.1, noise=3)),
            record("taylor", correct(70, noise=4)),
        ]
        assert only(runs).sentence.endswith(
            "the random control is at 80.0 %, tied with magnitude, above taylor."
        )

    def test_a_control_that_is_tied_for_the_lead_is_named_so(self):
        runs = [record("flap", correct(89.1, noise=1)), record("random", correct(89, noise=2))]
        assert only(runs).sentence.endswith("; the random control is tied with it.")
        assert only(runs[::-1]).sentence == only(runs).sentence

    def test_a_control_that_leads_is_said_to(self):
        runs = [record("flap", 70.0), record("random", 80.0)]
        assert only(runs).sentence.startswith("The random control leads with 80.0 % [")

    def test_many_ties_are_counted(self):
        runs = [record(name, correct(85, noise=n + 1)) for n, name in enumerate("abcdefg")]
        assert only(runs).sentence.endswith("; all 6 others are tied with it.")
        assert only([*runs, record("z", 50.0)]).sentence.endswith("; 6 others are tied with it.")
        sentence = only([*runs, record("random", correct(85, noise=99))]).sentence
        assert sentence.endswith("; all 7 others including the random control are tied with it.")

    def test_those_without_a_rank_are_named_and_not_compared(self):
        runs = [record("a"), record("b", 99.0, got=0.6), record("c", problem="No.")]
        assert only(runs).sentence.startswith("a alone is ranked, at 85.0 % [")
        assert only(runs).sentence.endswith("]; b missed the budget; c had a problem.")
        assert only(runs[1:]).sentence == (
            "Nothing can be ranked; b missed the budget; c had a problem."
        )


class TestAnswer:
    def test_it_is_about_the_budget_nearest_to_a_half(self):
        runs = [record("a", ratio=ratio) for ratio in (0.3, 0.625, 0.9)]
        assert summary(runs).answer.startswith("With 62.5 % of parameters removed and no repair, ")

    def test_architectures_with_the_same_leader_are_said_in_one_breath(self, four):
        twice = [replace(one, cell=replace(one.cell, arch="vit_micro")) for one in four]
        other = [
            record("lamp", 90.0, arch="convnext_micro"),
            record("flap", 80.0, arch="convnext_micro"),
        ]
        assert summary([*four, *twice, *other]).answer == (
            "With 50 % of parameters removed and no repair, lamp leads on convnext_micro (90.0 % "
            "top-1, clear of the one other), and flap leads on swin_micro (89.0 % top-1, within "
            "noise of lamp, the random control at 75.0 %) and vit_micro (89.0 % top-1, within "
            "noise of lamp, the random control at 75.0 %)."
        )

    def test_the_second_sentence_is_about_repair_and_training(self, four):
        repaired = [record("lamp", 90.0, repair="lstsq"), record("flap", 89.9, repair="lstsq")]
        trained = [record("lamp", 90.0, finetune="quick"), record("flap", 80.0, finetune="quick")]
        first, second, rest = summary([*four, *repaired, *trained]).answer.partition(
            " With repair "
        )
        assert first.endswith("the random control at 75.0 %).")
        assert second + rest == (
            " With repair lstsq, lamp leads on swin_micro (90.0 % top-1, within noise of flap); "
            "with fine-tuning quick, lamp leads on swin_micro (90.0 % top-1, clear of the one "
            "other)."
        )

    def test_without_plain_runs_it_is_about_what_there_is(self):
        runs = [record(n, repair="lstsq", finetune="quick", by="macs") for n in "ab"]
        assert summary(runs).answer == (
            "With 50 % of MACs removed, repair lstsq and fine-tuning quick, a leads on swin_micro "
            "(85.0 % top-1, within noise of b)."
        )

    def test_one_criterion_does_not_lead(self):
        assert summary([record("a")]).answer.endswith(
            "no repair, a alone is ranked on swin_micro (85.0 % top-1)."
        )

    @pytest.mark.parametrize("how", [{"got": 0.6}, {"problem": "Out of reach."}])
    def test_where_all_failed_it_says_so(self, how):
        found = summary([record(n, **how) for n in "ab"])
        assert found.answer == (
            "With 50 % of parameters removed and no repair, nothing can be ranked on swin_micro."
        )

    def test_columns_of_one_architecture_are_told_apart(self):
        runs = [
            record("a", axes=axes, by=by)
            for axes in (("mlp",), ("mlp", "head"))
            for by in ("params", "macs")
        ]
        answer = summary(runs).answer
        assert answer.startswith("With 50 % removed and no repair, a alone is ranked on ")
        assert "swin_micro with axes mlp by MACs (" in answer
        assert "swin_micro with axes mlp+head by parameters (" in answer

    def test_axes_are_not_mentioned_where_each_architecture_has_its_own(self):
        runs = [record("a"), record("a", arch="convnext_micro", axes=("mlp",))]
        assert "axes" not in summary(runs).answer

    def test_a_single_seed_is_warned_of(self, four):
        assert SINGLE not in summary(four).answer
        assert SINGLE in summary([*four[:3], four[3]]).answer

    def test_without_records_it_claims_nothing(self):
        found = summary([], cells=4)
        assert found.answer == "No cell has been run yet."
        assert (found.origin.missing, found.standings, found.dense) == (4, (), ())


class TestTheRest:
    def test_the_origin_adds_up(self, four):
        origin = summary(four, cells=10, seeds=(0, 1, 2)).origin
        assert (origin.cells, origin.missing) == (10, 4)
        assert origin.seconds == pytest.approx(1.5 * len(four))
        assert origin.alone == pytest.approx(3.0 * len(four))
        assert origin.versions == {"numpy": "2.0", "torch": "2.6"}
        assert origin.devices == ("cpu (Some), threads 2",)
        assert origin.made == SOME["made"]

    def test_several_versions_are_all_named(self):
        runs = [record("a"), record("b")]
        recipe = {**runs[1].report["recipe"], "versions": {"numpy": "2.1"}}
        runs[1] = replace(runs[1], report={**runs[1].report, "recipe": recipe})
        assert summary(runs).origin.versions["numpy"] == "2.0, 2.1"

    def test_dense_models_are_described(self, four):
        (dense,) = summary([record("a", problem="No."), *four]).dense
        assert (dense.arch, dense.params, dense.macs, dense.images) == (
            "swin_micro",
            1000,
            10000,
            IMAGES,
        )
        assert dense.top1 == 90
        assert (dense.low, dense.high) == interval([DENSE])
        assert dense.latency_ms == {"1": 4.0, "8": 8.0}
        assert dense.data == "fashion-mnist-mini"

    def test_dense_latency_is_the_median_over_runs(self):
        runs = [record(name) for name in "abc"]
        runs = [
            replace(one, timing=Timing({"1": milliseconds}, {"1": 2.0}))
            for one, milliseconds in zip(runs, (5.0, 50.0, 4.5), strict=True)
        ]
        (dense,) = summary(runs).dense
        assert dense.latency_ms["1"] == 5.0

    def test_scoring_is_averaged_over_runs(self):
        (scoring,) = summary(seeded("flap", 80, 80)).scoring
        assert (scoring.seconds, scoring.images, scoring.peak_bytes) == (0.75, 512, 1000)

    def test_the_order_of_the_records_does_not_matter(self, four):
        runs = [
            *four,
            record("lamp", ratio=0.7),
            record("b", problem="No."),
            record("a", repair="bias"),
        ]
        expected = summary(runs)
        for seed in range(3):
            shuffled = random.Random(seed).sample(runs, len(runs))
            assert summary(shuffled) == expected

    def test_it_is_plain_data(self, four):
        found = summary([*four, record("b", problem="No.")]).to_json()
        assert json.loads(json.dumps(found, allow_nan=False))["answer"] == found["answer"]

    def test_columns_come_plain_first(self):
        runs = [
            record("a", finetune=finetune, repair=repair, ratio=ratio)
            for finetune in ("quick", "none")
            for repair in ("bias", "none")
            for ratio in (0.7, 0.3)
        ]
        found = [
            (one.column.finetune, one.column.repair, one.column.ratio)
            for one in summary(runs).standings
        ]
        assert found[:4] == [
            ("none", "none", 0.3),
            ("none", "none", 0.7),
            ("none", "bias", 0.3),
            ("none", "bias", 0.7),
        ]


class TestLatencyBudgets:
    def test_how_near_each_run_came_is_told(self):
        timing = {
            "conditions": {"batch": 8},
            "asked": 0.5,
            "predicted": 0.48,
            "saving": {"removed": 0.51, "low": 0.4, "high": 0.6},
        }
        timed = record("lamp", by="latency")
        timed = replace(timed, report={**timed.report, "rounds": [{"timing": timing}]})
        (met,) = summary([timed, record("dimap")]).met
        assert (met.criterion, met.seed, met.batch, met.column.by) == ("lamp", 0, 8, "latency")
        assert (met.predicted, met.measured, met.low, met.high) == (0.48, 0.51, 0.4, 0.6)
        assert met.miss == pytest.approx(0.49 / 0.5 - 1)

    def test_quartiles_are_over_the_dense_median_and_not_made_up(self):
        timing = Timing({"8": 8.0}, {"8": 5.0}, {"8": 4.0}, {"8": 6.0})
        (row,) = summary([replace(record(), timing=timing)]).standings[0].rows
        assert row.latency_spread == {"8": (0.5, 0.75)}
        (row,) = summary([record()]).standings[0].rows  # of an older comparison
        assert row.latency_spread is None
