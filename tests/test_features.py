"""Models that return features or nothing but a vector: what is inside them may shrink."""

import pytest
import timm
import torch

from prunekit import prune
from prunekit.errors import AdapterError

SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 32, "img_size": 64, "window_size": 2}


@pytest.mark.parametrize(
    ("name", "options", "axes"),
    [
        ("test_vit", {}, ("mlp", "head", "head_dim")),
        ("test_convnext", {}, ("mlp",)),
        ("swin_tiny_patch4_window7_224", SWIN, ("mlp", "head", "head_dim")),
    ],
)
def test_a_backbone_that_returns_features_shrinks_inside_its_blocks(name, options, axes):
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, **options)
    for kinds in (None, axes):
        result = prune(model, "magnitude", 0.3, axes=kinds)
        assert result.parity.holds
        assert result.got == pytest.approx(0.3, abs=0.02)
        image = torch.randn(1, *result.recipe["input_size"])
        for small, large in zip(result.model(image), model.eval()(image), strict=True):
            assert small.shape == large.shape


def test_the_width_of_a_model_without_classifier_is_its_output():
    model = timm.create_model("test_vit", num_classes=0)
    for excluded in ((), ("width",)):
        result = prune(model, "magnitude", 0.3, axes=("mlp", "width"), exclude=excluded)
        assert result.got == pytest.approx(0.3, abs=0.02)
        assert "width" not in result.kinds.values()
        left = [warning for warning in result.warnings if warning.startswith("Left out: width, ")]
        assert bool(left) == (not excluded)
    with pytest.raises(AdapterError, match="leave it out with --exclude 'width'"):
        prune(model, "magnitude", 0.3, axes=("width",))
