"""torchvision's detectors and segmenters, whole and in part."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import detection, segmentation

from prunekit import prune

SEGMENTERS = {
    "lraspp": segmentation.lraspp_mobilenet_v3_large,
    "deeplab": segmentation.deeplabv3_mobilenet_v3_large,
    "fcn": segmentation.fcn_resnet50,
}
IMAGES = [torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))]
BOXES = {"boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
RUNS_IN_EARNEST = pytest.mark.filterwarnings("ignore:.*does not run without values")


def built(make, **options):
    torch.manual_seed(0)
    return make(weights=None, weights_backbone=None, **options).eval()


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmenter_is_pruned_and_trains(name):
    model = built(SEGMENTERS[name], num_classes=5)
    x = torch.randn(2, 3, 64, 64)
    result = prune(model, "magnitude", 0.3, example_input=x)
    assert result.parity.holds
    assert result.got == pytest.approx(0.3, abs=0.02)
    result.model.train()(x)["out"].square().mean().backward()


@RUNS_IN_EARNEST
@pytest.mark.parametrize("at", ["", "backbone", "backbone.body"])
def test_a_detector_is_pruned_and_its_loss_computed(at):
    model = built(detection.fasterrcnn_mobilenet_v3_large_320_fpn, num_classes=5)
    result = prune(model, "magnitude", 0.3, at=at, example_input=IMAGES)
    assert result.parity.holds
    assert result.got == pytest.approx(0.3, abs=0.02)
    losses = result.model.train()(IMAGES, [BOXES])
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    outside = [name for name in result.plan.kept if not name.startswith(at)]
    assert not outside


@RUNS_IN_EARNEST
@pytest.mark.parametrize("make", [detection.ssdlite320_mobilenet_v3_large], ids=["ssdlite"])
def test_the_backbone_of_other_detectors(make):
    result = prune(
        built(make, num_classes=5), "magnitude", 0.3, at="backbone", example_input=IMAGES
    )
    assert result.parity.holds
    sum(result.model.train()(IMAGES * 2, [BOXES] * 2).values()).backward()
