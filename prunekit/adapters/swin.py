"""timm's SwinTransformer, with shifted windows and patch merging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..axis import AxisSpec, Fold, Tie
from ..branch import BLOCK
from .attention import attention_axes, block_role, fix_attention
from .base import Adapter, module, register, stage_blocks
from .branches import branch_axis, constants, is_gone

if TYPE_CHECKING:
    from torch import Tensor, nn


class Swin(Adapter):
    """Hierarchical transformers: a width per stage, a bias table per attention."""

    name = "swin"
    kinds = ("mlp", "head", "head_dim", "width", BLOCK)
    default_kinds = ("mlp", "head")
    aliases: ClassVar[Mapping[str, str]] = {
        "swin_t": "swin_tiny_patch4_window7_224",
        "swin_s": "swin_small_patch4_window7_224",
        "swin_b": "swin_base_patch4_window7_224",
        "swin_l": "swin_large_patch4_window7_224",
    }

    def matches(self, model: nn.Module) -> bool:
        """Say whether `model` is a SwinTransformer (not V2, which has another attention)."""
        from timm.models.swin_transformer import SwinTransformer

        return isinstance(model, SwinTransformer)

    def axes(self, model: Any) -> list[AxisSpec]:
        """Declare per block: MLP, heads, their dimensions, branches; per stage: the width."""
        specs = []
        for stage, layer in enumerate(model.layers):
            specs.append(_width(model, stage))
            for number in range(len(layer.blocks)):
                specs += block_axes(model, f"layers.{stage}.blocks.{number}")
        return specs

    def toy(self) -> tuple[nn.Module, Tensor]:
        """Return a two-stage Swin with shifted windows, for 16 x 16 images."""
        import torch
        from timm.models.swin_transformer import SwinTransformer

        sizes: Any = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 16}
        stages: Any = {"depths": (2, 2), "num_heads": (2, 4), "num_classes": 10}
        return SwinTransformer(**sizes, **stages), torch.randn(2, 3, 16, 16)

    def role(self, parameter: str) -> str:
        """Name the paper's modules: qkv, proj and mlp; all else is aux."""
        return block_role(parameter)

    def unfollowed(self, model: nn.Module) -> list[str]:
        """The graph takes the bias tables for channels; they belong to the heads."""
        return [name for name, _ in model.named_parameters() if name.endswith("_bias_table")]

    def blocks(self, model: Any) -> list[str]:
        """Name the blocks of all stages, and what narrows the image between them."""
        return stage_blocks(model, "layers")

    def fixup(self, model: Any, left: Mapping[str, int]) -> None:
        """Reset head counts and scales, and everything timm derives from the widths."""
        for stage, layer in enumerate(model.layers):
            for number, block in enumerate(layer.blocks):
                _fix_block(block, f"layers.{stage}.blocks.{number}.attn", left)
            if f"layers.{stage}.width" in left:
                _fix_width(model, stage, left[f"layers.{stage}.width"])


def block_axes(model: nn.Module, block: str) -> list[AxisSpec]:
    """Declare MLP channels, heads, head dimensions and branches of one block, wherever it is."""
    from timm.layers.mlp import Mlp
    from timm.models.swin_transformer import WindowAttention

    specs: list[AxisSpec] = []
    if not is_gone(model, f"{block}.mlp"):
        module(model, f"{block}.mlp", Mlp)
        specs.append(AxisSpec(f"{block}.mlp", "mlp", layer=f"{block}.mlp.fc2", side="in"))
        specs.append(_branch(model, block, "mlp", "fc2", 2))
    if not is_gone(model, f"{block}.attn"):
        attn: Any = module(model, f"{block}.attn", WindowAttention)
        table = Tie(f"{block}.attn.relative_position_bias_table", 1, Fold((attn.num_heads,)))
        specs += attention_axes(attn, f"{block}.attn", head_ties=(table,))
        specs.append(_branch(model, block, "attn", "proj", 1))
    return specs


def _branch(model: nn.Module, block: str, core: str, last: str, number: int) -> AxisSpec:
    """Declare attention, the first branch of a block, or the MLP, which is the second."""
    modules = [f"{block}.{name}" for name in (f"norm{number}", core, f"drop_path{number}")]
    core = f"{block}.{core}"
    return branch_axis(model, f"{core}.{BLOCK}", modules, core=core, last=f"{core}.{last}")


def _fix_block(block: Any, attention: str, left: Mapping[str, int]) -> None:
    fix_attention(block.attn, attention, left)
    if left.get(f"{attention}.{BLOCK}") == 0:
        from .without_attention import WithoutAttention

        block.__class__ = WithoutAttention
        block.attn_mask = None


def _width(model: Any, stage: int) -> AxisSpec:
    """Declare the residual width of a stage, through to the merging that ends it."""
    name = f"layers.{stage}.width"
    layer = "patch_embed.proj" if stage == 0 else f"layers.{stage}.downsample.reduction"
    left = tuple(constants(model, f"layers.{stage}"))
    if stage == len(model.layers) - 1:
        return AxisSpec(name, "width", layer=layer, ties=left)
    # Merging folds 2x2 neighbours into channels, so each channel has four homes, of which
    # the graph finds one.
    merge = f"layers.{stage + 1}.downsample"
    merging = model.layers[stage + 1].downsample
    homes = Fold((4, merging.dim), along=(1,))
    affine = [f"{merge}.norm.{parameter}" for parameter, _ in merging.norm.named_parameters()]
    ties = (Tie(f"{merge}.reduction.weight", 1, homes), *(Tie(p, 0, homes) for p in affine), *left)
    return AxisSpec(name, "width", layer=layer, ties=ties)


def _fix_width(model: Any, stage: int, width: int) -> None:
    layer = model.layers[stage]
    for block in layer.blocks:
        block.dim = width
        if hasattr(block.attn, "dim"):
            block.attn.dim = width
    model.feature_info[stage]["num_chs"] = width
    if stage == 0:
        model.embed_dim = layer.dim = model.patch_embed.embed_dim = width
    else:
        layer.downsample.out_dim = width
    if stage + 1 < len(model.layers):
        following = model.layers[stage + 1]
        following.dim = following.downsample.dim = width
    else:
        model.num_features = model.head_hidden_size = width
        model.head.in_features = model.head.num_features = width


swin = register(Swin())
