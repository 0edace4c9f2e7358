"""Heads of attention that nobody described: found from the operations, and removed exactly."""

from __future__ import annotations

import copy
import pickle

import oracle
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from prunekit import load, prune
from prunekit.errors import AdapterError

WIDTH, HEADS, TOKENS = 24, 6, 5
X = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


class Fused(nn.Module):
    """As in most of timm: one layer for all, and a reshape to the input's channels."""

    def __init__(self, heads=HEADS, width=WIDTH):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        B, N, C = x.shape
        shape = B, N, 3, self.num_heads, C // self.num_heads
        q, k, v = self.qkv(x).reshape(*shape).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.joined(self.scores(q, k).softmax(-1) @ v, B, N, C))

    def scores(self, q, k):
        return q @ k.transpose(-2, -1)

    def joined(self, x, B, N, C):
        return x.transpose(1, 2).reshape(B, N, C)


class Plain(Fused):
    """Sizes are spelled out where they are used."""

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Cosine(Plain):
    """A scale of its own for every head, a table of positions, and heads that are mixed."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.table = nn.Parameter(torch.zeros(TOKENS * TOKENS, HEADS))
        self.mixed = nn.Linear(HEADS, HEADS)

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.scale
        scores = scores + self.table.view(N, N, -1).permute(2, 0, 1)
        scores = self.mixed(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).reshape(B, N, C))


class Pooled(Plain):
    """All heads share a convolution over tokens, which has weights for a head's dimensions."""

    def __init__(self):
        super().__init__()
        each = WIDTH // HEADS
        self.pool = nn.Conv1d(each, each, 3, padding=1, groups=each)

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        v = self.pool(v.reshape(B * self.num_heads, N, -1).transpose(1, 2)).transpose(1, 2)
        x = F.scaled_dot_product_attention(q, k, v.reshape(B, self.num_heads, N, -1))
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Separate(nn.Module):
    """Layers of their own, convolutions among them; a query attends for several tokens."""

    def __init__(self, shared=1):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = HEADS, HEADS // shared, 4
        self.inner_dim = HEADS * 4
        self.q, self.out = nn.Linear(WIDTH, HEADS * 4), nn.Linear(HEADS * 4, WIDTH)
        self.kv = nn.Conv1d(WIDTH, 2 * self.kv_heads * 4, 1)

    def forward(self, x):
        B, N, _ = x.shape
        q = self.q(x).view(B, N, self.heads, self.head_dim).transpose(1, 2)
        kv = self.kv(x.transpose(1, 2)).view(B, 2, self.kv_heads, self.head_dim, N)
        k, v = kv[:, 0].repeat_interleave(self.heads // self.kv_heads, 1), kv[:, 1]
        v = v.repeat_interleave(self.heads // self.kv_heads, 1).transpose(-2, -1)
        x = (q @ k * self.head_dim**-0.5).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(B, N, self.inner_dim))


class Crossed(Separate):
    """The first token attends to all others, through channels, without a softmax."""

    def forward(self, x):
        B, N, _ = x.shape
        q = self.q(x[:, :1]).view(B, 1, self.heads, self.head_dim).transpose(1, 2)
        k, v = self.kv(x.transpose(1, 2)).view(B, 2, self.kv_heads, self.head_dim, N).unbind(1)
        x = q.relu() @ (k.relu() @ v.transpose(-2, -1))
        return self.out(x.transpose(1, 2).reshape(B, 1, self.inner_dim)).expand(B, N, -1)


class Net(nn.Module):
    """Tokens that attend, and a classifier."""

    def __init__(self, attention):
        super().__init__()
        self.stem, self.attn = nn.Linear(WIDTH, WIDTH), attention
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.norm(x + self.attn(x)).mean(1))


