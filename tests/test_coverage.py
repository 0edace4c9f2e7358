"""One small model of many of timm's and torchvision's modules, so that coverage does not rot.

The whole table is made by benchmarks/coverage.py.
"""

from __future__ import annotations

import oracle
import pytest
import timm
import torch
from torch.utils._pytree import tree_leaves
from torchvision.models import get_model

from prunekit import load, prune
from prunekit.testing import pruned_checks

TIMM = [
    "convit_tiny",
    "crossvit_tiny_240",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "dla46x_c",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "ese_vovnet19b_slim_dw",
    "eva02_tiny_patch14_224",
    "fasternet_t0",
    "ghostnet_050",
    "gmlp_ti16_224",
    "hardcorenas_b",
    "hgnetv2_b0",
    "hrnet_w18_small",
    "iformer_t",
    "inception_next_atto",
    "lcnetv2_small",
    "legacy_seresnet18",
    "levit_128s",
    "lowformer_b0",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "nf_regnet_b0",
    "nf_resnet26",
    "pit_ti_224",
    "regnety_002",
    "resnetv2_50x1_bit",
    "resnext26ts",
    "test_byobnet",
    "test_coatnet",
    "test_efficientnet",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "test_vit_relpos",
    "tiny_vit_5m_224",
]
TORCHVISION = ["mobilenet_v2", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "mnasnet0_5"]

SHORT_OF = {  # timm counts the features of HRNet's stages in modules that do not return them
    "hrnet_w18_small": {"returns features of each stage, as wide as it says"}
}


def built(name):
    torch.manual_seed(0)
    if name in TORCHVISION:
        model = get_model(name, weights=None, num_classes=10)
        return oracle.vary_(model), torch.randn(1, 3, 64, 64)
    model = oracle.vary_(timm.create_model(name, num_classes=10))
    return model, torch.randn(1, *model.pretrained_cfg["input_size"])


@pytest.mark.parametrize("name", [*TIMM, *TORCHVISION])
def test_a_third_of_it_leaves_exactly(name, tmp_path):
    model, x = built(name)
    plain = oracle.plain(model)

    result = prune(model, "magnitude", 0.3, example_input=x, adapter="auto")

    small = result.model
    assert result.got == pytest.approx(0.3, abs=0.02)
    assert result.parity.holds
    assert sum(p.numel() for p in small.parameters()) < 0.75 * sum(
        p.numel() for p in model.parameters()
    )
    result.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved", model=model, example_input=x)
    with torch.inference_mode():
        found, again = tree_leaves(small(x)), tree_leaves(loaded(x))
        expected, whole = tree_leaves(oracle.expected(plain, small, x)), tree_leaves(model(x))
    for got, other, want, dense in zip(found, again, expected, whole, strict=True):
        assert torch.equal(got, other)
        assert (got - want).abs().max() < 1e-4 * want.abs().max()
        assert (dense - want).abs().max() > 1e-3 * want.abs().max()  # something has left
    problems = {c.claim: c.problem() for c in pruned_checks(small, model, x, graphs=False)}
    assert {claim for claim, problem in problems.items() if problem} == SHORT_OF.get(name, set())
