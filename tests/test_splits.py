"""Modules that keep the sizes of the parts that they split channels in."""

from __future__ import annotations

import copy

import oracle
import pytest
import timm
import torch
from torch import nn

from prunekit import load, prune
from prunekit.recovery import recipes


class Parallel(nn.Module):
    """One layer makes what an MLP and a gate read, of unequal sizes."""

    def __init__(self):
        super().__init__()
        self.sizes = [48, 24, 24]
        self.first = nn.Linear(16, sum(self.sizes))
        self.mlp, self.gated, self.last = nn.Linear(48, 16), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x):
        hidden, value, gate = self.first(x).split(self.sizes, dim=-1)
        return self.last(self.mlp(hidden.relu()) + self.gated(value * gate.sigmoid()))


class Steps(nn.Module):
    """Equal parts, each added to what the one before was turned into, as in Res2Net."""

    def __init__(self):
        super().__init__()
        self.width = 16
        self.first = nn.Linear(16, 4 * self.width)
        self.turns = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(3))
        self.last = nn.Linear(4 * self.width, 5)

    def forward(self, x):
        first, *others = torch.split(self.first(x), self.width, -1)
        parts = [first]
        for turn, part in zip(self.turns, others, strict=True):
            parts.append(turn(parts[-1] + part).relu())
        return self.last(torch.cat(parts, -1))


class Halves(nn.Module):
    """Two parts whose sizes are half of what is kept, as in CSPNet."""

    def __init__(self):
        super().__init__()
        self.channels = 64
        self.first = nn.Linear(16, self.channels)
        self.one, self.last = nn.Linear(32, 24), nn.Linear(24 + 32, 5)

    def forward(self, x):
        one, other = self.first(x).relu().split(self.channels // 2, dim=-1)
        return self.last(torch.cat([self.one(one).relu(), other], -1))


class Pairs(nn.Module):
    """Two parts whose one size is named twice."""

    def __init__(self):
        super().__init__()
        self.inner = 32
        self.first, self.last = nn.Linear(16, 64), nn.Linear(32, 5)

    def forward(self, x):
        value, gate = torch.split(self.first(x), [self.inner, self.inner], -1)
        return self.last(value * gate.sigmoid())


class Mixed(nn.Module):
    """Unequal parts of one layer that are joined again: any of them could lose all."""

    def __init__(self):
        super().__init__()
        self.sizes = (40, 8)
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 48)
        self.last = nn.Linear(48, 5)

    def forward(self, x):
        large, small = self.second(self.first(x).relu()).split(self.sizes, dim=-1)
        return self.last(torch.cat([large.relu(), small.sigmoid()], -1))


class Unknown(Parallel):
    """Sizes that nobody keeps."""

    def forward(self, x):
        hidden, value, gate = self.first(x).split([48, 24, 24], dim=-1)
        return self.last(self.mlp(hidden.relu()) + self.gated(value * gate.sigmoid()))


X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def pruned(cls, ratio=0.4):
    torch.manual_seed(0)
    model = oracle.vary_(cls())
    result = prune(model, "random", ratio, example_input=X, multiple=1)
    wanted = oracle.expected(model, result.model, X)
    with torch.no_grad():
        torch.testing.assert_close(result.model(X), wanted, rtol=1e-4, atol=1e-5)
    return model, result


@pytest.mark.parametrize("cls", [Parallel, Steps, Halves, Pairs])
def test_sizes_that_are_kept_are_reset(cls, tmp_path):
    model, result = pruned(cls)
    assert result.parity.holds
    assert result.got == pytest.approx(0.4, abs=0.05)
    assert result.model.first.out_features < model.first.out_features
    assert not any(warning.startswith("Left alone") for warning in result.warnings)
    result.save(tmp_path / "small")
    loaded = load(tmp_path / "small", model=cls(), example_input=X)
    assert torch.equal(loaded(X), result.model(X))
    again = prune(loaded, "random", 0.2, example_input=X, multiple=1)
    assert again.parity.holds
    copied = copy.deepcopy(again.model).train()
    copied(X).square().mean().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())


class Twice(nn.Module):
    """One module, which runs twice, and so is seen to split twice."""

    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(16, 16), Halves(), nn.Linear(16, 5)
        self.block.last = nn.Linear(24 + 32, 16)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.block(x + self.block(x)))


def test_what_splits_twice_is_reset_once():
    _, result = pruned(Twice, 0.3)
    assert not any(warning.startswith("Left alone") for warning in result.warnings)
    block = result.model.block
    assert block.channels == block.first.out_features < 64


def test_unequal_sizes_stay_a_list_and_add_up():
    _, result = pruned(Parallel)
    sizes = result.model.sizes
    assert isinstance(sizes, list)
    assert sum(sizes) == result.model.first.out_features
    assert sizes[1] == sizes[2] == result.model.gated.in_features < 24
    assert sizes[0] == result.model.mlp.in_features < 48


def test_unequal_parts_of_one_axis_are_left_whole():
    _, result = pruned(Mixed, 0.3)
    assert result.model.sizes == (40, 8)
    assert result.model.second.out_features == 48
    assert result.model.first.out_features < 64


def test_sizes_that_nobody_keeps_are_left_whole():
    _, result = pruned(Unknown, 0.2)
    assert result.model.first.out_features == 96


def test_sizes_follow_every_round_of_training():
    torch.manual_seed(0)
    sizes = {"depth": 1, "embed_dim": 64, "num_heads": 8, "img_size": 28, "in_chans": 1}
    model = timm.create_model("vit_huge_patch14_xp_224", num_classes=10, **sizes)
    result = prune(
        model,
        "magnitude",
        0.5,
        steps=3,
        finetune=recipes.find("quick").with_(epochs=1, batch_size=512),
        data="fashion-mnist-mini",
        example_input=torch.randn(1, 1, 28, 28),
        multiple=1,
    )
    assert len(result.rounds) == 3
    assert all(done.parity.holds for done in result.rounds)
    block = result.model.blocks[0]
    assert sum(block.in_split) == block.in_proj.out_features
    assert block.num_heads * block.head_dim == block.attn_out_proj.in_features < 64


def test_parallel_blocks_of_a_vision_transformer():
    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 28}
    model = oracle.vary_(timm.create_model("vit_huge_patch14_xp_224", num_classes=5, **sizes))
    x = torch.randn(1, 3, 28, 28)
    result = prune(model, "magnitude", 0.3, example_input=x, multiple=1)
    assert set(result.kinds.values()) == {"mlp", "head"}
    with torch.no_grad():
        wanted = oracle.expected(model, result.model, x)
        torch.testing.assert_close(result.model(x), wanted, rtol=1e-4, atol=1e-5)
