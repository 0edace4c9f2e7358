"""timm's ConvNeXt, V1 and V2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..axis import AUX, AxisSpec
from ..branch import BLOCK
from ..errors import AdapterError
from .base import Adapter, module, register, stage_blocks
from .branches import branch_axis, constants, is_gone

if TYPE_CHECKING:
    from torch import Tensor, nn


class ConvNeXt(Adapter):
    """Convolutional stages of depthwise blocks: a width per stage, an MLP per block."""

    name = "convnext"
    kinds = ("mlp", "width", BLOCK)
    default_kinds = ("mlp",)
    aliases: ClassVar[Mapping[str, str]] = {
        "convnext_t": "convnext_tiny",
        "convnext_s": "convnext_small",
        "convnext_b": "convnext_base",
        "convnext_l": "convnext_large",
    }

    def matches(self, model: nn.Module) -> bool:
        """Say whether `model` is a ConvNeXt."""
        from timm.models.convnext import ConvNeXt as Timm

        return isinstance(model, Timm)

    def axes(self, model: Any) -> list[AxisSpec]:
        """Declare per block: MLP channels, and the block itself; per stage: the width."""
        specs = []
        for stage, layer in enumerate(model.stages):
            numbers = range(len(layer.blocks))
            blocks = [a for n in numbers for a in block_axes(model, f"stages.{stage}.blocks.{n}")]
            entry = _entry(model, stage)
            if blocks:  # without any, nothing reads the width that says what it is worth
                ties = tuple(constants(model, f"stages.{stage}"))
                specs.append(AxisSpec(f"stages.{stage}.width", "width", layer=entry, ties=ties))
            specs += blocks
        return specs

    def toy(self) -> tuple[nn.Module, Tensor]:
        """Return a four-stage ConvNeXt V2, for 32 x 32 images."""
        import torch
        from timm.models.convnext import ConvNeXt as Timm

        stages: Any = {"depths": (1, 2, 1, 1), "dims": (16, 24, 32, 40), "num_classes": 10}
        return Timm(**stages, use_grn=True, ls_init_value=None), torch.randn(2, 3, 32, 32)

    def role(self, parameter: str) -> str:
        """Name depthwise convolutions `conv` and the MLPs `mlp`; all else is aux."""
        parts = parameter.split(".")
        return "conv" if "conv_dw" in parts else "mlp" if "mlp" in parts else AUX

    def blocks(self, model: Any) -> list[str]:
        """Name the blocks of all stages, and what narrows the image between them."""
        return stage_blocks(model, "stages")

    def fixup(self, model: Any, left: Mapping[str, int]) -> None:
        """Reset everything timm derives from the widths."""
        for stage, info in enumerate(model.feature_info):
            info["num_chs"] = left.get(f"stages.{stage}.width", info["num_chs"])
        last = model.feature_info[-1]["num_chs"]
        # In old versions of timm, the plain ClassifierHead did not tell its num_features.
        widths = model.head.in_features, getattr(model.head, "num_features", None)
        grown_head = widths[1] not in (None, widths[0])
        model.num_features = model.head.in_features = last
        if not grown_head:  # otherwise a hidden layer keeps the classifier's own width
            model.head.num_features = model.head_hidden_size = last


def _entry(model: Any, stage: int) -> str:
    """Return the layer whose output channels are the stage's width."""
    from torch.nn import Identity

    if not isinstance(model.stages[stage].downsample, Identity):
        return f"stages.{stage}.downsample.1"
    if stage > 0:
        raise AdapterError(
            f"Stage {stage} of this ConvNeXt has no downsampling, so it shares its width with the "
            "stage before; the convnext adapter expects one width per stage."
        )
    layers = [name for name, part in model.stem.named_children() if hasattr(part, "out_channels")]
    return f"stem.{layers[-1]}"


def block_axes(model: nn.Module, block: str) -> list[AxisSpec]:
    """Declare the MLP channels of one block, wherever it is, and the block, if it can leave."""
    from timm.layers.mlp import GlobalResponseNormMlp, Mlp
    from timm.models.convnext import ConvNeXtBlock
    from torch.nn import Identity

    core = f"{block}.mlp"
    if is_gone(model, core):
        return []
    module(model, core, Mlp, GlobalResponseNormMlp)
    whole: Any = module(model, block, ConvNeXtBlock)
    specs = [AxisSpec(core, "mlp", layer=f"{core}.fc2", side="in")]
    if isinstance(whole.shortcut, Identity):  # else the stream would not have the same shape
        modules = [f"{block}.{name}" for name in ("conv_dw", "norm", "mlp", "drop_path")]
        scale = None if whole.gamma is None else f"{block}.gamma"
        specs.append(
            branch_axis(
                model, f"{block}.{BLOCK}", modules, core=core, last=f"{core}.fc2", scale=scale
            )
        )
    return specs


convnext = register(ConvNeXt())
