"""The example that sets token merging beside pruning: merging is what its paper says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from token_merging import MODEL, merged, merging

from prunekit.inputs.subject import Source, find_subject
from prunekit.shared import Shared


def test_without_merging_the_model_is_the_same():
    subject = find_subject(Source(model=MODEL), Shared())
    with torch.no_grad():
        torch.testing.assert_close(
            merging(MODEL, 0)(subject.example), subject.model(subject.example)
        )


@pytest.mark.parametrize("count", [1, 3, 4])
def test_tokens_are_merged_as_a_loop_would(count):
    """The paper's algorithm, pair by pair: the most similar first, class token kept."""
    generator = torch.Generator().manual_seed(0)
    x, keys = (torch.randn(2, 9, 5, generator=generator) for _ in range(2))
    size = 1 + torch.rand(2, 9, 1, generator=generator)
    found, sizes = merged(x, size, keys, count)
    for image in range(2):
        ones, others = list(range(0, 9, 2)), list(range(1, 9, 2))
        k = F.normalize(keys[image], dim=-1)
        partner = {i: max(others, key=lambda j, i=i: float(k[i] @ k[j])) for i in ones[1:]}
        order = sorted(partner, key=lambda i: float(k[i] @ k[partner[i]]), reverse=True)
        into = {j: [j] for j in others}
        for i in order[:count]:
            into[partner[i]].append(i)
        stay = [[i] for i in ones if i not in order[:count]]
        for token, members in enumerate([*stay, *into.values()]):
            weight = size[image, members]
            mean = (x[image, members] * weight).sum(0) / weight.sum()
            torch.testing.assert_close(found[image, token], mean)
            torch.testing.assert_close(sizes[image, token], weight.sum(0))


def test_sizes_start_anew_with_every_batch():
    faster, x = merging(MODEL, 3), find_subject(Source(model=MODEL), Shared()).example
    with torch.no_grad():
        first = faster(x)
        faster(x[:1].flip(-1))
        torch.testing.assert_close(faster(x), first)
