"""Removing equals masking, and a smaller model is a model like any other."""

from __future__ import annotations

import pytest
import torch
from conftest import (
    ATTENTIVE,
    BUILDERS,
    CLASSES,
    CUDA,
    FAMILIES,
    TOYS,
    _vit,
    adapter_of,
    axes_of,
    keep_all,
    kinds_of,
    of_kind,
    random_plan,
    toy,
    traced,
)
from torch import nn

from prunekit import prune
from prunekit.adapters.base import Adapter
from prunekit.adapters.finding import adapter_for
from prunekit.axis import AxisSpec, Fold, Tie
from prunekit.cutting.shrink import shrink_, shrunk
from prunekit.cutting.silence import mask_
from prunekit.errors import AdapterError
from prunekit.tracing.copies import copy_with
from prunekit.tracing.graph import trace

CASES = [(name, kind) for name in TOYS for kind in [*kinds_of(name), "all"]]
WIDE = [name for name in FAMILIES if "head_dim" in kinds_of(name)]


def masked_copy(model, axes, plan):
    masked = copy_with(model, lambda _, tensor: tensor.clone())
    mask_(masked, axes, plan)
    return masked


@torch.no_grad()
def assert_removing_equals_masking(model, images, axes, plan):
    """Compare the small model with the masked one, and make sure that this could fail."""
    dense, expected = model(images), masked_copy(model, axes, plan)(images)
    assert expected.abs().mean() > 0.05
    assert (dense - expected).abs().max() > 0.05 * dense.abs().max()

    small = shrunk(model, axes, plan, adapter_for(model))

    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(small(images), expected, rtol=1e-4, atol=1e-5)
    return small


def small_toy(name, kind="all", ratio=0.5):
    model, images, axes = traced(name)
    axes = of_kind(axes, kind)
    return shrunk(model, axes, random_plan(axes, ratio), adapter_of(name)), images


# --- removing equals masking -------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.3, 0.6])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_removing_equals_masking(name, kind, ratio):
    model, images, axes = traced(name)
    axes = of_kind(axes, kind)
    assert_removing_equals_masking(model, images, axes, random_plan(axes, ratio))


@pytest.mark.cuda
@pytest.mark.parametrize("name", TOYS)
def test_removing_equals_masking_on_cuda(name):
    model, images = toy(name)
    model, images = model.to(CUDA), images.to(CUDA)
    axes = axes_of(model, images)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        assert_removing_equals_masking(model, images, axes, random_plan(axes, 0.5))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", WIDE)
def test_head_dimensions_go_exactly_with_either_attention(name, fused):
    model, images = toy(name)
    attentions = [m for m in model.modules() if hasattr(m, "fused_attn")]
    assert {m.fused_attn for m in attentions} == {fused}
    axes = axes_of(model, images, "head_dim")
    small = assert_removing_equals_masking(model, images, axes, random_plan(axes, 0.5))
    assert {m.fused_attn for m in small.modules() if hasattr(m, "fused_attn")} == {fused}


@pytest.mark.parametrize("name", TOYS)
def test_a_pruned_model_can_be_pruned_again(name):
    model, images, axes = traced(name)
    once = assert_removing_equals_masking(model, images, axes, random_plan(axes, 0.3))
    again = axes_of(once, images)
    assert [axis.name for axis in again] == [axis.name for axis in axes]
    assert_removing_equals_masking(once, images, again, random_plan(again, 0.3, seed=1))


@pytest.mark.parametrize("name", TOYS)
def test_keeping_everything_changes_no_bit(name):
    model, images, axes = traced(name)
    small = shrunk(model, axes, keep_all(axes), adapter_of(name))
    assert torch.equal(small(images), model(images))


@pytest.mark.parametrize("name", TOYS)
def test_shrinking_in_place_and_copying_agree_to_the_bit(name):
    model, images, axes = traced(name)
    plan = random_plan(axes, 0.5)
    copied = shrunk(model, axes, plan, adapter_of(name))
    own, _ = toy(name)
    shrink_(own, axes, plan, adapter_of(name))
    assert own.state_dict().keys() == copied.state_dict().keys()
    for key, value in copied.state_dict().items():
        assert torch.equal(own.state_dict()[key], value), key
    assert torch.equal(own(images), copied(images))


