"""Every axis cut alone: what it costs is what cutting it by hand costs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prunekit
from prunekit.cli import main
from prunekit.errors import BudgetError, DataError
from prunekit.inputs.data import batches, open_data
from prunekit.inputs.subject import Source, find_subject
from prunekit.shared import Shared

INCLUDE = ["blocks.0.*", "blocks.3.mlp"]
OPTIONS = {"include": INCLUDE, "calibration": 64, "ratios": (0.3, 0.75)}
WORDS = "sensitivity --arch vit_micro --criterion magnitude --calibration 64 --ratios 0.3,0.75"


@pytest.fixture(scope="module")
def found():
    return prunekit.sensitivity("vit_micro", "magnitude", **OPTIONS)


def test_every_axis_is_cut_at_every_ratio(found):
    cut = [(effect.axis, effect.asked) for effect in found.effects]
    names = ("blocks.0.mlp", "blocks.0.attn.head", "blocks.3.mlp")
    assert sorted(cut) == sorted((name, ratio) for name in names for ratio in (0.3, 0.75))
    assert found.images == 64
    for effect in found.effects:
        assert 0 < effect.kept < effect.size
        assert 1 - effect.kept / effect.size == pytest.approx(effect.asked, abs=0.5 / 4)
        assert effect.divergence >= 0


def test_it_is_what_pruning_that_axis_alone_does(found):
    """By hand: prune one axis, and compare both models on the same training images."""
    effect = next(e for e in found.effects if e.axis == "blocks.0.mlp" and e.asked == 0.75)
    by_hand = prunekit.prune(
        "vit_micro", "magnitude", 0.75, by="slices", include=["blocks.0.mlp"], floor=0
    )
    assert len(by_hand.plan.kept["blocks.0.mlp"]) == effect.kept
    assert 1 - by_hand.after.params / by_hand.before.params == pytest.approx(effect.params)
    assert 1 - by_hand.after.macs / by_hand.before.macs == pytest.approx(effect.macs)
    subject = find_subject(Source(model="vit_micro"), Shared())
    images = open_data("fashion-mnist-mini", subject.model).calibration
    x, y = map(torch.cat, zip(*batches(images, 64, limit=64, seed=0), strict=True))
    dense, small = subject.model, by_hand.model
    with torch.no_grad():
        p, q = dense(x).double(), small(x).double()
    assert float(F.cross_entropy(q, y) - F.cross_entropy(p, y)) == pytest.approx(effect.loss)
    right = [(each.argmax(1) == y).double().mean().item() for each in (p, q)]
    assert 100 * (right[0] - right[1]) == pytest.approx(effect.top1)
    assert (p.argmax(1) == q.argmax(1)).double().mean().item() == effect.agreement
    divergence = (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean().item()
    assert divergence == pytest.approx(effect.divergence, rel=1e-3, abs=1e-7)


def test_a_repair_makes_the_dearest_axis_less_dear(found):
    repaired = prunekit.sensitivity("vit_micro", "magnitude", repair="lstsq", **OPTIONS)
    dearest = max(range(len(found.effects)), key=lambda n: found.effects[n].divergence)
    assert repaired.effects[dearest].divergence < found.effects[dearest].divergence


def test_axes_that_must_agree_are_cut_together():
    found = prunekit.sensitivity(
        "vit_micro", "magnitude", axes=["head_dim"], include=["blocks.0.*"], calibration=8,
        ratios=[0.5],
    )  # fmt: skip
    (effect,) = found.effects
    assert effect.axis == "blocks.0.attn"
    assert effect.kept * 2 == effect.size


def test_models_without_labels_have_no_loss():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
    images = [torch.randn(8, 3, 2, 2) for _ in range(3)]
    found = prunekit.sensitivity(
        model, "magnitude", example_input=images[0], data=images, ratios=[0.5]
    )
    assert [effect.loss for effect in found.effects] == [effect.top1 for effect in found.effects]
    assert found.effects[0].loss is None
    assert found.effects[0].divergence > 0


def test_a_run_goes_on_where_it_was_cut_off(tmp_path, capsys):
    words = [*WORDS.split(), "--include", "blocks.0.mlp,blocks.3.mlp", "--out", str(tmp_path)]
    assert main(words) == 0
    first = json.loads((tmp_path / "sensitivity.json").read_text())
    cut = {**first, "effects": first["effects"][:1], "recipe": None, "images": None}
    cut["effects"][0]["divergence"] = 0.125  # which no measurement gives
    (tmp_path / "sensitivity.json").write_text(json.dumps(cut))
    assert main([*words, "--json"]) == 0
    again = json.loads((tmp_path / "sensitivity.json").read_text())
    assert again["effects"][0]["divergence"] == 0.125
    assert again["effects"][1:] == first["effects"][1:]
    svg = ET.parse(tmp_path / "sensitivity.svg").getroot()
    said = "".join(svg.itertext())
    assert "each axis cut alone" in said
    assert main([*words, "--seed", "3"]) == 2
    assert "is of another run (other seed)" in capsys.readouterr().err


def test_the_terminal_shows_what_each_axis_costs(capsys):
    assert main([*WORDS.split(), "--include", "blocks.0.mlp"]) == 0
    said = capsys.readouterr().out
    assert "blocks.0.mlp" in said
    assert "-30%" in said
    assert "saved     nowhere" in said


def test_what_may_surprise_is_said(capsys):
    words = "sensitivity --arch vit_micro --adapter auto --criterion magnitude --calibration 8"
    assert (
        main([*words.split(), "--ratios", "0.5", "--include", "blocks.0.mlp.fc1", "--quiet"]) == 0
    )
    assert "adapter 'vit' knows this family" in capsys.readouterr().err


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match="Sensitivity needs training images"):
        prunekit.sensitivity("resnet18", "magnitude", weights="random")
    with pytest.raises(BudgetError, match="none twice"):
        prunekit.sensitivity("vit_micro", ratios=[0.5, 0.5])
    with pytest.raises(BudgetError, match="removes a slice of any axis"):
        prunekit.sensitivity("vit_micro", ratios=[0.001], include=["blocks.0.*"], calibration=8)
    with pytest.raises(BudgetError, match="expected the fraction to remove"):
        prunekit.sensitivity("vit_micro", ratios=[1.5])
    with pytest.raises(BudgetError, match="leave out granularity"):
        prunekit.sensitivity("vit_micro", granularity="weight")


def test_a_cut_is_named_by_the_ratio_that_is_nearest():
    """Of two heads, one can leave: that is a half, however little was asked for."""
    found = prunekit.sensitivity("swin_micro", "magnitude", include=["layers.0.blocks.0.attn.head"])
    assert [(effect.asked, effect.kept, effect.size) for effect in found.effects] == [(0.5, 1, 2)]
