"""Multi-head attention with fused queries, keys and values, as ViT and Swin share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..axis import AUX, AxisSpec, Fold, Tie
from ..errors import AdapterError


def attention_axes(
    attn: Any, name: str, *, head_dims: bool = True, head_ties: tuple[Tie, ...] = ()
) -> list[AxisSpec]:
    """Declare the heads, and unless forbidden the head dimensions, of a fused attention.

    Query·key pairs and value·projection pairs are separate axes with a group per head, so
    that each head may keep other positions; `match` makes the counts agree, since the
    reshape in the forward pass needs it.
    """
    if getattr(attn, "gate", None) is not None:
        raise AdapterError(
            f"{name} gates its output, which no adapter knows how to shrink; write an adapter for "
            "this variant (docs/own_adapter.md), and register it or pass it as adapter."
        )
    heads: int = attn.num_heads
    dim: int = attn.proj.in_features // heads
    specs = [
        AxisSpec(
            f"{name}.head",
            "head",
            layer=f"{name}.proj",
            side="in",
            fold=Fold((heads, dim)),
            ties=head_ties,
            owner=name,
            rounded=False,
        )
    ]
    if not head_dims:
        return specs
    fused = (3, heads, dim)
    rows = [f"{name}.qkv.{parameter}" for parameter, _ in attn.qkv.named_parameters()]
    qk = tuple(Tie(row, 0, Fold(fused, (1, 2), take=(0, 1))) for row in rows)
    v = tuple(Tie(row, 0, Fold(fused, (1, 2), take=(2,))) for row in rows)
    proj = Tie(f"{name}.proj.weight", 1, Fold((heads, dim), (0, 1)))
    return [
        *specs,
        AxisSpec(
            f"{name}.qk",
            "head_dim",
            ties=qk,
            groups=heads,
            match=name,
            rounded=False,
            product=True,
        ),
        AxisSpec(
            f"{name}.v",
            "head_dim",
            ties=(*v, proj),
            owner=name,
            groups=heads,
            match=name,
            rounded=False,
        ),
    ]


def fix_attention(attn: Any, name: str, left: Mapping[str, int]) -> None:
    """Reset the head count and sizes, and fold the new attention scale into the queries.

    Fused attention divides by the root of the *new* head dimension. Scaling the query rows
    by sqrt(new / old) and setting `scale` keeps the logits exactly what they were, in the
    fused and in the unfused path.
    """
    import torch

    from ..constant import Constant

    if isinstance(attn, Constant):
        return
    attn.num_heads = left.get(f"{name}.head", attn.num_heads)
    for cached, size in (
        ("head_dim", attn.proj.in_features // attn.num_heads),
        ("attn_dim", attn.proj.in_features),
    ):
        if hasattr(attn, cached):  # Swin's attention caches neither
            setattr(attn, cached, size)
    if f"{name}.qk" not in left:
        return
    new = left[f"{name}.qk"]
    queries = attn.qkv.out_features // 3
    ratio = new**-0.5 / attn.scale  # sqrt(old / new), whatever scale the model was given
    with torch.no_grad():
        for parameter in attn.qkv.parameters():
            parameter[:queries] /= ratio
    attn.scale = new**-0.5


def block_role(parameter: str) -> str:
    """Name the role of a transformer's weight matrix by the layer it belongs to."""
    parts = parameter.split(".")
    if "attn" in parts:
        return {"qkv": "qkv", "proj": "proj"}.get(parts[-2], AUX)
    return "mlp" if "mlp" in parts else AUX