@pytest.mark.parametrize("family", FAMILIES)
def test_copying_leaves_the_large_model_untouched(family):
    model, images = toy(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    output = model(images)
    axes = axes_of(model, images)
    small = shrunk(model, axes, random_plan(axes, 0.5), adapter_for(model))
    for parameter in small.parameters():
        parameter.data.zero_()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(model(images), output)


@pytest.mark.parametrize("in_place", [True, False])
def test_dtype_and_requires_grad_of_every_parameter_stay(in_place):
    model, images = toy("swin")
    axes = axes_of(model, images)
    model.double()
    frozen = {name for number, (name, _) in enumerate(model.named_parameters()) if number % 2}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    plan = random_plan(axes, 0.5)
    if in_place:
        shrink_(model, axes, plan, adapter_for(model))
    else:
        model = shrunk(model, axes, plan, adapter_for(model))
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert all(p.is_contiguous() and p.is_leaf for p in model.parameters())


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] != "block"])
def test_every_member_shrinks_to_what_its_axes_leave(name, kind):
    model, _, axes = traced(name)
    axes = of_kind(axes, kind)
    plan = random_plan(axes, 0.5)
    small = dict(shrunk(model, axes, plan, adapter_of(name)).named_parameters())
    gone = {}
    for axis in axes:
        removed = sorted(set(range(axis.size)) - set(plan.kept[axis.name]))
        for member in axis.members:
            there = gone.setdefault((member.name, member.dim), set())
            there |= set(member.index[removed].flatten().tolist())
    for parameter, tensor in model.named_parameters():
        expected = [n - len(gone.get((parameter, d), ())) for d, n in enumerate(tensor.shape)]
        assert list(small[parameter].shape) == expected


# --- what the graph cannot see -----------------------------------------------------------


def test_swin_s_bias_table_keeps_the_columns_of_the_kept_heads():
    model, _, axes = traced("swin")
    heads = of_kind(axes, "head")
    plan = random_plan(heads, 0.5)
    small = shrunk(model, heads, plan, adapter_of("swin"))
    for axis in heads:
        attention = axis.name.removesuffix(".head")
        table = model.get_submodule(attention).relative_position_bias_table
        left = small.get_submodule(attention).relative_position_bias_table
        assert left.shape[1] < table.shape[1]
        assert torch.equal(left, table[:, list(plan.kept[axis.name])])


def test_swin_s_patch_merging_loses_all_four_homes_of_a_channel():
    model, _, axes = traced("swin")
    (width,) = [axis for axis in axes if axis.name == "layers.0.width"]
    plan = random_plan([width], 0.5)
    merging = model.layers[1].downsample
    small = shrunk(model, [width], plan, adapter_of("swin")).layers[1].downsample
    homes = [home * width.size + i for home in range(4) for i in plan.kept[width.name]]
    assert torch.equal(small.reduction.weight, merging.reduction.weight[:, homes])
    assert torch.equal(small.norm.weight, merging.norm.weight[homes])
    assert torch.equal(small.norm.bias, merging.norm.bias[homes])


def test_query_and_key_norms_are_not_cut_with_the_heads():
    positions = [axis for axis in traced("vit_qk_norm")[2] if axis.spec.branch is None]
    for axis in positions:
        assert not [name for name in axis.norms if "q_norm" in name or "k_norm" in name]
        assert not [m for m in axis.members if "q_norm" in m.name or "k_norm" in m.name]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_toy_has_every_kind_its_adapter_declares(family):
    assert set(kinds_of(family)) == set(adapter_of(family).kinds)


@pytest.mark.parametrize("name", TOYS)
def test_no_two_slices_of_an_axis_share_a_position(name):
    for axis in traced(name)[2]:
        for member in axis.members:
            assert len(member.index.unique()) == member.index.numel()
            assert len(member.index) == axis.size


def test_a_vit_that_pools_by_attention_is_pruned_but_for_its_width(monkeypatch):
    monkeypatch.setitem(BUILDERS, "vit", lambda: _vit(global_pool="map", class_token=False))
    model, images = toy("vit")
    axes = axes_of(model, images)
    assert {axis.kind for axis in axes} == {"mlp", "head", "head_dim", "block"}
    assert_removing_equals_masking(model, images, axes, random_plan(axes, 0.5))
    result = prune(model, "magnitude", 0.3, example_input=images)
    assert result.before.macs > result.after.macs


# --- life after pruning ------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_a_pruned_model_trains(name):
    small, images = small_toy(name)
    small.train()
    output = small(images)
    outputs = output if isinstance(output, tuple) else (output,)  # a distilled DeiT has two
    sum(out.square().sum() for out in outputs).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


