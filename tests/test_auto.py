"""What can shrink in a model that nobody has described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.models.vitamin import GeGluMlp
from torch import nn
from torch.nn import functional as F

from prunekit import load, prune
from prunekit.cutting.proof import proven
from prunekit.errors import AdapterError
from prunekit.inputs.subject import Source, find_subject
from prunekit.shared import Shared

IMAGE = (2, 3, 12, 12)


class Net(nn.Module):
    """A stem, something in the middle, and a classifier."""

    def __init__(self, width, middle):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.middle = middle
        self.head = nn.LazyLinear(5)

    def forward(self, x):
        return self.head(self.middle(self.stem(x).relu()).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


class Dense(nn.Module):
    """Concatenates what comes in with what it makes of it."""

    def __init__(self, width, growth):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, growth, 3, padding=1)

    def forward(self, x):
        return torch.cat([x, self.conv(self.norm(x))], 1)


class Shuffle(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def forward(self, x):
        batch, channels, height, width = x.shape
        x = x.view(batch, self.groups, channels // self.groups, height, width)
        return x.transpose(1, 2).reshape(batch, channels, height, width)


class Gate(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, width, inner):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x):
        return x * self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class Glu(nn.Module):
    """One layer makes values and gates."""

    def __init__(self, width, hidden):
        super().__init__()
        self.both, self.out = nn.Conv2d(width, 2 * hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x):
        values, gates = self.both(x).chunk(2, 1)
        return self.out(values * gates.sigmoid())


class Halves(nn.Module):
    """Only the second half goes through a layer."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width // 2, width // 2, 3, padding=1)

    def forward(self, x):
        one, other = x.chunk(2, 1)
        return torch.cat([one, self.conv(other)], 1)


