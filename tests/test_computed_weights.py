"""Models whose layers compute their weight are pruned, repaired and saved like any other."""

from __future__ import annotations

import json

import oracle
import pytest
import timm
import torch
from conftest import FAMILIES, toy
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from prunekit import Adapter, Criterion, export, load, prune, sensitivity
from prunekit.axis import AxisSpec
from prunekit.errors import AdapterError, ArtifactError, BudgetError, ExportError
from prunekit.inputs.lineage import lineage_of
from prunekit.testing import pruned_checks

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


SIDES = "before", "after"
HYBRID = "vit_small_r26_s32_224"  # its stem is a ResNet that standardises its weights


def large(name="test_nfnet", **options):
    torch.manual_seed(0)
    return oracle.vary_(timm.create_model(name, num_classes=5, **options))


def params(model):
    return sum(parameter.numel() for parameter in model.parameters())


class Small(nn.Module):
    """Two standardised convolutions and a classifier."""

    def __init__(self):
        super().__init__()
        self.first = ScaledStdConv2d(3, 8, 3)
        self.second = StdConv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.second(F.relu(self.first(x))).mean((2, 3)))


def small():
    torch.manual_seed(0)
    model = Small()
    with torch.no_grad():
        model.first.gain.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [("dm_nfnet_f0", {}), (HYBRID, {"img_size": 64})],
)
def test_a_third_of_it_leaves_exactly(name, options, tmp_path):
    model = large(name, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    result = prune(model, "magnitude", 0.3, example_input=X, adapter="auto")

    assert result.parity.holds
    assert result.got == pytest.approx(0.3, abs=0.005)
    assert result.before.params == params(model)
    assert result.after.params == params(result.model)
    assert "conv" in result.kinds.values()
    assert any(isinstance(layer, Conv2dSame) for layer in result.model.modules())
    result.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved", model=model, example_input=X)
    for x in (X, torch.randn(1, 3, 75, 81)) if name != HYBRID else (X,):  # padded as it needs it
        with torch.no_grad():
            found, dense = result.model(x), model(x)
            expected = oracle.expected(oracle.plain(model), result.model, x)
            assert torch.equal(loaded(x), found)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        assert (dense - expected).abs().max() > 1e-3 * expected.abs().max()
    checks = pruned_checks(result.model, model, X, graphs=False)
    assert {check.claim for check in checks if check.problem()} == set()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_traces_and_exports_are_those_of_the_large_model():
    model = large()
    result = prune(model, "magnitude", 0.3, example_input=X)
    assert [c.problem() for c in pruned_checks(result.model, model, X)] == [None] * 9


def test_scores_are_of_the_weights_that_are_used():
    model = small()
    x = torch.randn(1, 3, 9, 9)
    first, second = model.first.weight.detach(), model.second.weight.detach()

    def standardised(weight, eps=1e-6):
        rows = weight.flatten(1)
        spread = (rows.var(1, unbiased=False) + eps).sqrt()
        return ((rows - rows.mean(1, keepdim=True)) / spread[:, None]).view_as(weight)

    first = standardised(first) * model.first.gain.detach() * model.first.scale
    second = standardised(second)
    squares = first.square().flatten(1).sum(1) + second.square().flatten(2).sum((0, 2))
    expected = (squares / (27 + 6)).sqrt()

    result = prune(model, "magnitude", 0.4, example_input=x, multiple=1)

    torch.testing.assert_close(result.scores["first"], expected.double(), rtol=1e-5, atol=1e-6)
    kept = result.plan.kept["first"]
    assert 0 < len(kept) < 8
    assert set(kept) == set(expected.topk(len(kept)).indices.tolist())


def test_the_report_says_so_and_names_the_layers():
    result = prune(small(), "magnitude", 0.4, example_input=torch.randn(1, 3, 9, 9), multiple=1)
    assert result.plain == ("first", "second")
    (said,) = [one for one in result.warnings if one.startswith("Made plain")]
    assert "first, second, which computed their weight anew" in said
    assert said.endswith("training changes it directly.")


def test_lstsq_refits_them():
    images = [
        torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(n)) for n in (1, 2)
    ]
    result = prune(large(), "magnitude", 0.3, example_input=X, repair="lstsq", data=images)
    (done,) = result.rounds
    assert done.unrepaired == {}
    assert {"stages.0.0.conv2", "stages.1.0.conv3"} <= set(done.repaired)
    before, after = (sum(getattr(x, side) for x in done.repaired.values()) for side in SIDES)
    assert after < 0.8 * before


@pytest.mark.parametrize("by", ["params", "macs", "slices"])
def test_budgets_are_of_the_model_that_came_in(by):
    model = large()
    result = prune(
        model, "magnitude", 0.4, by=by, example_input=X, axes=("conv", "width"), multiple=1
    )
    assert result.before.params == params(model)
    assert result.got == pytest.approx(0.4, abs=0.005)
    assert result.got == pytest.approx(result.plan.got, abs=1e-9)


