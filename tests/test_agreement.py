"""Tests of how alike criteria rank and choose."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import KINDS, record
from scipy.stats import spearmanr

from prunekit.comparison.agreement import agreements, kept_fractions
from prunekit.comparison.parts import stages

SIZES = {name: size for name, (_, size) in KINDS.items()}
STAGE_0 = ("layers.0.blocks.0.mlp", "layers.0.blocks.0.attn.head")


def drawn(seed: int) -> dict[str, np.ndarray]:
    """Return scores with some ties."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 3 * size, size).astype(float) for name, size in SIZES.items()}


def change(scores, how):
    return {name: how(values) for name, values in scores.items()}


def find(found, part="all"):
    (agreement,) = [one for one in found if one.part == part]
    return agreement


def between(first, second, part="all"):
    """Return the correlation of two criteria's scores."""
    found = agreements([record("a", scores=first), record("b", scores=second)])
    return find(found, part).correlation[0][1]


def by_definition(first, second, names):
    """Rank by counting who is below and who is level, then correlate, axis by axis."""
    total = weight = 0.0
    for name in names:
        ranks = []
        for scores in (first[name], second[name]):
            ranks.append(
                [sum(a < b for a in scores) + sum(a == b for a in scores) / 2 for b in scores]
            )
        x, y = (np.array(rank) - np.mean(rank) for rank in ranks)
        if x.any() and y.any():
            total += len(x) * (x @ y) / np.sqrt((x @ x) * (y @ y))
            weight += len(x)
    return total / weight


class TestCorrelation:
    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_that_of_the_definition(self, seed):
        first, second = drawn(seed), drawn(seed + 100)
        assert between(first, second) == pytest.approx(
            by_definition(first, second, SIZES), abs=1e-6
        )
        assert between(first, second, "layers.0") == pytest.approx(
            by_definition(first, second, STAGE_0), abs=1e-6
        )

    def test_in_one_axis_it_is_scipys(self):
        kinds = {"mlp": ("mlp", 50)}
        first, second = (
            {"mlp": np.random.default_rng(n).integers(0, 20, 50).astype(float)} for n in (0, 1)
        )
        found = agreements(
            [record("a", scores=first, kinds=kinds), record("b", scores=second, kinds=kinds)]
        )
        expected = spearmanr(first["mlp"], second["mlp"]).statistic
        assert find(found).correlation[0][1] == pytest.approx(expected, abs=1e-6)

    def test_only_the_order_within_an_axis_counts(self):
        first = drawn(0)
        stretched = {name: np.exp(n * 5 + v / 10) for n, (name, v) in enumerate(first.items())}
        assert between(first, stretched) == 1
        assert between(first, change(stretched, lambda v: -v)) == -1

    def test_it_does_not_matter_who_is_first(self):
        found = find(agreements([record(name, scores=drawn(n)) for n, name in enumerate("abc")]))
        matrix = np.array(found.correlation)
        assert (matrix == matrix.T).all()
        assert (np.diag(matrix) == 1).all()
        assert np.abs(matrix).max() == 1
        assert len(np.unique(matrix)) > 3  # the test is able to fail

    def test_scores_that_are_all_the_same_have_none(self):
        flat = change(drawn(0), lambda v: np.full_like(v, 0.1))
        found = agreements([record("flat", scores=flat), record("other", scores=drawn(1))])
        assert find(found).correlation == ((None, None), (None, 1.0))

    def test_an_axis_of_equal_scores_is_left_out_of_the_mean(self):
        first, second = drawn(0), drawn(1)
        flat = {**first, "layers.1.blocks.0.mlp": np.zeros(32)}
        rest = [name for name in SIZES if name != "layers.1.blocks.0.mlp"]
        assert between(flat, second) == pytest.approx(by_definition(first, second, rest), abs=1e-6)
        assert between(flat, second, "layers.1") is None

    def test_seeds_are_compared_in_pairs_and_averaged(self):
        first, second = [drawn(n) for n in (0, 1)], [drawn(n) for n in (2, 3)]
        records = [
            record(name, seed=seed, seeded=True, scores=scores)
            for name, of in (("a", first), ("b", second))
            for seed, scores in enumerate(of)
        ]
        expected = np.mean(
            [by_definition(*pair, SIZES) for pair in zip(first, second, strict=True)]
        )
        assert find(agreements(records)).correlation[0][1] == pytest.approx(expected, abs=1e-6)

    def test_scores_are_those_of_the_plain_run_where_there_is_one(self):
        plain, other = drawn(0), drawn(1)
        records = [
            record("a", scores=other, repair="lstsq"),
            record("a", scores=other, finetune="quick"),
            record("a", scores=plain),
            record("b", scores=plain, repair="lstsq"),
        ]
        for order in (records, records[::-1]):
            assert find(agreements(order)).correlation[0][1] == 1


SUBSETS = st.fixed_dictionaries(
    {name: st.sets(st.integers(0, size - 1)) for name, size in SIZES.items()}
)


def arrays(kept):
    return {name: np.array(sorted(slices), dtype=np.int64) for name, slices in kept.items()}


