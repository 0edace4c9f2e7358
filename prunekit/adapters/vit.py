"""timm's VisionTransformer: ViT, DeiT, DeiT-III, DINOv2 and their kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..axis import AxisSpec, Fold, Tie
from ..branch import BLOCK
from .attention import attention_axes, block_role, fix_attention
from .base import Adapter, module, register
from .branches import branch_axis, constants, is_gone

if TYPE_CHECKING:
    from torch import Tensor, nn


class ViT(Adapter):
    """Plain transformers: one width throughout, class and register tokens or none."""

    name = "vit"
    kinds = ("mlp", "head", "head_dim", "width", BLOCK)
    default_kinds = ("mlp", "head")
    aliases: ClassVar[Mapping[str, str]] = {
        "vit_ti": "vit_tiny_patch16_224",
        "vit_s": "vit_small_patch16_224",
        "vit_b": "vit_base_patch16_224",
        "vit_l": "vit_large_patch16_224",
        "deit_t": "deit_tiny_patch16_224",
        "deit_s": "deit_small_patch16_224",
        "deit_b": "deit_base_patch16_224",
    }

    def matches(self, model: nn.Module) -> bool:
        """Say whether `model` is a VisionTransformer or a subclass of it."""
        from timm.models.vision_transformer import VisionTransformer

        return isinstance(model, VisionTransformer)

    def axes(self, model: Any) -> list[AxisSpec]:
        """Declare per block: MLP channels, heads, head dimensions, branches; once: the width."""
        specs = []
        if model.attn_pool is None:  # its latent query and its own heads would have to follow
            ties = (*_tokens(model), *constants(model, "blocks"))
            specs.append(AxisSpec("width", "width", "patch_embed.proj", ties=ties))
        for number in range(len(model.blocks)):
            specs += block_axes(model, f"blocks.{number}")
        return specs

    def toy(self) -> tuple[nn.Module, Tensor]:
        """Return a two-block ViT with class token, for 16 x 16 images."""
        import torch
        from timm.models.vision_transformer import VisionTransformer

        sizes: Any = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
        return VisionTransformer(**sizes, num_classes=10), torch.randn(2, 3, 16, 16)

    def role(self, parameter: str) -> str:
        """Name the paper's modules: qkv, proj and mlp; all else is aux."""
        return block_role(parameter)

    def unfollowed(self, model: nn.Module) -> list[str]:
        """Query and key norms span one head; the graph would couple them to the heads."""
        return [name for name, _ in model.named_modules() if name.endswith((".q_norm", ".k_norm"))]

    def blocks(self, model: Any) -> list[str]:
        """Name the transformer blocks."""
        return [f"blocks.{number}" for number in range(len(model.blocks))]

    def fixup(self, model: Any, left: Mapping[str, int]) -> None:
        """Reset head counts and sizes, and everything timm derives from the width."""
        for number, block in enumerate(model.blocks):
            fix_attention(block.attn, f"blocks.{number}.attn", left)
        if "width" in left:
            width = left["width"]
            model.num_features = model.head_hidden_size = model.embed_dim = width
            model.patch_embed.embed_dim = width
            for info in model.feature_info:
                info["num_chs"] = width


def block_axes(model: nn.Module, block: str) -> list[AxisSpec]:
    """Declare MLP channels, heads, head dimensions and branches of one block, wherever it is."""
    from timm.models.vision_transformer import Block, ResPostBlock

    module(model, block, Block, ResPostBlock)
    return [*_mlp_axes(model, block), *_attention_axes(model, block)]


def _mlp_axes(model: nn.Module, block: str) -> list[AxisSpec]:
    from timm.layers.mlp import GluMlp, Mlp, SwiGLU

    if is_gone(model, f"{block}.mlp"):
        return []
    mlp: Any = module(model, f"{block}.mlp", Mlp, GluMlp, SwiGLU)
    hidden = mlp.fc2.in_features
    # A gated MLP with one input layer holds the gates and the values one after the other.
    packed = [name for name, p in mlp.fc1.named_parameters()] if isinstance(mlp, GluMlp) else []
    channels = AxisSpec(
        f"{block}.mlp",
        "mlp",
        layer=f"{block}.mlp.fc2",
        side="in",
        ties=tuple(Tie(f"{block}.mlp.fc1.{n}", 0, Fold((2, hidden), (1,))) for n in packed),
    )
    return [channels, _branch(model, block, "mlp", "fc2", 2)]


def _attention_axes(model: nn.Module, block: str) -> list[AxisSpec]:
    from timm.layers.attention import Attention
    from torch.nn import Identity

    if is_gone(model, f"{block}.attn"):
        return []
    attn: Any = module(model, f"{block}.attn", Attention)
    module(model, f"{block}.attn.norm", Identity)
    shared_norm = not isinstance(attn.q_norm, Identity) or not isinstance(attn.k_norm, Identity)
    specs = attention_axes(attn, f"{block}.attn", head_dims=not shared_norm)
    return [*specs, _branch(model, block, "attn", "proj", 1)]


def _branch(model: nn.Module, block: str, core: str, last: str, number: int) -> AxisSpec:
    """Declare attention, the first branch of a block, or the MLP, which is the second."""
    from timm.models.vision_transformer import ResPostBlock

    own = [f"norm{number}", core, f"ls{number}", f"drop_path{number}"]
    if isinstance(model.get_submodule(block), ResPostBlock):  # it normalises what the core returns
        own = [core, f"norm{number}", f"drop_path{number}"]
    modules = [f"{block}.{name}" for name in own]
    core = f"{block}.{core}"
    return branch_axis(model, f"{core}.{BLOCK}", modules, core=core, last=f"{core}.{last}")


def _tokens(model: nn.Module) -> tuple[Tie, ...]:
    """Tie the tokens and position embeddings, which are bare parameters, to the width."""
    names = ("cls_token", "dist_token", "reg_token", "pos_embed")
    found = [name for name in names if getattr(model, name, None) is not None]
    return tuple(Tie(name, 2, Fold((getattr(model, name).shape[2],))) for name in found)


vit = register(ViT())