class Scaled(nn.Module):
    """A layer scale, and a position table."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width, 1, 1))
        self.table = nn.Parameter(torch.rand(1, width, 12, 12))

    def forward(self, x):
        return x * self.scale + self.table


class Selective(nn.Module):
    """Branches compete for every channel by a softmax."""

    def __init__(self, width):
        super().__init__()
        self.make, self.choose = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, 2 * width, 1)

    def forward(self, x):
        batch, _, height, width = x.shape
        branches = self.make(x).view(batch, 2, -1, height, width)
        scores = self.choose(x.mean((2, 3), keepdim=True)).view(batch, 2, -1, 1, 1)
        return (branches * scores.softmax(1)).sum(1)


class Tied(Selective):
    """There are as many channels in a branch as there are inputs, and the forward pass says so."""

    def forward(self, x):
        batch, channels, height, width = x.shape
        branches = self.make(x).view(batch, 2, channels, height, width)
        scores = self.choose(x.mean((2, 3), keepdim=True)).view(batch, 2, channels, 1, 1)
        return (branches * scores.softmax(1)).sum(1)


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


# What is in the middle of a stem of 16 channels and the classifier, and the axes there are:
# name to kind and number of slices.
CASES = {
    "plain": (
        lambda: nn.Sequential(conv(16, 24), nn.BatchNorm2d(24), nn.ReLU(), conv(24, 8)),
        {"stem": ("conv", 16), "middle.0": ("conv", 24), "middle.3": ("conv", 8)},
    ),
    "residual": (
        lambda: nn.Sequential(Residual(conv(16, 24), nn.BatchNorm2d(24), nn.ReLU(), conv(24, 16))),
        {"stem": ("width", 16), "middle.0.layers.0": ("conv", 24)},
    ),
    "mlp": (
        lambda: Residual(nn.Conv2d(16, 40, 1), nn.GELU(), nn.Conv2d(40, 16, 1)),
        {"stem": ("width", 16), "middle.layers.0": ("mlp", 40)},
    ),
    "depthwise": (
        lambda: Residual(nn.Conv2d(16, 32, 1), conv(32, 32, groups=32), nn.Conv2d(32, 16, 1)),
        {"stem": ("width", 16), "middle.layers.0": ("conv", 32)},
    ),
    "whole groups": (
        lambda: Residual(nn.Conv2d(16, 32, 1), conv(32, 32, groups=8), nn.Conv2d(32, 16, 1)),
        {"stem": ("width", 16), "middle.layers.0": ("conv", 8)},
    ),
    "within groups": (
        lambda: Residual(nn.Conv2d(16, 32, 1), conv(32, 48, groups=2), nn.Conv2d(48, 16, 1)),
        {
            "stem": ("width", 16),
            "middle.layers.0": ("conv", 16),
            "middle.layers.1": ("conv", 24),
        },
    ),
    "concatenation": (
        lambda: nn.Sequential(Dense(16, 8), Dense(24, 8)),
        {"stem": ("width", 16), "middle.0.conv": ("width", 8), "middle.1.conv": ("width", 8)},
    ),
    "shuffle": (
        lambda: nn.Sequential(nn.Conv2d(16, 32, 1), Shuffle(4), conv(32, 8)),
        {"stem": ("conv", 16), "middle.0": ("conv", 8), "middle.2": ("conv", 8)},
    ),
    "gate": (
        lambda: nn.Sequential(conv(16, 24), Gate(24, 6)),
        {"stem": ("conv", 16), "middle.0": ("conv", 24), "middle.1.reduce": ("mlp", 6)},
    ),
    "activations": (
        lambda: nn.Sequential(
            *(conv(16, 16), nn.Hardswish(True), conv(16, 16), nn.Hardtanh(), conv(16, 16)),
            *(nn.PReLU(16), conv(16, 16), nn.GELU(), conv(16, 16), nn.Softplus(), conv(16, 8)),
        ),
        {"stem": ("conv", 16)}
        | {f"middle.{n}": ("conv", 16) for n in (0, 2, 4, 6, 8)}
        | {"middle.10": ("conv", 8)},
    ),
    "glu": (
        lambda: nn.Sequential(nn.Conv2d(16, 32, 1), nn.GLU(1), conv(16, 8)),
        {"stem": ("conv", 16), "middle.0": ("conv", 16), "middle.2": ("conv", 8)},
    ),
    "gated mlp": (
        lambda: Residual(Glu(16, 20)),
        {"stem": ("width", 16), "middle.layers.0.both": ("mlp", 20)},
    ),
    "halves": (lambda: Halves(16), {"stem": ("width", 8), "middle.conv": ("width", 8)}),
    "scales": (lambda: Scaled(16), {"stem": ("conv", 16)}),
    "selective": (
        lambda: Selective(16),
        {"stem": ("conv", 16), "middle.make": ("mlp", 16)},
    ),
    "group norm": (
        lambda: nn.Sequential(nn.GroupNorm(4, 16), conv(16, 8)),
        {"stem": ("conv", 4), "middle.1": ("conv", 8)},
    ),
    "one group": (
        lambda: nn.Sequential(nn.GroupNorm(1, 16), conv(16, 8)),
        {"stem": ("conv", 16), "middle.1": ("conv", 8)},
    ),
}


def net(name):
    torch.manual_seed(0)
    model = Net(16, CASES[name][0]())
    model(torch.randn(IMAGE))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    return model.eval()


def looked_at(model, example):
    return proven(find_subject(Source(model=model, example_input=example), Shared()))


@pytest.mark.parametrize("name", CASES)
def test_what_goes_together_is_one_axis(name):
    subject = looked_at(net(name), torch.randn(IMAGE))

    specs = subject.adapter.axes(subject.model)

    assert subject.warnings == ()
    assert {s.name: (s.kind, s.ties[0].fold.size) for s in specs} == CASES[name][1]


@pytest.mark.parametrize("ratio", [0.2, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_removing_equals_masking(name, ratio, tmp_path):
    model, x = net(name), torch.randn(IMAGE)
    kinds = sorted({kind for kind, _ in CASES[name][1].values()})

    result = prune(model, "random", ratio, axes=kinds, example_input=x, multiple=1, by="slices")

    assert result.got == pytest.approx(ratio, abs=0.15)
    assert result.parity.holds
    assert result.parity.scale > 1e-3  # the comparison was able to fail
    result.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved", model=model, example_input=x)
    assert torch.equal(loaded(x), result.model(x))
    result.model.train()(x).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters())


class Fixed(nn.Module):
    """Knows a size by heart, so that it does not run when that is another."""

    def __init__(self, width):
        super().__init__()
        self.width, self.conv = width, conv(width, width)

    def forward(self, x):
        return self.conv(x).reshape(-1, self.width, *x.shape[2:])


class Unlike(nn.Module):
    """Counts its channels, so that removing some is not the same as masking them."""

    def forward(self, x):
        return x / x.shape[1]


@pytest.mark.parametrize(
    ("middle", "reason"),
    [(Fixed(16), "does not run without some of it"), (Unlike(), "is not the same as masking it")],
    ids=["fixed", "unlike"],
)
def test_what_cannot_be_proven_is_left_alone_and_said(middle, reason):
    torch.manual_seed(0)
    model = Net(16, nn.Sequential(conv(16, 24), nn.ReLU(), conv(24, 16), middle, conv(16, 8)))
    model(torch.randn(IMAGE))

    result = prune(model, "random", 0.2, example_input=torch.randn(IMAGE), by="slices", multiple=1)

    (said,) = [line for line in result.warnings if line.startswith("Left alone: middle.")]
    assert reason in said
    assert {"stem", "middle.0"} <= set(result.kinds)
    assert len(set(result.kinds)) == len(looked_at(model, torch.randn(IMAGE)).adapter.axes(model))


def test_where_nothing_can_shrink_that_is_said():
    with pytest.raises(
        AdapterError, match=r"Nothing of Linear can shrink: all .* reaches the output"
    ):
        prune(nn.Linear(4, 3), "random", 0.2, example_input=torch.randn(2, 4))


class Sums(nn.Module):
    def forward(self, x):
        return x.cumsum(1)


def test_operations_that_stop_everything_are_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Sums(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(IMAGE))
    with pytest.raises(AdapterError, match=r"nobody can follow \(cumsum\)"):
        looked_at(model, torch.randn(IMAGE))


def test_a_family_s_own_adapter_is_the_better_choice():
    result = prune("vit_micro", "magnitude", 0.3, adapter="auto")

    assert "The adapter 'vit' knows this family" in result.warnings[0]
    assert set(result.kinds.values()) == {"mlp", "head"}


def test_variants_that_a_family_refuses_are_looked_at():
    torch.manual_seed(0)
    variant = {"mlp_layer": GeGluMlp, "depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 32}
    model = VisionTransformer(**variant, num_classes=7)

    result = prune(model, "random", 0.3, example_input=torch.randn(1, 3, 32, 32))

    assert result.recipe["adapter"] == "auto"
    said = result.warnings[0]
    assert "is GeGluMlp; expected Mlp" in said
    assert said.endswith("Until then, the adapter 'auto' is used in its place.")


def test_axes_that_are_tied_in_secret_are_left_alone():
    """As long as both lose the same share, nothing would show."""
    torch.manual_seed(0)
    model = Net(16, Tied(16)).eval()
    model(torch.randn(IMAGE))
    with pytest.raises(AdapterError, match="Nothing of Net can shrink: the model does not run"):
        prune(model, "random", 0.1, example_input=torch.randn(IMAGE))


def test_where_blocks_hold_little_all_kinds_are_pruned():
    wide = looked_at(net("scales"), torch.randn(IMAGE)).adapter
    assert wide.default_kinds == ("mlp", "conv", "head")
    model = Net(64, Residual(nn.Conv2d(64, 2, 1), nn.Conv2d(2, 64, 1)))
    model(torch.randn(IMAGE))
    assert "width" in looked_at(model, torch.randn(IMAGE)).adapter.default_kinds


def test_models_whose_signals_vanish_are_proven_with_weights_that_speak():
    torch.manual_seed(0)
    model = timm.create_model("cspnext_tiny").eval()
    x = torch.randn(1, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        assert torch.allclose(model(x), model(2 * x), atol=1e-8)  # the output is a bias

    parity = prune(model, "random", 0.3, example_input=x).parity

    assert parity.noisy
    assert parity.difference < 1e-4 * parity.scale > 1e-4


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_convnext", "densenet121"])
def test_timms_models_can_still_do_all_they_could(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7)
    x = torch.randn(2, *model.pretrained_cfg["input_size"])

    kinds = ["mlp" if name == "test_convnext" else "conv", "width"]
    small = prune(model, "random", 0.4, axes=kinds, adapter="auto").model

    found = small.forward_intermediates(x, intermediates_only=True)
    channels = [[info["num_chs"] for info in net.feature_info] for net in (small, model)]
    assert [features.shape[1] for features in found] == channels[0] != channels[1]
    features = small.forward_features(x)
    assert small.forward_head(features).shape == (2, 7)
    assert features.shape[1] == small.num_features
    small.reset_classifier(3)
    assert small(x).shape == (2, 3)


def test_the_page_about_it_runs():
    text = (Path(__file__).parents[1] / "docs" / "any_model.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names = {"__name__": "any_model"}
    exec(compile(block, "any_model.md", "exec"), names)
    assert names["result"].parity.holds
    assert names["result"].model[3].groups == 2


def test_groups_are_cut_again_as_they_were_cut(tmp_path):
    prune("resnext26ts", "random", 0.4, weights="random", floor=0.0).save(tmp_path / "once")
    once = load(tmp_path / "once")
    names = [n for n, m in once.named_modules() if getattr(m, "groups", 1) != 1]

    again = prune(str(tmp_path / "once"), "random", 0.2, floor=0.0)

    again.save(tmp_path / "again")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(load(tmp_path / "again")(x), again.model(x))
    assert names
    for name in names:  # fewer groups of as many channels, or as many groups of fewer
        before, after = (model.get_submodule(name) for model in (once, again.model))
        sizes = [(conv.groups, conv.weight.shape[1]) for conv in (before, after)]
        assert any(one == other for one, other in zip(*sizes, strict=True))


class Auxiliary(nn.Module):
    """Has a second head that runs in training only, as GoogLeNet has two."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 1)
        self.head, self.auxiliary = nn.Linear(24, 5), nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.head(self.mix(x).relu().mean((2, 3)))
        return (y, self.auxiliary(x.mean((2, 3)))) if self.training else y


def test_heads_that_run_in_training_only_shrink_with_what_they_read():
    result = prune(Auxiliary(), "random", 0.4, example_input=torch.randn(IMAGE), multiple=1)

    small = result.model
    assert small.auxiliary.in_features == small.stem.out_channels < 16
    assert not any(line.startswith("Not seen") for line in result.warnings)
    sum(out.square().mean() for out in small.train()(torch.randn(IMAGE))).backward()
    assert small.auxiliary.weight.grad is not None


def test_layers_that_never_run_are_said():
    model = net("plain")
    model.auxiliary = nn.Linear(24, 5)

    found = looked_at(model, torch.randn(IMAGE)).warnings

    assert [line for line in found if line.startswith("Not seen: auxiliary.weight, which")]
    assert looked_at(net("plain"), torch.randn(IMAGE)).warnings == ()