@pytest.mark.parametrize("name", TOYS)
def test_a_pruned_model_s_parts_make_up_the_whole(name):
    small, images = small_toy(name)
    features = small.forward_features(images)
    torch.testing.assert_close(small.forward_head(features), small(images))


@pytest.mark.parametrize("name", TOYS)
def test_feature_info_tells_the_channels_of_the_intermediates(name):
    small, images = small_toy(name)
    intermediates = small.forward_intermediates(images, intermediates_only=True)
    told = [info["num_chs"] for info in small.feature_info]
    assert [feature.shape[1] for feature in intermediates] == told
    assert told != [info["num_chs"] for info in traced(name)[0].feature_info]


@pytest.mark.parametrize("name", [name for name in TOYS if name.startswith("vit")])
def test_a_pruned_vit_gives_intermediate_layers(name):
    small, images = small_toy(name)
    (last,) = small.get_intermediate_layers(images, n=1)
    assert last.shape == (2, 16, small.embed_dim)


@pytest.mark.parametrize("name", TOYS)
def test_a_pruned_model_s_classifier_can_be_reset(name):
    small, images = small_toy(name)
    assert small(images).shape == (2, CLASSES)
    small.reset_classifier(7)
    assert small(images).shape == (2, 7)


@pytest.mark.parametrize("name", TOYS)
def test_layers_tell_the_shapes_they_have(name):
    small, _ = small_toy(name)
    for layer in small.modules():
        if isinstance(layer, nn.Linear):
            assert (layer.out_features, layer.in_features) == layer.weight.shape
        elif isinstance(layer, nn.Conv2d):
            assert layer.out_channels == layer.weight.shape[0]
            assert layer.in_channels == layer.weight.shape[1] * layer.groups
        elif isinstance(layer, nn.LayerNorm):
            assert layer.normalized_shape == layer.weight.shape


@pytest.mark.parametrize("kind", ["head", "head_dim", "width", "all"])
@pytest.mark.parametrize("name", ATTENTIVE)
def test_attention_tells_the_sizes_it_has(name, kind):
    if kind not in [*kinds_of(name), "all"]:
        pytest.skip("query and key norms forbid head dimensions")
    small, _ = small_toy(name, kind)
    before = dict(traced(name)[0].named_modules())
    for path, attention in small.named_modules():
        if not path.endswith(".attn"):
            continue
        inner = attention.proj.in_features
        dim = inner // attention.num_heads
        assert attention.num_heads * dim == inner == attention.qkv.out_features // 3
        assert (attention.num_heads < before[path].num_heads) == (kind in ("head", "all"))
        assert attention.scale == pytest.approx(dim**-0.5, rel=1e-12)
        if hasattr(attention, "head_dim"):
            assert (attention.head_dim, attention.attn_dim) == (dim, inner)
        if hasattr(attention, "relative_position_bias_table"):
            assert attention.relative_position_bias_table.shape[1] == attention.num_heads
            assert attention.dim == attention.qkv.in_features


@pytest.mark.parametrize("name", ["swin", "swin_no_qkv_bias"])
def test_swin_tells_the_widths_it_has(name):
    small, _ = small_toy(name)
    widths = [stage.blocks[0].norm1.weight.numel() for stage in small.layers]
    merging = small.layers[1].downsample
    assert [stage.blocks[1].dim for stage in small.layers] == widths
    assert small.layers[0].dim == small.embed_dim == small.patch_embed.embed_dim == widths[0]
    assert small.layers[1].dim == merging.dim == widths[0]
    assert merging.out_dim == merging.reduction.out_features == widths[1]
    assert small.num_features == small.head_hidden_size == small.head.num_features == widths[1]
    assert small.head.in_features == small.head.fc.in_features == widths[1]


@pytest.mark.parametrize("name", [name for name in TOYS if name.startswith("vit")])
def test_vit_tells_the_width_it_has(name):
    small, _ = small_toy(name)
    width = small.head.in_features
    assert width < 32
    assert small.num_features == small.embed_dim == small.head_hidden_size == width
    assert small.patch_embed.embed_dim == small.pos_embed.shape[2] == width


