"""Tests of paired tests, their combination and adjustment, and bootstrap intervals."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prunekit.comparison.statistics import (
    ANY,
    Comparison,
    combine,
    compare,
    holm,
    interval,
    mcnemar,
    paired,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)
COUNTS = st.integers(0, 30)


def discordant(only_first: int, only_second: int, both: int = 7, neither: int = 3):
    """Return two models' results, with so many images that only one of them gets right."""
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * neither
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * neither
    return np.array(first, bool), np.array(second, bool)


def as_likely_or_less(only_first: int, only_second: int) -> float:
    """Add up, over all ways that as many images could fall, those no likelier than this one."""
    n = only_first + only_second
    ways = [math.comb(n, k) for k in range(n + 1)]
    return sum(way for way in ways if way <= ways[only_first]) / 2**n


class TestMcNemar:
    @given(COUNTS, COUNTS)
    def test_it_is_the_sum_of_binomial_coefficients(self, b, c):
        assert mcnemar(*discordant(b, c)) == pytest.approx(as_likely_or_less(b, c), abs=1e-12)

    @pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 12), (400, 480), (2000, 2200), (0, 5000)])
    def test_it_is_scipys_binomial_test(self, b, c):
        expected = stats.binomtest(b, b + c, 0.5).pvalue
        assert mcnemar(*discordant(b, c)) == pytest.approx(expected, rel=1e-9, abs=1e-300)

    def test_a_model_is_not_different_from_itself(self):
        right = np.random.default_rng(0).random(1000) < 0.9
        assert mcnemar(right, right) == 1.0

    @given(COUNTS, COUNTS)
    def test_it_does_not_matter_who_is_first(self, b, c):
        first, second = discordant(b, c)
        assert mcnemar(first, second) == mcnemar(second, first)

    @given(COUNTS, COUNTS, COUNTS, COUNTS)
    def test_images_that_both_get_right_or_wrong_do_not_matter(self, b, c, both, neither):
        assert mcnemar(*discordant(b, c, both, neither)) == mcnemar(*discordant(b, c))

    def test_it_knows_more_than_the_totals(self):
        close, apart = discordant(20, 2), discordant(120, 102)
        assert mcnemar(*close) < 0.001
        assert mcnemar(*apart) > 0.2


class TestCombine:
    def test_one_p_value_stays(self):
        assert combine([0.03]) == 0.03

    @given(P_VALUES)
    def test_it_is_a_probability_and_never_below_the_smallest(self, p):
        assert min(p) <= combine(p) <= 1

    @pytest.mark.parametrize("seeds", [2, 3, 4, 5])
    @pytest.mark.parametrize("dependence", ["none", "full", "opposite"])
    def test_it_is_valid_whatever_the_dependence(self, seeds, dependence):
        rng = np.random.default_rng(seeds)
        uniform = rng.random((4000, seeds))
        if dependence == "full":
            uniform[:] = uniform[:, :1]
        if dependence == "opposite":
            uniform[:, 1::2] = 1 - uniform[:, :1]
        combined = np.array([combine(list(p)) for p in uniform])
        for level in (0.01, 0.05, 0.2):
            assert (combined <= level).mean() <= level + 3 * math.sqrt(level / len(uniform))


def holm_by_the_textbook(p):
    """Strike off the smallest p-value, times how many are left, again and again."""
    left, floor, adjusted = sorted(range(len(p)), key=lambda i: p[i]), 0.0, [0.0] * len(p)
    while left:
        smallest = left[0]
        floor = max(floor, min(1.0, p[smallest] * len(left)))
        adjusted[smallest] = floor
        left.pop(0)
    return adjusted


class TestHolm:
    def test_it_gives_the_figures_worked_out_by_hand(self):
        # 4 * 0.005, 3 * 0.01, then 2 * 0.03, which the last, 0.04, may not fall below
        assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])

    @given(P_VALUES)
    def test_it_is_the_procedure_of_the_textbook(self, p):
        assert holm(p).tolist() == pytest.approx(holm_by_the_textbook(p))

    @given(P_VALUES)
    def test_it_keeps_the_order_and_never_lowers(self, p):
        adjusted = holm(p)
        assert (adjusted >= p).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()

    @given(P_VALUES, st.randoms())
    def test_the_order_of_the_tests_does_not_matter(self, p, random):
        order = list(range(len(p)))
        random.shuffle(order)
        assert holm([p[i] for i in order]).tolist() == holm(p)[order].tolist()

    def test_one_test_stays_as_it_is_and_none_gives_none(self):
        assert holm([0.02]).tolist() == [0.02]
        assert holm([]).tolist() == []


class TestPairing:
    def test_seeds_go_with_the_same_seeds(self):
        assert paired({0: "a", 1: "b", 2: "c"}, {2: "z", 1: "y", 5: "x"}) == [
            ("b", "y"),
            ("c", "z"),
        ]

    def test_a_row_that_no_seed_changes_goes_with_every_seed(self):
        assert paired({ANY: "a"}, {1: "y", 2: "z"}) == [("a", "y"), ("a", "z")]
        assert paired({ANY: "a"}, {ANY: "z"}) == [("a", "z")]

    def test_without_a_common_seed_all_go_with_all(self):
        assert paired({0: "a", 1: "b"}, {2: "z"}) == [("a", "z"), ("b", "z")]


