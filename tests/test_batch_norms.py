"""BatchNorms after a cut: their running means take up shifts, and can be recalibrated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from timm.layers import ScaledStdConv2d
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from prunekit import prune
from prunekit.adapters import ADAPTERS
from prunekit.adapters.answers import axes_of
from prunekit.axis import AxisSpec
from prunekit.cutting.shrink import shrunk
from prunekit.errors import RepairError
from prunekit.planning.plan import Plan
from prunekit.recovery.recalibrate import recalibrate_
from prunekit.recovery.reconstruct import repair_
from prunekit.repairs import REPAIRS
from prunekit.repairs.base import Repair
from prunekit.repairs.chain import chained, named, options_of
from prunekit.repairs.given import Norm
from prunekit.report import render
from prunekit.statistics import unfolding
from prunekit.testing import repair_checks
from prunekit.tracing.batch_norms import shifted_by
from prunekit.tracing.chain import chain_of
from prunekit.tracing.graph import trace

IMAGES = torch.randn(20, 3, 12, 12, generator=torch.Generator().manual_seed(3))


class Cells(nn.Module):
    """An inverted residual with a grouped convolution, whose last layer reads many positions."""

    def __init__(self, middle=6):
        super().__init__()
        self.widen = nn.Conv2d(3, 12, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, stride=2, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.narrow = nn.Conv2d(12, 5, 3, dilation=2, bias=False)
        self.bn3 = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.widen(x)))
        x = F.relu(self.bn2(self.depth(x)))
        return self.head(F.relu(self.bn3(self.narrow(x))).mean((2, 3)))


def settled(model):
    """Give a model's BatchNorms the statistics of the images, and parameters that matter."""
    torch.manual_seed(1)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        norm.momentum = None
    model.train()(IMAGES)
    return model.eval()


def cut(model, share=0.5):
    """Cut the inner axes of a model by half, taking the last slices; return all there is."""
    auto = ADAPTERS.get("auto").seeing(model, IMAGES[:1])
    specs = [spec for spec in axes_of(auto, model) if spec.name.startswith(("widen", "depth"))]
    axes = trace(model, specs, auto, IMAGES[:1])
    kept = {axis.name: tuple(range(round(axis.size * share))) for axis in axes}
    plan = Plan(kept, {axis.name: axis.size for axis in axes}, "slices", 0.0, 0.0)
    return axes, plan, shrunk(model, axes, plan, auto).eval()


