"""timm models built with features_only=True: what is inside their blocks may shrink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..axis import AxisSpec
from ..branch import BLOCK
from .attention import fix_attention
from .base import Adapter, register
from .convnext import block_axes as convnext_axes
from .convnext import convnext
from .swin import block_axes as swin_axes
from .swin import swin
from .vit import block_axes as vit_axes
from .vit import vit

if TYPE_CHECKING:
    from torch import Tensor, nn


class Features(Adapter):
    """Backbones that return the features of their stages; their widths are what they return."""

    name = "features"
    kinds = ("mlp", "head", "head_dim", BLOCK)
    default_kinds = ("mlp", "head")

    def matches(self, model: nn.Module) -> bool:
        """Say whether timm wrapped `model`, and it has blocks that one of its adapters knows."""
        return bool(_is_wrapped(model) and _blocks(model))

    def axes(self, model: nn.Module) -> list[AxisSpec]:
        """Declare per block what its family's own adapter declares but for widths."""
        return [axis for name, declare in _blocks(model) for axis in declare(model, name)]

    def toy(self) -> tuple[nn.Module, Tensor]:
        """Return a small Swin that returns the features of its stages."""
        import timm
        import torch

        sizes: Any = {"img_size": 64, "window_size": 2, "embed_dim": 16, "num_heads": (4, 4, 8, 8)}
        name, depths = "swin_tiny_patch4_window7_224", (2, 1, 1, 1)
        model = timm.create_model(name, features_only=True, depths=depths, **sizes)
        return model, torch.randn(2, 3, 64, 64)

    def role(self, parameter: str) -> str:
        """Name the role that the families' own adapters give."""
        role = vit.role(parameter)
        return role if role != "aux" else convnext.role(parameter)

    def unfollowed(self, model: nn.Module) -> list[str]:
        """Name what the families' own adapters keep the graph from."""
        return [*vit.unfollowed(model), *swin.unfollowed(model)]

    def fixup(self, model: nn.Module, left: Mapping[str, int]) -> None:
        """Reset head counts and sizes of every attention."""
        for name, _ in _blocks(model):
            attention = getattr(model.get_submodule(name), "attn", None)
            if attention is not None:
                fix_attention(attention, f"{name}.attn", left)


def _is_wrapped(model: nn.Module) -> bool:
    from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet

    return isinstance(model, FeatureDictNet | FeatureGetterNet | FeatureHookNet)


def _blocks(model: nn.Module) -> list[tuple[str, Callable[[nn.Module, str], list[AxisSpec]]]]:
    """Return the name of every block of a known family, and what declares its axes."""
    from timm.models.convnext import ConvNeXtBlock
    from timm.models.swin_transformer import SwinTransformerBlock
    from timm.models.vision_transformer import Block, ResPostBlock

    known: dict[type, Callable[[nn.Module, str], list[AxisSpec]]] = {
        Block: vit_axes,
        ResPostBlock: vit_axes,
        SwinTransformerBlock: swin_axes,
        ConvNeXtBlock: convnext_axes,
    }
    return [
        (name, known[type(block)]) for name, block in model.named_modules() if type(block) in known
    ]


features = register(Features())