class TestCompare:
    def test_a_clear_difference_is_one(self):
        first, second = discordant(60, 10)
        found = compare({ANY: first}, {ANY: second})
        assert found.difference == pytest.approx(100 * 50 / 80)
        assert found.verdict(found.p) == "better"
        assert compare({ANY: second}, {ANY: first}).verdict(found.p) == "worse"

    def test_an_adjusted_p_value_of_exactly_the_level_counts(self):
        assert Comparison(1.0, 0.01, True).verdict(0.05) == "better"
        assert Comparison(1.0, 0.01, True).verdict(0.0500001) == "tie"

    def test_seeds_that_disagree_are_a_tie_however_small_the_p_value(self):
        up, down = discordant(300, 10), discordant(10, 300)
        found = compare({0: up[0], 1: up[0], 2: down[0]}, {0: up[1], 1: up[1], 2: down[1]})
        assert found.p < 1e-6
        assert found.verdict(found.p) == "tie"

    def test_seeds_are_paired_with_their_own(self):
        first, second = discordant(60, 10)
        found = compare({0: first, 1: second}, {0: second, 1: first})
        assert found.difference == 0
        assert not found.agreed

    def test_of_several_seeds_the_p_value_is_twice_the_median(self):
        runs = [discordant(30, 10), discordant(20, 14), discordant(25, 12)]
        found = compare(
            {seed: first for seed, (first, _) in enumerate(runs)},
            {seed: second for seed, (_, second) in enumerate(runs)},
        )
        assert found.p == pytest.approx(2 * mcnemar(*runs[2]))

    @pytest.mark.parametrize("seeds", [1, 3])
    def test_models_that_are_equally_good_are_nearly_always_called_ties(self, seeds):
        rng = np.random.default_rng(0)
        columns, rows, images = 200, 5, 400
        alarms = false_alarms = 0
        for _ in range(columns):
            hard = rng.random(images) < 0.3  # the images that some get wrong; shared by all
            right = ~(hard & (rng.random((rows, seeds, images)) < 0.5))
            found = [
                compare(dict(enumerate(right[i])), dict(enumerate(right[j])))
                for i in range(rows)
                for j in range(i)
            ]
            adjusted = holm([one.p for one in found])
            false_alarms += any(
                one.verdict(p) != "tie" for one, p in zip(found, adjusted, strict=True)
            )
            alarms += any(one.p <= 0.05 for one in found)
        assert false_alarms / columns <= 0.05
        if seeds == 1:
            assert alarms / columns > 0.1  # without Holm's correction this test would fail


class TestInterval:
    def test_it_is_close_to_the_normal_approximation(self):
        right = np.arange(10_000) % 10 > 0
        low, high = interval([right])
        half = 100 * 1.96 * math.sqrt(0.9 * 0.1 / len(right))
        assert (low, high) == pytest.approx((90 - half, 90 + half), abs=0.03)

    def test_it_is_that_of_scipys_bootstrap_over_images(self):
        rng = np.random.default_rng(1)
        seeds = list(rng.random((3, 1)) * 0.1 + 0.8 > rng.random((3, 2000)))
        expected = stats.bootstrap(
            (np.mean(seeds, axis=0),),
            np.mean,
            n_resamples=4999,
            method="percentile",
            random_state=rng,
        ).confidence_interval
        assert interval(seeds) == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.1)

    def test_seeds_that_are_right_on_the_same_images_are_no_more_data(self):
        right = np.random.default_rng(0).random(5000) < 0.8
        assert interval([right] * 4) == pytest.approx(interval([right]), abs=0.1)

    def test_seeds_that_err_on_different_images_make_it_narrower(self):
        right = np.random.default_rng(0).random((4, 5000)) < 0.8
        one, four = interval([right[0]]), interval(list(right))
        assert four[1] - four[0] == pytest.approx((one[1] - one[0]) / 2, rel=0.1)

    def test_it_covers_the_truth_about_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        truth = 88.0
        found = [interval([rng.random(1000) < truth / 100]) for _ in range(400)]
        covered = np.mean([low <= truth <= high for low, high in found])
        assert 0.92 < covered < 0.975  # 400 trials of 95 % have a standard deviation of 1.1 %

    def test_it_is_the_same_every_time_and_in_any_order_of_images(self):
        right = np.random.default_rng(0).random(1000) < 0.9
        assert interval([right]) == interval([right]) == interval([right[::-1]])

    @pytest.mark.parametrize(("percent", "right"), [(100.0, True), (0.0, False)])
    def test_without_a_single_error_or_hit_it_has_no_width(self, percent, right):
        assert interval([np.full(50, right)] * 3) == (percent, percent)

    def test_it_takes_little_time(self):
        right = list(np.random.default_rng(0).random((5, 10_000)) < 0.9)
        began = time.perf_counter()
        for _ in range(10):
            interval(right)
        assert time.perf_counter() - began < 1  # a tenth of a second each, and mostly far less
