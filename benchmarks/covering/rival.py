"""One architecture with torch-pruning's own pruner.

It is asked to prune the same share of every layer but the classifier, so that about 30 % of the
parameters leave. What it makes is held to the rules that prunekit is held to: it must run, be
smaller, and equal the model in which what left is silent.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning as tp
from against.masking import masked
from against.pruned import Removal
from against.side import removal_of
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunekit.cutting.hiding import lively
from prunekit.tracing.norms import is_norm

from .names import build

SHARE = 1 - 0.7**0.5  # of the channels on both sides of a layer
TOLERANCE = 1e-4  # of the output's scale


def tried(name: str) -> dict[str, Any]:
    """Build a model, prune it, and say what came of it."""
    model, shape = build(name)
    x = torch.randn(1, *shape)
    dense, small = (lively(model.eval(), x) for _ in range(2))
    found = {"class": type(model).__name__}
    try:
        removals = pruned_(small, x)
    except Exception as error:  # of the library; that it fails is part of the answer
        return {**found, "outcome": "raises", "why": said(error)}
    before, after = (sum(p.numel() for p in net.parameters()) for net in (dense, small))
    found["got"] = round(1 - after / before, 4)
    if after >= before:
        return {**found, "outcome": "not smaller", "why": "nothing left"}
    try:
        made = leaves(small, x)
    except Exception as error:
        return {**found, "outcome": "does not run", "why": said(error)}
    judge = unjudged(dense, removals)
    if judge:
        return {**found, "outcome": "not judged", "why": f"it runs, but cuts through {judge}"}
    try:
        expected = leaves(silent(dense, removals), x)
    except Exception as error:  # positions that the dense model does not have
        return {**found, "outcome": "wrong", "why": f"cannot be masked: {said(error)}"}
    apart, scale = difference(made, expected)
    fine = apart <= TOLERANCE * scale
    why = None if fine else f"differs from its masked self by {apart / scale:.1e} of the scale"
    return {**found, "outcome": "ok" if fine else "wrong", "why": why}


def pruned_(model: nn.Module, x: Tensor) -> list[Removal]:
    """Prune a model as torch-pruning's README does, and write down what left."""
    pruner: Any = tp.pruner.BasePruner(
        model,
        x,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=SHARE,
        ignored_layers=classifiers(model, x),
    )
    names: dict[Any, str] = {module: name for name, module in model.named_modules()}
    names |= {parameter: name for name, parameter in model.named_parameters()}
    left: dict[tuple[str, str], list[int]] = {}
    removals = []
    for group in pruner.step(interactive=True):
        found = [removal_of(pruner.DG, item, names) for item in group]
        group.prune()
        for one in found:
            if one is not None:
                removals.append(_of_the_dense(one, left))
    return removals


def _of_the_dense(one: Removal, left: dict[tuple[str, str], list[int]]) -> Removal:
    """Say which positions of the dense model those are, where some have left before."""
    before = left.setdefault((one.name, one.side), [])  # ascending
    gone = []
    for position in sorted(set(one.positions)):
        for other in before:
            position += other <= position
        gone.append(position)
    left[one.name, one.side] = sorted(before + gone)
    return Removal(one.name, one.side, tuple(gone))


def unjudged(dense: nn.Module, removals: list[Removal]) -> str | None:
    """Return the type of a norm that lost channels and of which no masked self is known here."""
    for one in removals:
        layer = dense.get_submodule(one.name) if not one.side.startswith("dim") else None
        if layer is not None and is_norm(layer) and not isinstance(layer, nn.LayerNorm):
            return type(layer).__name__
    return None


def silent(dense: nn.Module, removals: list[Removal]) -> nn.Module:
    """Return a model of full size in which what left is silent."""
    parts = [(one, dense.get_submodule(one.name)) for one in removals if one.side == "in"]
    grouped = [
        (one, part) for one, part in parts if 1 < getattr(part, "groups", 1) < part.in_channels
    ]
    model = masked(dense, [one for one in removals if one not in [each for each, _ in grouped]])
    for one, _ in grouped:
        conv: Any = model.get_submodule(one.name)
        outs, ins = len(conv.weight) // conv.groups, conv.weight.shape[1]
        for channel in one.positions:
            rows = slice(channel // ins * outs, (channel // ins + 1) * outs)
            conv.weight.data[rows, channel % ins] = 0
    return model


def classifiers(model: nn.Module, x: Tensor) -> list[nn.Module]:
    """Return the layers whose outputs are the model's, by their number of channels."""
    sizes = {out.shape[1] for out in leaves(model, x)}
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [layer for layer in layers if len(layer.weight) in sizes and len(layer.weight) > 20]


@torch.inference_mode()
def leaves(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return all tensors that a model makes."""
    return [leaf for leaf in tree_leaves(model.eval()(x)) if isinstance(leaf, Tensor)]


def difference(made: list[Tensor], expected: list[Tensor]) -> tuple[float, float]:
    """Return how far outputs are apart at most, and their scale."""
    pairs = list(zip(made, expected, strict=True))
    apart = max(float((one - other).abs().max()) for one, other in pairs)
    return apart, max(float(other.abs().max()) for _, other in pairs)


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:160]