KINDS = {
    "plain": (Plain, HEADS),
    "cosine": (Cosine, HEADS),
    "pooled": (Pooled, HEADS),
    "separate": (Separate, HEADS),
    "two queries a key": (lambda: Separate(shared=2), HEADS // 2),
    "one key for all": (lambda: Separate(shared=HEADS), HEADS),
    "linear": (Crossed, HEADS),
}


def net(attention):
    torch.manual_seed(0)
    return oracle.vary_(Net(attention()))


def agrees(model, small, x):
    with torch.no_grad():
        want, got, whole = oracle.expected(model, small, x), small(x), model(x)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    assert (whole - want).abs().max() > 1e-3 * want.abs().max()  # something has left


@pytest.mark.parametrize("kind", KINDS)
def test_heads_leave_exactly(kind, tmp_path):
    attention, heads = KINDS[kind]
    model = net(attention)

    result = prune(model, "magnitude", 0.2, axes=["head"], example_input=X)

    assert not any(said.startswith("Left alone") for said in result.warnings)
    assert list(result.kinds.values()) == ["head"]
    (kept,) = result.plan.kept.values()
    assert len(kept) < heads
    agrees(model, result.model, X)
    result.save(tmp_path / "saved")
    again = load(tmp_path / "saved", model=model, example_input=X)
    assert torch.equal(again(X), result.model(X))
    result.model.train()(X).sum().backward()


def test_what_no_name_says_is_left_alone_with_a_reason():
    """`Fused` divides its channels by what heads are left, which is right for five, not three."""
    with pytest.raises(AdapterError, match="Nothing of Net can shrink: the model does not run"):
        prune(net(Fused), "random", 0.1, example_input=X)


def test_the_width_may_shrink_beside_heads_that_stay():
    """The reshape to the input's channels has to go for it, too."""
    model = net(Plain)
    result = prune(model, "magnitude", 0.2, axes=["width"], example_input=X)
    assert set(result.kinds.values()) == {"width"}
    agrees(model, result.model, X)


def test_a_module_without_its_heads_is_still_of_its_class_and_can_be_copied():
    small = prune(net(Plain), "magnitude", 0.2, axes=["head"], example_input=X).model
    assert isinstance(small.attn, Plain)
    assert type(small.attn).__name__ == "Plain"
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(other(X), small(X))
        assert other.attn.num_heads == small.attn.num_heads < HEADS
    assert Plain().num_heads == HEADS


class Doubled(Plain):
    """Has a forward pass of its own, in which the channels of the input are of no concern."""

    def forward(self, x):
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return 2 * self.proj(F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))


def test_a_forward_pass_that_overrides_another_is_what_runs():
    model = net(Doubled)
    small = prune(model, "magnitude", 0.2, axes=["head"], example_input=X).model
    agrees(model, small, X)


def test_heads_leave_again_from_what_has_lost_some():
    once = prune(net(Plain), "magnitude", 0.15, axes=["head"], example_input=X).model
    twice = prune(once, "magnitude", 0.15, axes=["head"], example_input=X).model
    assert twice.attn.num_heads < once.attn.num_heads < HEADS
    assert torch.equal(pickle.loads(pickle.dumps(twice))(X), twice(X))
    agrees(once, twice, X)


def test_a_module_is_as_it_was_where_nothing_of_it_leaves():
    model = net(Plain)
    model.head = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 3))
    small = prune(model, "magnitude", 0.05, axes=["mlp"], example_input=X).model
    assert type(small.attn) is Plain


SHALLOW = {
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "cait_xxs24_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "coatnet_0_rw_224": {"img_size": 64},
    "eva02_tiny_patch14_224": {"depth": 2},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 2, 1), "embed_dim": 48},
    "swinv2_cr_tiny_224": {"depths": (1, 1, 2, 1), "embed_dim": 48},
    "swinv2_tiny_window8_256": {"depths": (1, 1, 2, 1), "embed_dim": 48},
    "twins_svt_small": {"depths": (1, 1, 1, 1)},
    "vit_small_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "xcit_nano_12_p8_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
}


def shallow(name):
    """Return a family's model of few blocks, and an image for it."""
    torch.manual_seed(0)
    model = oracle.vary_(timm.create_model(name, num_classes=7, **SHALLOW[name]))
    size = SHALLOW[name].get("img_size", model.pretrained_cfg["input_size"][-1])
    return model, torch.randn(1, 3, size, size)


@pytest.mark.parametrize("name", SHALLOW)
def test_heads_of_timm_s_families_leave_exactly(name):
    model, x = shallow(name)

    result = prune(model, "magnitude", 0.3, adapter="auto", example_input=x)

    assert "head" in result.kinds.values()
    agrees(model, result.model, x)
