"""Walking along dependencies with tensors finds what torch-pruning finds with lists."""

from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from conftest import TOYS, axes_of, toy, traced
from torch import nn

from prunekit.errors import AdapterError
from prunekit.tracing.coupling import MAPPINGS, Positions, coupled
from prunekit.tracing.graph import _Graph


def merged(positions):
    return positions.merged(Positions(*torch.empty(2, 0, dtype=torch.int64)))


def assert_walks_agree(graph, layer, cut, channels):
    theirs = graph.get_pruning_group(layer, cut, list(range(channels)))
    ours = coupled(graph.module2node[layer], cut, channels)
    assert len(ours) == len(theirs)
    for found, (step, _) in zip(ours, theirs, strict=True):
        assert (found.target, found.handler) == (step.target, step.handler)
    for found, item in zip(ours, theirs, strict=True):
        expected = Positions(torch.tensor(item.idxs), torch.tensor(item.root_idxs))
        assert merged(found.positions).same(merged(expected)), item.dep


@pytest.mark.parametrize("name", TOYS)
def test_both_walks_find_the_same_positions_of_the_same_dimensions(name):
    model, images = toy(name)
    graph = _Graph(model, images)
    for axis in traced(name)[2]:
        if axis.spec.layer is None:
            continue
        layer = graph._modules[axis.spec.layer]
        pruner = graph._graph.get_pruner_of_module(layer)
        inward = axis.spec.side == "in"
        cut = pruner.prune_in_channels if inward else pruner.prune_out_channels
        assert_walks_agree(graph._graph, layer, cut, layer.weight.shape[int(inward)])


class Reshaping(nn.Module):
    """Splits, joins, slices and flattens channels."""

    def __init__(self):
        super().__init__()
        self.enter, self.low, self.high = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 2, 1)
        self.join = nn.Conv2d(8, 8, 1)
        self.leave, self.last = nn.Linear(8 * 4, 6), nn.Linear(3, 2)

    def forward(self, x):
        low, high = self.enter(x).split(4, dim=1)
        x = self.join(torch.cat([self.low(low), self.high(high)], dim=1))
        return self.last(self.leave(x.flatten(1))[:, :3])


@torch.enable_grad()
def test_both_walks_agree_where_channels_are_split_joined_sliced_and_flattened():
    graph = tp.DependencyGraph().build_dependency(Reshaping(), torch.randn(1, 3, 2, 2))
    kinds = {
        type(mapping).__name__
        for node in graph.module2node.values()
        for step in node.dependencies
        for mapping in step.index_mapping
    }
    assert kinds >= {*MAPPINGS, "_FlattenIndexMapping"}
    for layer in graph.model.children():
        pruner = graph.get_pruner_of_module(layer)
        for dim, cut in enumerate([pruner.prune_out_channels, pruner.prune_in_channels]):
            assert_walks_agree(graph, layer, cut, layer.weight.shape[dim])


def test_of_positions_found_twice_the_first_counts():
    first = Positions(torch.tensor([3, 1]), torch.tensor([0, 1]))
    joined = first.merged(Positions(torch.tensor([1, 2]), torch.tensor([7, 8])))
    assert dict(zip(joined.here.tolist(), joined.root.tolist(), strict=True)) == {1: 1, 2: 8, 3: 0}


def test_a_mapping_that_fails_is_one_sentence(monkeypatch):
    def fail(*_):
        raise TypeError("no such thing")

    monkeypatch.setattr("prunekit.tracing.graph.coupled", fail)
    model, images = toy("vit")
    with pytest.raises(AdapterError, match=r"'width' cannot be followed from layer 'patch_embed.p"):
        axes_of(model, images, "width")
