"""Dimensions of heads that nobody described: every head loses others, and equally many."""

from __future__ import annotations

import copy
import pickle

import oracle
import pytest
import timm
import torch
from test_heads import HEADS, WIDTH, Cosine, Plain, Pooled, Separate, X, net, shallow

from prunekit import load, prune
from prunekit.errors import AdapterError

KINDS = {
    "plain": Plain,
    "cosine": Cosine,
    "separate": Separate,
    "two queries a key": lambda: Separate(shared=2),
}


def without(large, small):
    """Return the large model with zeros in place of the outputs that the small one lacks.

    A zero in a query or a key adds nothing to their product. No code is shared with prunekit.
    """
    model = copy.deepcopy(large)
    layers = dict(small.named_modules())
    lacking = 0
    for name, layer in model.named_modules():
        if not isinstance(layer, oracle.READERS):
            continue
        if layer.weight.shape[0] == layers[name].weight.shape[0]:
            continue
        assert layer.bias is not None, "or what is added elsewhere would have to be found, too"
        gone = torch.ones(len(layer.weight), dtype=torch.bool)
        rows = (layer.weight.transpose(0, 1) for layer in (layer, layers[name]))
        gone[oracle.found(*rows)] = False
        with torch.no_grad():
            layer.weight[gone] = 0
            layer.bias[gone] = 0
        lacking += int(gone.sum())
    assert lacking
    return model


def pruned(model, ratio=0.15, **options):
    return prune(model, "magnitude", ratio, axes=["head_dim"], example_input=X, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_dimensions_of_heads_leave_exactly(kind, tmp_path):
    model = net(KINDS[kind])

    result = pruned(model)

    assert set(result.kinds) == {"attn.qk", "attn.v"}
    with torch.no_grad():
        want, got, whole = without(model, result.model)(X), result.model(X), model(X)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    assert (whole - want).abs().max() > 1e-3 * want.abs().max()
    result.save(tmp_path / "saved")
    again = load(tmp_path / "saved", model=model, example_input=X)
    assert torch.equal(again(X), result.model(X))
    assert torch.equal(pickle.loads(pickle.dumps(result.model))(X), result.model(X))
    result.model.train()(X).sum().backward()


def test_each_head_keeps_as_many_and_others():
    result = pruned(net(Plain), 0.25)
    each = WIDTH // HEADS
    left = [
        {position % each for position in result.plan.kept["attn.v"] if position // each == head}
        for head in range(HEADS)
    ]
    assert len({len(kept) for kept in left}) == 1
    assert len({frozenset(kept) for kept in left}) > 1
    assert len(result.plan.kept["attn.qk"]) == len(result.plan.kept["attn.v"])


def test_heads_and_their_dimensions_leave_together_and_again():
    model = net(Plain)
    once = prune(model, "magnitude", 0.3, axes=["head", "head_dim"], example_input=X)
    assert set(once.kinds.values()) == {"head", "head_dim"}
    with torch.no_grad():
        assert torch.allclose(once.model(X), without(model, once.model)(X), atol=1e-5)
    twice = prune(once.model, "magnitude", 0.3, axes=["head_dim"], example_input=X)
    with torch.no_grad():
        want = without(once.model, twice.model)(X)
    assert torch.allclose(twice.model(X), want, atol=1e-5)


def test_they_are_not_offered_unless_asked_for():
    assert "head_dim" not in prune(net(Plain), "random", 0.1, example_input=X).kinds.values()


def test_dimensions_that_all_heads_share_stay():
    """A convolution over the dimensions of a head has one weight for each of them."""
    with pytest.raises(AdapterError, match="no axis of kind 'head_dim'"):
        pruned(net(Pooled))


def test_they_are_what_the_adapter_of_the_family_says():
    """`auto` knows nothing of vit, whose adapter was written by hand."""
    torch.manual_seed(0)
    model = oracle.vary_(timm.create_model("test_vit"))
    x = torch.randn(1, 3, 160, 160)
    options = {"axes": ["mlp", "head", "head_dim"], "example_input": x, "multiple": 1}
    mine = prune(model, "magnitude", 0.3, adapter="auto", **options)
    theirs = prune(model, "magnitude", 0.3, adapter="vit", **options)
    assert mine.after.params == theirs.after.params
    kept = {name: count for name, count in mine.plan.kept.items() if "attn" in name}
    assert kept == {name: theirs.plan.kept[name] for name in kept}
    assert len(kept) == len([name for name in theirs.plan.kept if "attn" in name])
    assert torch.allclose(mine.model(x), theirs.model(x), atol=1e-4)


FAMILIES = (
    "cait_xxs24_224",
    "pvt_v2_b0",
    "coatnet_0_rw_224",
    "swinv2_cr_tiny_224",
    "twins_svt_small",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_those_of_timm_s_families_leave_exactly(name):
    model, x = shallow(name)

    result = prune(model, "magnitude", 0.03, axes=["head_dim"], example_input=x)

    with torch.no_grad():
        want, got = without(model, result.model)(x), result.model(x)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