class TestOverlap:
    @given(SUBSETS, SUBSETS)
    def test_it_is_intersection_over_union(self, first, second):
        found = agreements([record("a", kept=arrays(first)), record("b", kept=arrays(second))])
        for part, names in (("all", SIZES), ("layers.0", STAGE_0)):
            a, b = ({(name, n) for name in names for n in kept[name]} for kept in (first, second))
            expected = len(a & b) / len(a | b) if a | b else 1
            matrix = find(found, part).overlap["0.5"]
            assert matrix[0][1] == matrix[1][0] == pytest.approx(expected, abs=1e-6)
            assert matrix[0][0] == 1

    def test_there_is_one_matrix_per_ratio_and_nothing_where_nothing_was_run(self):
        kept = {name: np.arange(1) for name in SIZES}
        records = [
            record("a", kept=kept),
            record("b", kept=kept),
            record("a", kept=kept, ratio=0.7),
            record("b", ratio=0.7, problem="Out of reach."),
        ]
        overlap = find(agreements(records)).overlap
        assert overlap == {"0.5": ((1, 1), (1, 1)), "0.7": ((1, None), (None, None))}

    def test_budgets_of_the_same_ratio_are_told_apart(self):
        records = [record(name, by=by) for name in "ab" for by in ("params", "macs")]
        assert set(find(agreements(records)).overlap) == {"0.5 of macs", "0.5 of params"}


class TestParts:
    def test_a_model_is_divided_by_kind_and_by_stage(self):
        found = agreements([record("a"), record("b")])
        assert [(one.sort, one.part, one.slices) for one in found] == [
            ("all", "all", 53),
            ("kind", "head", 5),
            ("kind", "mlp", 48),
            ("stage", "layers.0", 20),
            ("stage", "layers.1", 33),
        ]

    def test_stages_are_what_comes_up_to_the_first_number(self):
        names = ["layers.2.blocks.5.attn.head", "blocks.3.attn.qk", "7.mlp", "width", "fc1.mlp"]
        assert stages(names) == {names[0]: "layers.2", names[1]: "blocks.3", names[2]: "7"}

    @pytest.mark.parametrize(("depth", "expected"), [(12, 12), (13, 7), (24, 12), (40, 10)])
    def test_many_blocks_are_joined_with_their_neighbours(self, depth, expected):
        named = stages([f"blocks.{n}.{kind}" for n in range(depth) for kind in ("mlp", "attn.qk")])
        assert len(set(named.values())) == expected
        assert named["blocks.0.mlp"] == named["blocks.0.attn.qk"]

    def test_stages_are_in_the_order_of_their_numbers(self):
        kinds = {f"blocks.{n}.mlp": ("mlp", 8) for n in (10, 2, 1, 0)}
        found = agreements([record(name, kinds=kinds) for name in "ab"])
        stage = [one.part for one in found if one.sort == "stage"]
        assert stage == ["blocks.0", "blocks.1", "blocks.2", "blocks.10"]

    def test_each_model_and_each_choice_of_axes_is_on_its_own(self):
        records = [
            record(name, arch=arch, axes=axes)
            for name in "ab"
            for arch in ("x", "y")
            for axes in (("mlp",), ("mlp", "head"))
        ]
        assert len({(one.arch, one.axes) for one in agreements(records)}) == 4

    def test_one_criterion_alone_has_nobody_to_agree_with(self):
        assert agreements([record("a"), record("b", problem="No.")]) == ()
        assert agreements([]) == ()


class TestKept:
    def test_it_is_the_mean_fraction_over_seeds(self):
        some, more = ({name: np.arange(n) for name in SIZES} for n in (1, 1))
        more = {**more, "layers.0.blocks.0.mlp": np.arange(16)}
        (found,) = kept_fractions(
            [record("a", seed=n, seeded=True, kept=kept) for n, kept in enumerate((some, more))]
        )
        assert found.fractions["layers.0.blocks.0.mlp"] == pytest.approx((1 / 16 + 1) / 2)
        assert found.fractions["layers.1.blocks.0.attn.head"] == 1
        assert found.kinds == {name: kind for name, (kind, _) in KINDS.items()}

    def test_there_is_one_per_criterion_and_budget_whatever_followed(self):
        records = [
            record(name, ratio=ratio, repair=repair)
            for name in "ab"
            for ratio in (0.5, 0.7)
            for repair in ("none", "lstsq")
        ]
        found = kept_fractions([*records, record("c", problem="No.")])
        assert [(one.criterion, one.ratio) for one in found] == [
            ("a", 0.5), ("b", 0.5), ("a", 0.7), ("b", 0.7),
        ]  # fmt: skip


def test_a_model_of_full_size_takes_seconds():
    kinds = {
        f"layers.{stage}.blocks.{block}.{kind}": (kind, size)
        for stage, depth in enumerate((2, 2, 18, 2))
        for block in range(depth)
        for kind, size in (("mlp", 512 * 2**stage), ("head", 4 * 2**stage))
    }
    records = [
        record(f"criterion{n}", seed=seed, seeded=True, kinds=kinds)
        for n in range(30)
        for seed in range(3)
    ]
    began = time.perf_counter()
    agreements(records)
    assert time.perf_counter() - began < 5