@pytest.mark.parametrize("name", [name for name in TOYS if name.startswith("convnext")])
def test_convnext_tells_the_widths_it_has(name):
    small, _ = small_toy(name)
    width = small.stages[3].blocks[0].conv_dw.out_channels
    assert small.num_features == small.head.in_features == width < 24
    hidden = small.head.fc.in_features
    assert small.head_hidden_size == small.head.num_features == hidden
    assert (hidden == 20) == (name == "convnext_head")  # the classifier's own width stays


# --- what is refused -----------------------------------------------------------------------


class Plain(Adapter):
    """An adapter that declares whatever it is given."""

    name = "plain"
    kinds = default_kinds = ("width",)

    def __init__(self, *specs):
        self.specs = list(specs)

    def matches(self, model):
        return True

    def axes(self, model):
        return self.specs


def trace_plain(model, spec, example=None):
    return trace(model, [spec], Plain(), torch.randn(1, 4) if example is None else example)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def test_a_plain_axis_couples_both_layers():
    (axis,) = trace_plain(mlp(), AxisSpec("hidden", "width", "0"))
    dims = {(member.name, member.dim) for member in axis.members}
    assert dims == {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            AxisSpec("a", "width", "9"),
            "Axis 'a' is defined by layer '9', which the model does not have",
        ),
        (AxisSpec("a", "width", "1"), "Axis 'a' is defined by layer '1', which is ReLU"),
        (AxisSpec("a", "width", "2"), "Axis 'a' reaches the model's output"),
        (AxisSpec("a", "width", "0", fold=Fold((5,))), "'a' folds 5 channels, but layer '0' has 6"),
        (AxisSpec("a", "width", "0", groups=4), "'a' has 6 slices in 4 groups"),
        (
            AxisSpec("a", "width", "0", ties=(Tie("2.weight", 1, Fold((3,))),)),
            r"'a' couples dimensions of \[3, 6\] slices",
        ),
        (
            AxisSpec("a", "width", "0", ties=(Tie("2.weight", 0, Fold((6,))),)),
            r"'a' cuts dimension 0 of '2.weight' at 5, but its shape is \(3, 6\)",
        ),
        (
            AxisSpec("a", "width", "0", ties=(Tie("lost", 0, Fold((6,))),)),
            "'a' cuts dimension 0 of 'lost' at 5, but its shape is None",
        ),
    ],
)
def test_an_axis_that_does_not_fit_the_model_is_refused(spec, message):
    with pytest.raises(AdapterError, match=message):
        trace_plain(mlp(), spec)


class Half(nn.Module):
    """Feeds only one half of a layer to the next; a third layer stands by."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave, self.spare = nn.Linear(4, 6), nn.Linear(3, 2), nn.Linear(4, 4)

    def forward(self, x):
        left, right = self.enter(x).chunk(2, dim=1)
        return self.leave(left) + right.sum()


def test_an_axis_that_the_graph_must_not_follow_anywhere_is_refused(monkeypatch):
    monkeypatch.setattr(Plain, "unfollowed", lambda self, model: list(model.state_dict()))
    with pytest.raises(AdapterError, match=r"'a' reaches only parameters .* unfollowed\(\)"):
        trace_plain(mlp(), AxisSpec("a", "width", "0"))


def test_slices_with_unequal_shares_are_refused():
    pairs = AxisSpec("a", "width", "enter", fold=Fold((3, 2)))  # the second pair is torn
    with pytest.raises(AdapterError, match="'a' gives its slices unequal shares of a dimension"):
        trace_plain(Half(), pairs)


def test_a_layer_outside_the_forward_pass_is_refused():
    with pytest.raises(AdapterError, match="'spare', which took no part"):
        trace_plain(Half(), AxisSpec("a", "width", "spare"))


@pytest.mark.parametrize("name", ["vit", "vit_registers"])
def test_the_width_of_a_model_without_a_classifier_is_refused(name):
    model, images = toy(name)
    model.reset_classifier(0)
    with pytest.raises(AdapterError, match="'width' reaches the model's output"):
        axes_of(model, images, "width")


def test_grouped_convolutions_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1))
    with pytest.raises(AdapterError, match="reaches '1', a convolution in 2 groups"):
        trace_plain(model, AxisSpec("a", "width", "0"), torch.randn(1, 3, 4, 4))


def test_an_axis_without_a_voter_is_refused():
    class Mute(Plain):
        def role(self, parameter):
            return "aux"

    with pytest.raises(AdapterError, match="'a' has no weight matrix with a say"):
        trace(mlp(), [AxisSpec("a", "width", "0")], Mute(), torch.randn(1, 4))