class Gains(nn.Module):
    """A tenth of its parameters leave when its layers are made plain."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(ScaledStdConv2d(8, 8, 1, bias=False) for _ in range(6)), nn.Flatten(), nn.Linear(8, 2)
        )

    def forward(self, x):
        return self.layers(x)


def test_what_made_them_plain_counts_for_the_budget():
    model, x = Gains().eval(), torch.randn(1, 8, 1, 1)
    result = prune(model, "magnitude", 0.3, example_input=x, multiple=1, axes=("mlp",))
    assert result.before.params == params(model) == 6 * 72 + 18
    assert result.after.params == params(result.model)
    assert result.plan.got == pytest.approx(1 - result.after.params / result.before.params)
    assert result.got == pytest.approx(0.3, abs=0.03)
    with pytest.raises(BudgetError, match=r"A ratio of 0\.05 by params removes less than half"):
        prune(model, "magnitude", 0.05, example_input=x, multiple=1)
    with pytest.raises(BudgetError, match=r"A ratio of 0\.99 by params is out of reach") as raised:
        prune(model, "magnitude", 0.99, example_input=x, multiple=1)
    most = float(str(raised.value).partition("at most ")[2].split()[0])
    assert prune(model, "magnitude", most, example_input=x, multiple=1).got >= most


def test_a_saved_model_is_pruned_further_and_loads_again(tmp_path):
    first = prune("test_nfnet", "magnitude", 0.2, weights="random", img_size=64)
    assert first.before.params == params(timm.create_model("test_nfnet"))
    first.save(tmp_path / "once")
    assert json.loads((tmp_path / "once/plan.json").read_text())["plain"] == list(first.plain)
    assert lineage_of(load(tmp_path / "once")).plain == first.plain

    second = prune(str(tmp_path / "once"), "magnitude", 0.2)

    assert second.plain == first.plain
    assert second.before.params == first.after.params
    second.save(tmp_path / "twice")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "twice")(X), second.model(X))


def test_an_artifact_from_before_stays_as_it_was(tmp_path, monkeypatch):
    """Layers were not made plain once; those artifacts have layers that compute their weight."""
    with monkeypatch.context() as once:
        once.setattr("prunekit.inputs.computed.plain_layers", lambda model: {})
        old = prune("test_nfnet", "magnitude", 0.02, weights="random", img_size=64)
        old.save(tmp_path / "old")
    assert old.plain == ()

    loaded = load(tmp_path / "old")
    again = prune(str(tmp_path / "old"), "magnitude", 0.01)
    again.save(tmp_path / "again")

    assert again.plain == ()
    assert isinstance(loaded.stem.conv1, ScaledStdConv2d)
    with torch.no_grad():
        assert torch.equal(loaded(X), old.model(X))
        assert torch.equal(load(tmp_path / "again")(X), again.model(X))


def test_a_model_without_such_layers_cannot_load_it_and_is_told_so(tmp_path):
    model, x = small(), torch.randn(1, 3, 9, 9)
    prune(model, "magnitude", 0.4, example_input=x, multiple=1).save(tmp_path / "saved")
    other = small()
    other.second = nn.Conv2d(8, 6, 1, bias=False)
    with pytest.raises(ArtifactError, match=r"layer 'second' of Small was made plain, but no such"):
        load(tmp_path / "saved", model=other, example_input=x)
    load(tmp_path / "saved", model=model, example_input=x)


def test_single_weights_that_are_zero_are_so_in_what_is_used(tmp_path):
    model, x = small(), torch.randn(1, 3, 9, 9)
    result = prune(model, "magnitude", 0.5, granularity="weight", example_input=x)
    assert "first.weight" in result.masks.kept
    assert type(result.model.first) is nn.Conv2d
    result.save(tmp_path / "masked")
    loaded = load(tmp_path / "masked", model=model, example_input=x)
    assert torch.equal(loaded(x), result.model(x))


class Whole(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.neck = StdConv2d(3, 3, 1)
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(self.neck(x))


def test_of_a_part_only_its_own_layers_are_made_plain(tmp_path):
    model = Whole(large()).eval()
    result = prune(model, "magnitude", 0.3, at="backbone", example_input=X)
    assert isinstance(result.model.neck, StdConv2d)
    assert all(name.startswith("backbone.") for name in result.plain)
    assert result.part[0].params == params(model.backbone)
    assert result.got == pytest.approx(0.3, abs=0.02)
    result.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved", model=model, example_input=X)
    with torch.no_grad():
        assert torch.equal(loaded(X), result.model(X))


def test_what_no_axis_cuts_and_no_criterion_looks_at_is_left():
    model = large(HYBRID, img_size=64)
    result = prune(model, "magnitude", 0.2, example_input=X)
    assert result.recipe["adapter"] == "vit"
    assert result.plain == result.warnings == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_of_families_know_what_was_made_plain(name, tmp_path):
    model, x = toy(name)
    for layer in [layer for layer in model.modules() if isinstance(layer, nn.Linear)]:
        parametrizations.weight_norm(layer)
    result = prune(model, "magnitude", 0.3, example_input=x, multiple=1)
    assert result.recipe["adapter"] == name
    assert result.plain
    assert result.parity.holds
    assert result.got == pytest.approx(0.3, abs=0.02)
    result.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved", model=model, example_input=x)
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))


class Peeking(Small):
    """Reads what a layer learns, too."""

    def __init__(self):
        super().__init__()
        self.more = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 3, 3))

    def forward(self, x):
        return super().forward(self.more(x)) * self.second.weight.mean()


def test_a_model_that_reads_what_its_layers_learn_keeps_them():
    model, x = Peeking().eval(), torch.randn(1, 3, 9, 9)
    result = prune(model, "magnitude", 0.3, example_input=x, multiple=1)
    assert result.plain == ()
    assert any(said.startswith("Not made plain: first, second") for said in result.warnings)


class PeekingInside(nn.Module):
    """Reads a parameter that only a layer that computes its weight has."""

    def __init__(self):
        super().__init__()
        self.first, self.last = parametrizations.weight_norm(nn.Linear(8, 16)), nn.Linear(16, 4)

    def forward(self, x):
        seen = self.first.parametrizations.weight.original0.sum()
        return self.last(self.first(x).relu()) + seen


def test_a_refusal_says_too_what_was_not_made_plain():
    with pytest.raises(AdapterError, match=r"can shrink.*Not made plain: first, which compute"):
        prune(PeekingInside().eval(), "magnitude", 0.3, example_input=torch.randn(2, 8))


def test_the_plan_of_a_second_pruning_needs_what_the_first_left(tmp_path):
    """Its layers are plain by then."""
    model, x = small(), torch.randn(1, 3, 9, 9)
    for name, ratio in (("once", 0.2), ("twice", 0.1)):
        given = model if name == "once" else load(tmp_path / "once", model=model, example_input=x)
        result = prune(given, "magnitude", ratio, example_input=x, multiple=1)
        result.save(tmp_path / name)
    with pytest.raises(ArtifactError, match=r"made for another architecture than Small here"):
        load(tmp_path / "twice", model=model, example_input=x)
    found = load(tmp_path / "twice", model=given, example_input=x)
    assert torch.equal(found(x), result.model(x))


def test_timm_cannot_say_it_and_others_can(tmp_path):
    result = prune("test_nfnet", "magnitude", 0.2, weights="random", img_size=64)
    with pytest.raises(ExportError, match=r"'stem\.conv1' when it runs, and that layer was made"):
        export(result, "timm", tmp_path / "timm")
    assert not (tmp_path / "timm").exists()
    for to in ("torch-export", "hub-folder"):
        assert export(result, to, tmp_path / to).proofs
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "hub-folder")(X), result.model(X))


def test_sensitivity_says_what_is_saved_of_the_model_that_came_in():
    images = [torch.randn(8, 3, 9, 9)]
    found = sensitivity(
        small(), "magnitude", ratios=(0.5,), example_input=X[..., :9, :9], data=images, multiple=1
    )
    effect = next(one for one in found.effects if one.axis == "first")
    assert effect.params == pytest.approx(4 * (27 + 1 + 6) / params(small()))


def test_rounds_with_a_criterion_that_looks_again():
    seen = []

    def watching(axes):
        seen.append({type(member.weight) for axis in axes for member in axis.members})
        return [axis.reduce(lambda member: member.weight.abs()) for axis in axes]

    model = large()
    result = prune(
        model,
        Criterion("watching", watching),
        0.4,
        steps=2,
        example_input=X,
        axes=("conv",),
        multiple=1,
    )
    assert result.got == pytest.approx(0.4, abs=0.005)
    assert result.parity.holds
    assert len(seen) == 2


class Known(Adapter):
    """Knows `Small`, and gives the layer that reads the axis no say."""

    name = "known"
    kinds = default_kinds = ("conv",)

    def matches(self, model):
        return isinstance(model, Small)

    def axes(self, model):
        return [AxisSpec("first", "conv", layer="first")]

    def role(self, parameter):
        return "conv" if parameter == "first.weight" else "aux"


def test_what_an_axis_cuts_is_made_plain_even_if_it_has_no_say():
    model, x = small(), torch.randn(1, 3, 9, 9)
    result = prune(model, "magnitude", 0.4, example_input=x, adapter=Known(), multiple=1)
    assert result.plain == ("first", "second")
    assert result.parity.holds
    assert type(result.model.second) is nn.Conv2d
