"""Small models of many sorts, each with an adapter that is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from prunekit import Adapter, AxisSpec

CLASSES = 10


@dataclass(frozen=True)
class Shape:
    """A small model that is not timm's.

    Attributes:
        form: How its blocks are held: in a `sequential`, a `list`, or a `dict`.
        output: What it returns: a `tensor`, a `tuple` or a `dict`.
        width, hidden: Channels of the stream, and inside a block.
        blocks: How many.
        norm: Whether blocks begin with a norm.
        conv: Whether blocks are 1 x 1 convolutions.
        bias: Whether layers have biases.
    """

    form: str = "list"
    output: str = "tensor"
    width: int = 8
    hidden: int = 16
    blocks: int = 2
    norm: bool = False
    conv: bool = False
    bias: bool = True


class Block(nn.Module):
    """A residual block of two layers."""

    def __init__(self, shape: Shape):
        super().__init__()
        layer: Any = nn.Linear
        if shape.conv:
            layer = lambda i, o, bias: nn.Conv2d(i, o, 1, bias=bias)  # noqa: E731
        norm: Any = nn.BatchNorm2d if shape.conv else nn.LayerNorm
        self.norm = norm(shape.width) if shape.norm else nn.Identity()
        self.up = layer(shape.width, shape.hidden, bias=shape.bias)
        self.down = layer(shape.hidden, shape.width, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Small(nn.Module):
    """An embedding, blocks, and a classifier."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embed: nn.Module = nn.Linear(6, shape.width)
        if shape.conv:
            self.embed = nn.Conv2d(3, shape.width, 2, stride=2)
        blocks = [Block(shape) for _ in range(shape.blocks)]
        if shape.form == "sequential":
            self.blocks: Any = nn.Sequential(*blocks)
        elif shape.form == "dict":
            self.blocks = nn.ModuleDict({str(n): block for n, block in enumerate(blocks)})
        else:
            self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(shape.width, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        if self.shape.form == "sequential":
            x = self.blocks(x)
        else:
            blocks = self.blocks.values() if self.shape.form == "dict" else self.blocks
            for block in blocks:
                x = block(x)
        x = self.head(x.flatten(2).mean(2) if self.shape.conv else x)
        return {"tensor": x, "tuple": (x, x.sum()), "dict": {"logits": x}}[self.shape.output]


class SmallAdapter(Adapter):
    """Knows `Small`: hidden channels of each block, and the width."""

    name = "fuzzed-adapter"
    kinds = ("mlp", "width")
    default_kinds = ("mlp",)

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, Small)

    def axes(self, model: Any) -> list[AxisSpec]:
        specs = [AxisSpec("width", "width", layer="embed")]
        for n in range(model.shape.blocks):
            specs.append(AxisSpec(f"blocks.{n}", "mlp", layer=f"blocks.{n}.up", rounded=False))
        return specs

    def blocks(self, model: Any) -> list[str]:
        return [f"blocks.{n}" for n in range(model.shape.blocks)]

    def fixup(self, model: nn.Module, left: Mapping[str, int]) -> None:
        return None


def small(shape: Shape) -> tuple[nn.Module, Tensor]:
    """Return a model none of whose parameters is trivial, and a batch of inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Small(shape).eval()
        _randomize_(model)
        inputs = torch.randn(2, 3, 4, 4) if shape.conv else torch.randn(2, 6)
    return model, inputs


def first(output: Any) -> Tensor:
    """Return the tensor of an output, whatever it is wrapped in."""
    if isinstance(output, Mapping):
        output = output["logits"]
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


TOYS = {
    "vit": lambda: VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4, num_classes=CLASSES
    ),
    "swin": lambda: SwinTransformer(
        img_size=16, patch_size=2, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4),
        num_classes=CLASSES,
    ),
    "convnext": lambda: ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=CLASSES),
}  # fmt: skip


def toy(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a small model of timm none of whose parameters is trivial."""
    size = 32 if family == "convnext" else 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TOYS[family]().eval()
        _randomize_(model)
    model.pretrained_cfg = {"input_size": (3, size, size), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return model.to(dtype)


@torch.no_grad()
def _randomize_(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if parameter.dim() > 1 and name.endswith("weight"):
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        elif name.endswith(("weight", "gamma")):
            parameter.copy_(1 + 0.3 * noise)
        else:
            parameter.copy_(0.5 * noise)
