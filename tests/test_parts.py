"""Pruning a part of a model, with parity on the whole."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from prunekit import load, prune
from prunekit.errors import AdapterError, ParityError, RequestError

IMAGES = torch.randn(2, 3, 64, 64)


class Classifier(nn.Module):
    """A backbone of timm, and a head of one's own."""

    def __init__(self, backbone):
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 3, 1))
        self.inner = nn.ModuleDict({"backbone": backbone})
        self.head = nn.Sequential(
            nn.Linear(backbone.num_features, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, x):
        return self.head(self.inner["backbone"](self.neck(x)))


def swin(**options):
    torch.manual_seed(0)
    sizes = {"depths": (1, 1, 2, 1), "embed_dim": 32, "img_size": 64, "window_size": 2}
    return timm.create_model("swin_tiny_patch4_window7_224", **sizes, **options)


def residual(**options):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", **options)


BACKBONES = {"swin": swin, "auto": residual}


def whole(name="swin"):
    return Classifier(BACKBONES[name](num_classes=0)).eval()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("by", ["params", "macs", "slices"])
def test_only_the_part_shrinks_and_the_ratio_is_of_the_part(name, by):
    model = whole(name)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = prune(model, "magnitude", 0.3, at="inner.backbone", example_input=IMAGES, by=by)
    assert result.recipe["adapter"] == name
    assert result.got == pytest.approx(0.3, abs=0.04)
    assert result.parity.holds
    assert all(axis.startswith("inner.backbone.") for axis in result.plan.kept)
    sizes = [sum(p.numel() for p in m.inner.parameters()) for m in (model, result.model)]
    assert [side.params for side in result.part] == sizes
    assert result.before.params - result.after.params == sizes[0] - sizes[1] > 0
    for key, value in result.model.state_dict().items():
        if not key.startswith("inner."):
            assert torch.equal(value, before[key])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_pruned_part_is_saved_loaded_and_trained(name, tmp_path):
    model = whole(name)
    result = prune(
        model, "magnitude", 0.4, at="inner.backbone", example_input=IMAGES, steps=2, timed=True
    )
    result.save(tmp_path / "small")
    small = load(tmp_path / "small", model=whole(name), example_input=IMAGES)
    assert torch.equal(small(IMAGES), result.model(IMAGES))
    small.train()(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("criterion", ["wanda", "taylor"])
def test_criteria_and_repairs_see_what_the_part_sees_in_the_whole(criterion):
    result = prune(
        whole("auto"),
        criterion,
        0.3,
        repair="lstsq",
        at="inner.backbone",
        example_input=IMAGES,
        data="fashion-mnist-mini",
        calibration=32,
    )
    assert result.parity.holds
    (done,) = result.rounds
    assert done.repaired
    assert all(layer.startswith("inner.backbone.") for layer in done.repaired)


def test_a_part_in_a_part_of_features():
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = swin(features_only=True)
            channels = self.encoder.feature_info.channels()
            self.heads = nn.ModuleList(nn.Conv2d(each, 5, 1) for each in channels)

        def forward(self, x):
            found = zip(self.encoder(x), self.heads, strict=True)
            return {"maps": [head(features.permute(0, 3, 1, 2)) for features, head in found]}

    result = prune(Segmenter(), "magnitude", 0.3, at="encoder", example_input=IMAGES)
    assert result.parity.holds
    assert result.got == pytest.approx(0.3, abs=0.02)


class Peeking(Classifier):
    """Reads a weight of its backbone behind the backbone's back."""

    def forward(self, x):
        weight = self.inner["backbone"].layers[0].blocks[0].mlp.fc1.weight
        return super().forward(x) + weight.abs().mean()  # which counts what is masked


def test_parity_is_checked_on_the_whole():
    model = Peeking(swin(num_classes=0)).eval()
    with pytest.raises(ParityError, match="'s output differs from the masked model's"):
        prune(model, "magnitude", 0.3, at="inner.backbone", example_input=IMAGES)


def test_parity_is_checked_on_the_part_where_the_whole_says_nothing():
    model = whole("swin")
    nn.init.zeros_(model.head[2].weight)
    nn.init.zeros_(model.head[2].bias)
    result = prune(model, "magnitude", 0.3, at="inner.backbone", example_input=IMAGES)
    assert result.parity.holds
    assert result.parity.scale > 0


def test_parity_is_checked_on_the_part_where_the_whole_returns_nothing_at_all():
    """As a detector that finds nothing, whatever its weights."""

    class Blind(Classifier):
        def forward(self, x):
            return super().forward(x)[:0]

    result = prune(
        Blind(swin(num_classes=0)), "magnitude", 0.3, at="inner.backbone", example_input=IMAGES
    )
    assert result.parity.holds
    assert result.parity.scale > 0


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("backbone", "has no part 'backbone'; expected a name of named_modules"),
        ("iner.backbon", r"Did you mean 'inner\.backbone'\?"),
        ("quite another", "There are 'neck', 'inner', 'head'"),
        ("inner", "calls neither its part 'inner' nor a method of it"),
    ],
)
def test_parts_that_are_not_there_or_not_called_are_refused(at, said):
    with pytest.raises(AdapterError, match=said):
        prune(whole(), "magnitude", 0.3, at=at, example_input=IMAGES)


class Tokens(Classifier):
    """Asks its backbone for features, and for a number, by methods."""

    def forward(self, x):
        backbone = self.inner["backbone"]
        assert backbone.get_classifier() is not None
        return self.head(backbone.forward_features(self.neck(x)).mean((1, 2)))


@pytest.mark.parametrize("adapter", [None, "auto"])
def test_a_part_may_be_called_by_a_method(adapter, tmp_path):
    told = {"at": "inner.backbone", "example_input": IMAGES, "adapter": adapter}
    model = Tokens(swin(num_classes=0)).eval()
    result = prune(model, "magnitude", 0.3, **told)
    assert result.parity.holds
    assert result.got == pytest.approx(0.3, abs=0.02)
    result.save(tmp_path / "small")
    small = load(tmp_path / "small", model=Tokens(swin(num_classes=0)), example_input=IMAGES)
    assert torch.equal(small(IMAGES), result.model(IMAGES))


def test_single_weights_of_a_part_are_chosen_by_name():
    told = {"example_input": IMAGES, "granularity": "weight"}
    with pytest.raises(RequestError, match=r"pass include=\['inner.backbone.\*'\]"):
        prune(whole(), "magnitude", 0.3, at="inner.backbone", **told)
    told["adapter"] = "auto"
    result = prune(whole(), "magnitude", 0.3, include=["inner.backbone.*"], **told)
    assert all(name.startswith("inner.backbone.") for name in result.masks.kept)


def test_a_saved_part_is_pruned_further_as_before(tmp_path):
    torch.manual_seed(0)
    result = prune("test_vit", "magnitude", 0.2, at="blocks", weights="random", adapter="auto")
    result.save(tmp_path / "small")
    with pytest.raises(RequestError, match="was pruned at='blocks'; prune it further in the same"):
        prune(str(tmp_path / "small"), "magnitude", 0.2)
    again = prune(str(tmp_path / "small"), "magnitude", 0.2, at="blocks", adapter="auto")
    assert again.parity.holds
    again.save(tmp_path / "smaller")
    x = torch.randn(1, *again.recipe["input_size"])
    assert torch.equal(load(tmp_path / "smaller")(x), again.model(x))
