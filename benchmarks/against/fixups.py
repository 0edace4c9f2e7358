"""What users of torch-pruning put right by hand after it has cut."""

from collections.abc import Sequence
from typing import Any

from timm.models.swin_transformer import PatchMerging
from torch import nn

from .pruned import Removal


def attentions(model: nn.Module) -> list[Any]:
    return [part for part in model.modules() if hasattr(part, "qkv")]


def _as_documented_(pruner: Any, removals: Sequence[Removal]) -> None:
    """Do what the examples do: heads, head dimensions and scale of each attention."""
    for part in attentions(pruner.model):
        part.num_heads = pruner.num_heads[part.qkv]
        part.head_dim = part.qkv.out_features // (3 * part.num_heads)
        part.scale = part.head_dim**-0.5


def _mended_(pruner: Any, removals: Sequence[Removal]) -> None:
    """Set besides what else timm caches, and cut the bias tables, which had to be ignored."""
    for part, gone in _attentions_cut(pruner.model, removals):
        # Not by pruner.num_heads: it counts heads down even where the pruner then takes none,
        # as when all heads of a layer would go.
        kept = _heads_left(part, gone)
        if hasattr(part, "relative_position_bias_table"):
            table = part.relative_position_bias_table
            part.relative_position_bias_table = nn.Parameter(table.data[:, kept])
        part.num_heads = len(kept)
        part.attn_dim = part.qkv.out_features // 3
        part.head_dim = part.attn_dim // len(kept)
        part.scale = part.head_dim**-0.5
    for part in pruner.model.modules():
        if isinstance(part, PatchMerging):
            part.dim = part.norm.normalized_shape[0] // 4


def _folded_(pruner: Any, removals: Sequence[Removal]) -> None:
    """Keep the temperature of the softmax as well, which no example does."""
    sizes = [_head_dim(*pair) for pair in _attentions_cut(pruner.model, removals)]
    _mended_(pruner, removals)
    for part, before in zip(attentions(pruner.model), sizes, strict=True):
        queries = part.qkv.out_features // 3
        for parameter in part.qkv.parameters():
            parameter.data[:queries] *= (part.head_dim / before) ** 0.5


def _attentions_cut(model: nn.Module, removals: Sequence[Removal]) -> list[tuple[Any, set[int]]]:
    """Return every attention, and which outputs of its qkv layer are gone."""
    gone = {one.name: set(one.positions) for one in removals if one.side == "out"}
    found = [(name, part) for name, part in model.named_modules() if hasattr(part, "qkv")]
    return [(part, gone.get(f"{name}.qkv", set())) for name, part in found]


def _heads_left(attention: Any, gone: set[int]) -> list[int]:
    size = _head_dim(attention, gone)
    heads = [set(range(n * size, (n + 1) * size)) for n in range(attention.num_heads)]
    return [number for number, head in enumerate(heads) if not head <= gone]


def _head_dim(attention: Any, gone: set[int]) -> int:
    """Return the head dimension before the cut."""
    return (attention.qkv.out_features + len(gone)) // 3 // attention.num_heads