def input_of(model, name, images=IMAGES):
    found = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda m, x: found.append(x[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    return found[0]


def apart(one, other):
    with torch.no_grad():
        return float((one(IMAGES) - other(IMAGES)).square().mean())


# --- which BatchNorm reads which layer -------------------------------------------------


def test_layers_are_paired_with_the_batch_norm_that_reads_them_alone():
    pairs = shifted_by(Cells().eval(), IMAGES[:1])
    assert pairs == {"widen": "bn1", "depth": "bn2", "narrow": "bn3"}


class Shared(nn.Module):
    """Layers that more than a BatchNorm reads, or more than one layer's BatchNorm."""

    def __init__(self):
        super().__init__()
        for name in ("added", "twice", "returned", "biased"):
            self.add_module(name, nn.Conv2d(3, 3, 1, bias=name == "biased"))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(3))
        self.other = nn.Conv2d(3, 3, 1, bias=False)
        self.forgetful, self.batch = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.batch.running_mean = self.batch.running_var = None

    def forward(self, x):
        kept = self.added(x)
        x = kept + self.added_bn(kept)
        x = self.twice_bn(self.twice(x)) + self.twice_bn(self.other(x))
        out = self.returned(self.batch(self.forgetful(self.biased_bn(self.biased(x)))))
        return out, self.returned_bn(out)


def test_layers_that_anything_else_reads_too_are_not_paired():
    assert shifted_by(Shared().eval(), IMAGES[:1]) == {}


def test_a_shift_of_a_paired_layer_is_undone_by_the_running_mean():
    model = settled(Cells())
    shift = torch.randn(12)
    with torch.no_grad():
        expected = model(IMAGES)
        model.depth.register_forward_hook(lambda m, x, y: y + shift.view(-1, 1, 1))
        model.bn2.running_mean += shift
        torch.testing.assert_close(model(IMAGES), expected)


# --- lstsq on convolutions -------------------------------------------------------------


@pytest.mark.parametrize("groups", [2, 6, 12], ids=["2 groups", "6 groups", "depthwise"])
def test_a_grouped_convolution_is_refitted_group_by_group(groups):
    model = settled(Cells(groups))
    axes, plan, small = cut(model)
    ridge = 0.01
    repair_(
        small, model, axes, plan, REPAIRS.get("lstsq").configure(ridge=ridge), (), IMAGES.split(8)
    )
    kept = next(kept for name, kept in plan.kept.items() if name.startswith("widen"))
    size = 12 // len(model.depth.weight) * 12 // groups  # channels of a group
    left = [n for n in range(groups) if small.depth.groups == groups or n in kept]
    with torch.no_grad():
        wanted = model.depth(input_of(model, "depth")).numpy()
    inputs = F.pad(input_of(small, "depth"), (1, 1, 1, 1)).numpy().astype(float)
    per = small.depth.weight.shape[1]  # channels that a group reads
    outs = len(small.depth.weight) // small.depth.groups
    for number, group in enumerate(left):
        own = inputs[:, number * per : (number + 1) * per]
        rows = np.stack([
            own[:, :, i : i + 3, j : j + 3].reshape(len(own), -1)
            for i in range(0, 12, 2) for j in range(0, 12, 2)
        ])  # fmt: skip
        x = rows.transpose(1, 0, 2).reshape(-1, per * 9)
        y = wanted[:, group * size : group * size + outs].transpose(0, 2, 3, 1).reshape(-1, outs)
        start = model.depth.weight[group * size : group * size + outs, :per].detach().numpy()
        start = start.reshape(outs, -1).astype(float)
        centred, lacking = x - x.mean(0), y - y.mean(0)
        covariance = centred.T @ centred / len(x)
        missing = lacking.T @ centred / len(x) - start @ covariance
        regular = covariance + ridge * np.diag(covariance).mean() * np.eye(len(covariance))
        weight = start + missing @ np.linalg.inv(regular)
        mine = small.depth.weight[number * outs : (number + 1) * outs].detach().numpy()
        np.testing.assert_allclose(mine.reshape(outs, -1), weight, rtol=1e-3, atol=1e-4)
        shift = y.mean(0) - weight @ x.mean(0)
        before = model.bn2.running_mean[group * size : group * size + outs].numpy()
        after = small.bn2.running_mean[number * outs : (number + 1) * outs].numpy()
        np.testing.assert_allclose(before - after, shift, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("groups", [2, 6, 12])
@pytest.mark.parametrize("name", ["bias", "lstsq"])
def test_what_batch_norms_do_to_the_means_is_made_up_for(name, groups):
    model = settled(Cells(groups))
    axes, plan, small = cut(model)
    bare = copy.deepcopy(small)
    done = repair_(small, model, axes, plan, REPAIRS.get(name), (), IMAGES.split(8))
    assert apart(model, small) < 0.7 * apart(model, bare)
    with torch.no_grad():
        means = [m.narrow(input_of(m, "narrow")).mean((0, 2, 3)) for m in (model, small)]
    shift = model.bn3.running_mean - small.bn3.running_mean  # stands for the bias
    torch.testing.assert_close(means[1] + shift, means[0], rtol=1e-3, atol=1e-3)
    assert "narrow" in done.layers


def test_a_sample_of_many_positions_tells_as_much_as_all(monkeypatch):
    big = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = settled(Cells())
    errors = []
    for fewest in (unfolding.FEWEST, 64 * 64):
        monkeypatch.setattr(unfolding, "FEWEST", fewest)
        axes, plan, small = cut(model)
        done = repair_(small, model, axes, plan, REPAIRS.get("lstsq"), (), big.split(8))
        with torch.no_grad():
            errors.append(float((model(big) - small(big)).square().mean()))
    assert done.layers["narrow"].after < 0.95 * done.layers["narrow"].before
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    assert errors[0] != errors[1]


class Standardised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = ScaledStdConv2d(8, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.second(F.relu(self.first(x))).mean((2, 3)))


def test_layers_that_compute_their_weight_are_left_and_named():
    model = Standardised().eval()
    auto = ADAPTERS.get("auto").seeing(model, IMAGES[:1])

    axes = trace(model, [AxisSpec("first", "conv", layer="first")], auto, IMAGES[:1])
    plan = Plan({"first": (0, 1, 2, 3, 4)}, {"first": 8}, "slices", 0.0, 0.0)
    small = shrunk(model, axes, plan, auto).eval()
    done = repair_(small, model, axes, plan, REPAIRS.get("lstsq"), (), IMAGES.split(8))
    assert done.left == {"second": "it computes its weight from the parameter"}
    assert list(done.layers) == []


class Trained(nn.Module):
    """Has a head that reads what is cut, and runs in training only."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1)
        self.head, self.auxiliary = nn.Linear(8, 2), nn.Linear(16, 2)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = self.head(F.relu(self.second(x)).mean((2, 3)))
        return (y, self.auxiliary(x.mean((2, 3)))) if self.training else y


def test_what_lost_inputs_and_does_not_run_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    own = {"example_input": IMAGES[:1], "data": tmp_path / "images", "multiple": 1}
    result = prune(Trained(), "random", 0.4, repair="lstsq", include=["first"], **own)
    assert result.rounds[0].unrepaired == {"auxiliary": "it takes no part in evaluation"}
    expected = "Not repaired: auxiliary, since it takes no part in evaluation."
    assert expected in result.warnings


# --- recalibrate -----------------------------------------------------------------------


def test_recalibrated_statistics_are_those_of_what_reaches_each_norm():
    model = settled(Cells())
    small = cut(model)[2]
    found = recalibrate_(small, REPAIRS.get("recalibrate"), [IMAGES])
    assert list(found) == ["bn1", "bn2", "bn3"]
    for name in found:
        x = input_of(small, name).double().transpose(0, 1).flatten(1)
        norm = small.get_submodule(name)
        torch.testing.assert_close(norm.running_mean.double(), x.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var.double(), x.var(1), rtol=1e-4, atol=1e-5)
    assert found["bn1"] < 1e-3 < found["bn3"]  # nothing before the first norm has changed


def test_one_batch_is_recalibrated_as_torch_trains():
    model = settled(Cells())
    small, other = (cut(model)[2] for _ in range(2))
    recalibrate_(small, REPAIRS.get("recalibrate"), [IMAGES])
    torch.optim.swa_utils.update_bn([IMAGES], other)
    for (name, mine), theirs in zip(small.named_buffers(), other.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3, msg=name)


def test_batches_are_added_up_and_modes_stay():
    model = settled(Cells())
    whole, parts = (cut(model)[2] for _ in range(2))
    parts.bn1.train()
    recalibrate_(whole, REPAIRS.get("recalibrate"), [IMAGES])
    recalibrate_(parts, REPAIRS.get("recalibrate"), IMAGES.split(7))
    torch.testing.assert_close(parts.bn1.running_var, whole.bn1.running_var)
    assert parts.bn1.training
    assert not parts.bn2.training


def test_one_value_of_a_channel_says_nothing_of_its_variance():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    before = model[1].running_var.clone()
    assert recalibrate_(model, REPAIRS.get("recalibrate"), [torch.randn(1, 3)]) == {}
    assert torch.equal(model[1].running_var, before)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda norm: (norm.mean[1:], norm.variance), r"shapes \(5,\) and \(6,\)"),
        (lambda norm: (norm.mean, -norm.variance), "negative variance"),
        (lambda norm: (norm.mean * 1e300, norm.variance), "infinite.*in float32; correct it"),
        (lambda norm: norm.mean[:1], "expected a pair of tensors"),
    ],
)
def test_wrong_statistics_are_refused_and_found_by_the_checks(function, message):
    norm = Norm("bn", torch.ones(6), torch.ones(6), 5, torch.zeros(6), torch.ones(6))
    wrong = Repair("wrong", function, "norms")
    with pytest.raises(RepairError, match=rf"'wrong'.*{message}"):
        wrong.restate(norm)
    problems = [check.claim for check in repair_checks(wrong) if check.problem()]
    assert any("own shape" in claim for claim in problems)


# --- chains ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "names", "options"),
    [
        ("lstsq", "lstsq", {}),
        ("lstsq:ridge=0.1", "lstsq", {"ridge": 0.1}),
        ("lstsq,recalibrate", "lstsq+recalibrate", {}),
        ("bias+recalibrate", "bias+recalibrate", {}),
        ("lstsq:ridge=1e+2,recalibrate", "lstsq+recalibrate", {"lstsq.ridge": 100.0}),
        (["recalibrate", "lstsq:ridge=0.5"], "recalibrate+lstsq", {"lstsq.ridge": 0.5}),
        ((REPAIRS.get("lstsq"), "recalibrate"), "lstsq+recalibrate", {}),
    ],
)
def test_repairs_are_chained(spec, names, options):
    chain = chained(spec)
    assert named(chain) == names
    assert options_of(chain) == options


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lstsq,bias", "'lstsq' and 'bias' both refit layers"),
        ("recalibrate,recalibrate", "'recalibrate' is listed twice; name it once"),
        ("none,lstsq", "'none' stands alone"),
        ([], "list of repairs is empty"),
        ("lstsq,recalibrat", "Did you mean 'recalibrate'"),
    ],
)
def test_chains_that_undo_themselves_are_refused(spec, message):
    with pytest.raises(Exception, match=message):
        prune(Cells(), repair=spec, example_input=IMAGES[:1])


def test_a_chain_runs_on_a_model_of_the_zoo_and_says_what_it_did():
    own = {"data": "fashion-mnist-mini", "calibration": 64, "timed": False}
    result = prune("resnet_micro", "magnitude", 0.3, repair="lstsq,recalibrate", **own)
    (done,) = result.rounds
    assert set(done.recalibrated) == {
        name for name, m in result.model.named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    assert len(done.repaired) > 30
    assert result.recipe["repair"] == "lstsq+recalibrate"
    assert not any("BatchNorm" in warning for warning in result.warnings)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render(result.report()))
    assert "BatchNorms were off by" in captured.get()


def test_a_repair_that_finds_no_batch_norm_says_so():
    own = {"data": "fashion-mnist-mini", "calibration": 16, "timed": False}
    result = prune("vit_micro", "magnitude", 0.2, repair="recalibrate", **own)
    assert any("'recalibrate' had nothing to do" in warning for warning in result.warnings)


# --- modules in a row ------------------------------------------------------------------


def test_a_chain_of_modules_holds_all_layers_in_the_smallest_parts():
    model = timm.create_model("resnet18").eval()
    chain = chain_of(model, torch.randn(1, 3, 64, 64))
    assert chain[-1] == "fc"
    assert "layer2.0" in chain
    assert "layer2" not in chain
    assert not any(name.startswith("layer2.0.") for name in chain)


class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.one(x)
        y = self.two(x)
        y += x  # the same tensor, with another value
        return self.three(self.relu(y))


def test_a_sum_in_place_breaks_a_chain():
    assert chain_of(Skips().eval(), IMAGES[:1]) in (["one", "two"], ["relu", "three"])


def test_a_module_that_runs_twice_is_in_no_chain():
    """As the one ReLU of every block of torchvision's ResNets is."""

    class Reusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (
                nn.Conv2d(*n, 3) for n in ((3, 16), (16, 16), (16, 3))
            )
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.three(self.relu(self.two(self.relu(self.one(x))))).mean((2, 3))

    torch.manual_seed(0)
    for model, twice in ((Reusing(), "relu"), (resnet18(num_classes=4), "layer1.0.relu")):
        images = torch.randn(8, 3, 32, 32)
        chain = chain_of(model, images)
        assert twice not in chain
        options = {"example_input": images, "data": [images], "repair": "lstsq"}
        result = prune(model, "wanda", 0.3, **options)
        assert result.rounds[0].repaired
