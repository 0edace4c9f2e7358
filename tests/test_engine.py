"""prune: what it promises beyond its parts."""

import sys

import pytest
import torch
from conftest import CUDA
from torch import nn

from prunekit import Adapter, AxisSpec, Criterion, ParityError, criterion, prune
from prunekit.criteria import CRITERIA
from prunekit.errors import AdapterError, DataError, TrainingError, WeightsError
from prunekit.inputs.subject import Source, find_subject
from prunekit.inputs.zoo import build
from prunekit.recovery import recipes
from prunekit.shared import Shared


@pytest.fixture(scope="module")
def swin():
    return build("swin_micro")


def snapshot(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return state, flags, model.training, repr(model)


@pytest.mark.parametrize("name", CRITERIA.names())
def test_the_callers_model_is_never_modified(name, swin):
    swin.train()
    before = snapshot(swin)
    result = prune(swin, name, 0.5, axes=swin_axes(), data="fashion-mnist-mini", calibration=8)
    after = snapshot(swin)
    assert before[1:] == after[1:]
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    shared = {p.data_ptr() for p in swin.parameters()} & {
        p.data_ptr() for p in result.model.parameters()
    }
    assert not shared
    assert result.recipe["weights"] == "the caller's"


def test_a_model_in_training_mode_is_measured_in_evaluation_mode(swin):
    subject = find_subject(Source(model=swin.train()), Shared())
    assert swin.training
    assert not any(part.training for part in subject.model.modules())
    assert subject.model.head.fc.weight.data_ptr() == swin.head.fc.weight.data_ptr()


def swin_axes():
    return ("mlp", "head", "head_dim", "width")


@pytest.mark.parametrize("by", ["params", "macs", "slices"])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_the_budget_is_met_as_measured_on_the_small_model(swin, by, ratio):
    result = prune(swin, "magnitude", ratio, by=by)
    assert result.got == pytest.approx(ratio, abs=0.005)
    assert result.got == pytest.approx(result.plan.got, abs=1e-9)


def test_runs_repeat_exactly(swin):
    first, second = (prune(swin, "random", 0.5, seed=3) for _ in range(2))
    assert first.plan == second.plan
    assert first.plan != prune(swin, "random", 0.5, seed=4).plan


def test_patterns_choose_axes(swin):
    result = prune(swin, ratio=0.1, include=("layers.2.*",), exclude=("*.blocks.5.*",))
    assert all(name.startswith("layers.2.blocks") for name in result.plan.kept)
    assert not any("blocks.5" in name for name in result.plan.kept)


def test_patterns_may_not_separate_what_must_agree(swin):
    with pytest.raises(AdapterError, match="include or exclude them together"):
        prune(swin, axes=("head_dim",), exclude=("*.qk",))


def test_a_criterion_of_ones_own_needs_four_lines(swin):
    @criterion("l1")
    def l1(axes):
        return [axis.reduce(lambda member: member.weight.abs()) for axis in axes]

    try:
        result = prune(swin, "l1", 0.5)
        assert isinstance(l1, Criterion)
        assert result.plan == prune(swin, l1, 0.5).plan
        assert result.recipe["criterion"] == "l1"
    finally:
        CRITERIA._loaded.pop("l1")


def test_criteria_get_gradients_only_if_they_ask(swin):
    seen = []

    def look(axes):
        seen.extend(member.grad for axis in axes for member in axis.voters)
        return [torch.rand(axis.size) for axis in axes]

    prune(swin, Criterion("blind", look), 0.3, data="fashion-mnist-mini")
    assert all(grad is None for grad in seen)
    seen.clear()
    asks = Criterion("seeing", look, needs="gradients")
    prune(swin, asks, 0.3, data="fashion-mnist-mini", calibration=8)
    assert all(grad.abs().sum() > 0 for grad in seen)
    with pytest.raises(DataError, match="needs training images"):
        prune(swin, asks, 0.3)


class Net(nn.Module):
    """Two hidden layers and a batch norm, nothing that timm ever saw."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.fc1 = nn.Linear(16, 32)
        self.fc2 = nn.Linear(32, 5)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.fc2(self.fc1(x).relu())


class NetAdapter(Adapter):
    name = "net"
    kinds = default_kinds = ("hidden", "channel")

    def matches(self, model):
        return isinstance(model, Net)

    def axes(self, model):
        return [AxisSpec("hidden", "hidden", "fc1"), AxisSpec("channel", "channel", "conv")]


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    for tensor in (model.norm.running_mean, model.norm.weight.data, model.norm.bias.data):
        tensor.uniform_(0.5, 1.5)
    return model


def test_any_module_is_pruned_with_an_adapter(net):
    example = torch.randn(4, 3, 8, 8)
    result = prune(net, ratio=0.5, adapter=NetAdapter(), example_input=example)
    assert result.model.norm.running_mean.shape == result.model.conv.weight.shape[:1] < (16,)
    assert result.model.norm.num_features == result.model.fc1.in_features
    assert result.model(example).shape == (4, 5)


def test_a_model_of_unknown_input_is_refused(net):
    with pytest.raises(AdapterError, match="pass example_input"):
        prune(net)
    with pytest.raises(AdapterError, match="pass example_input"):
        prune(net, adapter=NetAdapter())


class Forgetful(NetAdapter):
    """Puts a fresh normalisation in the place of the one it should have cut."""

    def unfollowed(self, model):
        return ["norm"]

    def fixup(self, model, left):
        model.norm = nn.BatchNorm2d(model.conv.out_channels).eval()


def test_an_adapter_that_misses_something_fails_loudly(net):
    with pytest.raises(ParityError, match=r"differs from the masked model.*Nothing was saved"):
        prune(net, ratio=0.5, adapter=Forgetful(), example_input=torch.randn(4, 3, 8, 8))


def test_a_pruned_model_that_does_not_run_is_one_sentence(net):
    class Careless(NetAdapter):
        def fixup(self, model, left):
            model.norm = nn.BatchNorm2d(16).eval()

    with pytest.raises(ParityError, match="does not run"):
        prune(net, ratio=0.5, adapter=Careless(), example_input=torch.randn(4, 3, 8, 8))


def test_an_input_that_does_not_fit_is_one_sentence(net):
    with pytest.raises(AdapterError, match=r"Net does not run on an input of shape \(4, 1, 8, 8\)"):
        prune(net, ratio=0.5, adapter=NetAdapter(), example_input=torch.randn(4, 1, 8, 8))


def test_a_head_of_zeros_does_not_hide_a_broken_cut(net):
    example = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        net.fc2.weight.zero_()
        net.fc2.bias.zero_()
    result = prune(net, "random", 0.5, adapter=NetAdapter(), example_input=example)
    assert result.parity.noisy
    assert result.parity.scale > 0.01
    assert not result.model(example).any()
    with pytest.raises(ParityError):
        prune(net, "random", 0.5, adapter=Forgetful(), example_input=example)


def test_scales_of_next_to_nothing_do_not_hide_a_broken_cut(net):
    with torch.no_grad():
        net.norm.weight.fill_(1e-9)
        net.norm.bias.fill_(0)
    given = {"by": "slices", "axes": ("channel",), "example_input": torch.randn(4, 3, 8, 8)}
    assert prune(net, "random", 0.5, adapter=NetAdapter(), **given).parity.noisy
    with pytest.raises(ParityError):
        prune(net, "random", 0.5, adapter=Forgetful(), **given)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_before_any_work(net, value):
    net.norm.running_var.fill_(value)
    with pytest.raises(WeightsError, match=r"16 weights in 'norm\.running_var'.*not a number"):
        prune(net, "random", 0.5, adapter=NetAdapter(), example_input=torch.randn(4, 3, 8, 8))


def test_a_coarse_multiple_is_remarked_upon(swin):
    result = prune(swin, "magnitude", 0.45, axes=("width",), multiple=32)
    assert abs(result.got - 0.45) > 0.005
    assert "got" in result.warnings[0]


@pytest.mark.cuda
def test_cuda_gives_the_plan_that_the_cpu_gives():
    on_cpu, on_cuda = (prune("swin_micro", "magnitude", 0.5, device=d) for d in ("cpu", CUDA))
    assert on_cpu.plan == on_cuda.plan
    assert next(on_cuda.model.parameters()).device.type == CUDA


def test_a_missing_extra_is_noticed_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    steps = []
    with pytest.raises(TrainingError, match=r"accelerate.*prunekit\[train\]"):
        prune("vit_micro", finetune=recipes.find("quick"), on_step=steps.append)
    assert steps == []
