"""Toy models of every family, and the few steps that most tests begin with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from timm.layers import GluMlp, SwiGLU, SwiGLUPacked, set_fused_attn
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

from prunekit.adapters.base import Adapter, select
from prunekit.adapters.finding import adapter_for
from prunekit.axis import Axis
from prunekit.cli import main
from prunekit.criteria import CRITERIA
from prunekit.measuring import own_times, saving
from prunekit.planning.budget import Budget
from prunekit.planning.plan import Plan, make_plan
from prunekit.pruning.cache import VARIABLE
from prunekit.tracing.graph import trace

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

CUDA = os.environ.get("PRUNEKIT_TEST_DEVICE", "cuda")  # "cpu" runs those tests without a GPU
CUDA_UNTIL = float(os.environ.get("PRUNEKIT_TEST_UNTIL", "inf"))  # seconds since 1970
CLASSES = 5
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def _vit(cls: type[VisionTransformer] = VisionTransformer, **options: object) -> nn.Module:
    args = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
    return cls(**args, num_classes=CLASSES, **options)


def _swin(**options: object) -> nn.Module:
    args = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 16}
    return SwinTransformer(**args, depths=(2, 2), num_heads=(2, 4), num_classes=CLASSES, **options)


def _convnext(**options: object) -> nn.Module:
    dims = (8, 12, 16, 24)
    return ConvNeXt(depths=(1, 1, 1, 2), dims=dims, num_classes=CLASSES, **options)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "swin": _swin,
    "swin_no_qkv_bias": lambda: _swin(qkv_bias=False),
    "vit": _vit,
    "vit_no_qkv_bias": lambda: _vit(qkv_bias=False, pre_norm=True),
    "vit_layer_scale": lambda: _vit(init_values=0.1),
    "vit_registers": lambda: _vit(reg_tokens=2, class_token=False, global_pool="avg"),
    "vit_qk_norm": lambda: _vit(qk_norm=True),
    "vit_mlp_norm": lambda: _vit(scale_mlp_norm=True),
    "vit_swiglu_packed": lambda: _vit(mlp_layer=SwiGLUPacked),
    "vit_glu": lambda: _vit(mlp_layer=GluMlp),
    "vit_swiglu": lambda: _vit(mlp_layer=SwiGLU),
    "vit_distilled": lambda: _vit(VisionTransformerDistilled),
    "vit_post_norm": lambda: _vit(block_fn=ResPostBlock),
    "convnext": _convnext,
    "convnext_v2": lambda: _convnext(use_grn=True, ls_init_value=None),
    "convnext_v2_conv_mlp": lambda: _convnext(use_grn=True, ls_init_value=None, conv_mlp=True),
    "convnext_conv_mlp": lambda: _convnext(conv_mlp=True),
    "convnext_overlap": lambda: _convnext(stem_type="overlap_tiered", head_norm_first=True),
    "convnext_head": lambda: _convnext(head_hidden_size=20),
}
TOYS = list(BUILDERS)
FAMILIES = ["swin", "vit", "convnext"]  # the plain toy of each
ATTENTIVE = [name for name in TOYS if name.startswith(("swin", "vit"))]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none and no stand-in, or when time is up."""
    if item.get_closest_marker("cuda") and CUDA == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; PRUNEKIT_TEST_DEVICE=cpu runs it without one")
    if item.get_closest_marker("cuda") and time.time() > CUDA_UNTIL:
        pytest.skip("no time left")


def toy(name: str) -> tuple[nn.Module, Tensor]:
    """Return a model in evaluation mode, none of whose parameters is trivial, and two images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BUILDERS[name]().eval()
        for parameter_name, parameter in model.named_parameters():
            parameter.data.copy_(_values(parameter_name, parameter))
        size = 16 if name in ATTENTIVE else 32
        images = torch.randn(2, 3, size, size)
    model.pretrained_cfg = {"input_size": (3, size, size), "mean": MEAN, "std": STD}
    return model, images


def _values(name: str, parameter: Tensor) -> Tensor:
    noise = torch.randn_like(parameter)
    if parameter.dim() > 1 and name.endswith("weight"):
        fan_in = parameter[0].numel()
        return noise / fan_in**0.5
    if name.endswith(("weight", "gamma")):  # norms and layer scales
        return 1 + 0.3 * noise
    return 0.5 * noise  # biases, bias tables, tokens and position embeddings


@cache
def traced(name: str) -> tuple[nn.Module, Tensor, list[Axis]]:
    """Return a toy with its axes of all kinds; shared between tests, never to be modified."""
    model, images = toy(name)
    return model, images, axes_of(model, images)


def axes_of(model: nn.Module, images: Tensor, *kinds: str) -> list[Axis]:
    """Trace the axes of the given kinds, of all kinds unless given."""
    adapter = adapter_for(model)
    specs = adapter.axes(model)
    chosen = select(specs, kinds or list(dict.fromkeys(s.kind for s in specs)), adapter)
    return trace(model, chosen, adapter, images)


def adapter_of(name: str) -> Adapter:
    return adapter_for(traced(name)[0])


def kinds_of(name: str) -> list[str]:
    """Return the kinds of axes of a toy."""
    return list(dict.fromkeys(axis.kind for axis in traced(name)[2]))


def of_kind(axes: Sequence[Axis], kind: str) -> list[Axis]:
    """Return the axes of a kind, or of `all`."""
    return [axis for axis in axes if kind in (axis.kind, "all")]


def random_plan(axes: Sequence[Axis], ratio: float, seed: int = 0) -> Plan:
    """Remove a fraction of the slices of every axis, at random."""
    scores = CRITERIA.get("random").configure(seed=seed)(axes)
    budget = Budget(ratio, "slices", total=float(sum(axis.size for axis in axes)))
    return make_plan(axes, scores, budget, scope="axis", floor=0, multiple=1)


def keep_all(axes: Sequence[Axis]) -> Plan:
    """Return the plan that removes nothing, which no budget asks for."""
    sizes = {axis.name: axis.size for axis in axes}
    return Plan({name: tuple(range(n)) for name, n in sizes.items()}, sizes, "slices", 0, 0)


def write_digits(root: Path, train: int = 70, test: int = 20) -> Path:
    """Write a folder of handwritten digits; the first ten of either split show all ten classes."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number in range(train + test):
        split = "test" if number < test else "train"
        place = root / split / str(digits.target[number])
        place.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * 15).astype("uint8")
        Image.fromarray(pixels).resize((28, 28)).save(place / f"{number}.png")
    return root


@pytest.fixture(params=[False, True], ids=["plain_attention", "fused_attention"])
def fused(request: pytest.FixtureRequest) -> bool:
    """Whether timm uses torch's fused attention, with both answers in turn."""
    set_fused_attn(request.param, experimental=request.param)
    yield request.param
    set_fused_attn(True, experimental=False)


def refused_by_run(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one sentence that `prunekit run` refuses some words with."""
    assert main(["run", "--arch", "vit_micro", *words.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("prunekit: ")
    assert "\n" not in said
    return said


@pytest.fixture
def timed_quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take fewer passes, and keep tables where nobody else does."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(own_times, "PASSES", (3, 3))
    monkeypatch.setattr(saving, "MOST", 9)
