"""Ranking: the same as sorting everything, without doing so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_weights import matrices, planned

from prunekit.weights.masks import shares
from prunekit.weights.ranking import Ranking

LARGEST, SMALLEST = np.finfo(np.float32).max, np.float32(1e-45)  # the latter is subnormal
NEIGHBOURS = [1.0, np.nextafter(np.float32(1), np.float32(2)), 1.0 + 2**-7, 2.0 - 2**-23, 2.0]
FEW = [0.0, *NEIGHBOURS, LARGEST, SMALLEST]  # so that many are equal, and digits change
VALUES = st.one_of(
    st.sampled_from([sign * float(value) for value in FEW for sign in (1, -1)]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
PARTS = st.lists(st.lists(VALUES, max_size=12).map(np.float32), min_size=1, max_size=5)


def lowest(parts, count):
    """Sort everything, stably, and count."""
    together = np.concatenate(parts)
    order = together.argsort(kind="stable")[:count]
    homes = np.repeat(range(len(parts)), [part.size for part in parts])[order]
    return together[order[-1]], np.bincount(homes, minlength=len(parts)).tolist(), order


@given(PARTS)
def test_it_is_what_sorting_finds_at_every_count(parts):
    ranking = Ranking(parts)
    assert ranking.lowest(0) == (-np.inf, [0] * len(parts))
    for count in range(1, sum(part.size for part in parts) + 1):
        assert ranking.lowest(count) == lowest(parts, count)[:2]


@given(
    PARTS.filter(lambda parts: all(map(len, parts)) and sum(map(len, parts)) > 1), st.floats(0, 1)
)
@pytest.mark.parametrize("scope", ["axis", "kind", "model"])
def test_masks_are_what_sorting_each_pool_makes_of_them(scope, parts, fraction):
    axes = matrices(*[(1, part.size) for part in parts], roles="ab")
    pools = {}
    for n, axis in enumerate(axes):
        pools.setdefault({"axis": n, "kind": axis.kind, "model": 0}[scope], []).append(n)
    sizes = [sum(parts[n].size for n in own) for own in pools.values()]
    total = min(max(1, round(fraction * sum(sizes))), sum(sizes) - 1)
    plan = planned(axes, list(map(torch.from_numpy, parts)), total / sum(sizes), scope)
    for own, count in zip(pools.values(), shares(total, sizes), strict=True):
        kept = np.concatenate([plan.kept[f"w{n}"].flatten() for n in own])
        expected = np.ones(kept.size, dtype=bool)
        if count:
            expected[lowest([parts[n] for n in own], count)[2]] = False
        np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("spread", [1.0, 1e-4, 0.0])
def test_many_values_are_ranked_like_few(spread):
    random = np.random.default_rng(0)
    parts = [np.float32(1 + spread * random.normal(size=size)) for size in (70_000, 3, 50_000)]
    ranking = Ranking(parts)
    for count in (1, 40_000, 70_001, 119_999, 120_003):
        assert ranking.lowest(count) == lowest(parts, count)[:2]
