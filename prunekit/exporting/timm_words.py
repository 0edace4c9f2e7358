"""Saying a pruned model in timm's own arguments, where that can be said."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ExportError
from ..naming import stage_of
from .source import Source

# Kind of axis to arguments of timm's classes that can say its size, a number or one a stage. Heads
# can leave where their dimension is told too; elsewhere it is the width's share.
WORDS: Mapping[str, tuple[str, ...]] = {"mlp": ("mlp_ratio", "mlp_ratios"), "head": ("head_dim",)}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Words:
    """What builds a model of a pruned one's shapes.

    Attributes:
        name: Of a factory of timm.
        args: What it is told.
    """

    name: str
    args: Mapping[str, Any]


def timm_words(source: Source) -> Words:
    """Say a pruned model in timm's arguments.

    Sizes are read off the small model; a factory that is told them must make a model of exactly
    its shapes.

    Raises:
        ExportError: It cannot be said; the message names the axis that is to blame.
    """
    model, architecture = source.model, source.architecture
    if architecture is None:
        raise ExportError(
            "The model was built by its caller, so that there is no telling how timm could build "
            "it; export it to onnx, torch-export or hub-folder."
        )
    if source.plain:
        raise ExportError(
            f"timm's {type(model).__name__} computes the weight of {source.plain[0]!r} when it "
            "runs, and that layer was made plain, so that timm would compute something else; "
            "export to onnx, torch-export or hub-folder instead."
        )
    told = dict(architecture.args)
    taken = set(inspect.signature(type(model).__init__).parameters)
    told.update({word: value for word, value in _sizes(model) if word in taken})
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    nearest: Shapes = {}
    for name in _factories(source):
        made = _built(name, told)
        if made is not None and made == wanted:
            return Words(name, told)
        nearest = nearest or made or {}
    raise ExportError(_to_blame(source, nearest, wanted, taken))


def _sizes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the sizes of a model's blocks, under every word that timm may have for them."""
    hidden: dict[str, list[tuple[int, int]]] = {}
    heads: dict[str, list[tuple[int, int]]] = {}
    for name, module in model.named_modules():
        first, last = getattr(module, "fc1", None), getattr(module, "fc2", None)
        if isinstance(first, nn.Linear | nn.Conv2d) and isinstance(last, nn.Linear | nn.Conv2d):
            hidden.setdefault(stage_of(name), []).append(
                (last.weight.shape[1], first.weight.shape[1])
            )
        count, joined = getattr(module, "num_heads", None), getattr(module, "proj", None)
        if isinstance(count, int) and isinstance(joined, nn.Linear):
            heads.setdefault(stage_of(name), []).append((count, joined.in_features // count))
    if hidden:
        ratios = [_ratio(sizes) for sizes in hidden.values()]
        for word in WORDS["mlp"]:
            yield word, ratios[0] if len(ratios) == 1 else tuple(ratios)
    if heads:
        counts, dims = zip(*(sizes[0] for sizes in heads.values()), strict=True)
        yield "num_heads", counts[0] if len(counts) == 1 else counts
        if len(counts) > 1:  # of one stage, classes work out the dimension themselves
            yield "head_dim", dims[0] if len(set(dims)) == 1 else dims


def _ratio(sizes: Sequence[tuple[int, int]]) -> float:
    """Return a number that times the width gives the hidden size, once that is cut to whole."""
    hidden, width = sizes[0]
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _factories(source: Source) -> list[str]:
    """Name the factories of timm that may build it: its own, or for the zoo those of its class."""
    import timm

    assert source.architecture is not None
    if source.architecture.timm is not None:
        return [source.architecture.timm]
    module = type(source.model).__module__.rpartition(".")[2]
    return sorted(timm.list_models(module=module))


def _built(name: str, args: Mapping[str, Any]) -> Shapes | None:
    """Return the shapes of a model that timm builds, without memory; None if it does not."""
    import timm

    try:
        with torch.device("meta"):
            model = timm.create_model(name, **args)
    except Exception:  # timm's classes raise whatever their arguments lead to
        return None
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _to_blame(source: Source, nearest: Shapes, wanted: Shapes, taken: set[str]) -> str:
    """Say which axis timm has no words for."""
    plan, kinds = source.plan, source.kinds
    shrunk = [name for name, kept in plan.kept.items() if len(kept) < plan.sizes[name]]
    uneven = _uneven(source)
    sayable = [kind for kind, words in WORDS.items() if taken & set(words)]
    unsaid = [name for name in shrunk if kinds[name] not in sayable]
    other = next((key for key in wanted if nearest.get(key) != wanted[key]), "")
    class_name = type(source.model).__name__
    if unsaid:
        name, why = unsaid[0], f"has no argument for {kinds[unsaid[0]]}"
    elif uneven:
        name = uneven
        why = "has one size for all blocks of a stage, and these keep different ones"
    else:
        name = max(shrunk, key=lambda name: _shared(name, other), default="none")
        why = f"does not build {other} of shape {wanted.get(other)} whatever it is told"
        sayable = [kind for kind in sayable if kind != kinds.get(name)]
    advice = _advice([kind for kind in sayable if kind in kinds.values()])
    return (
        f"timm's {class_name} cannot say what axis {name!r} keeps ({len(plan.kept.get(name, ()))} "
        f"of {plan.sizes.get(name, 0)}): it {why}; {advice}."
    )


def _advice(sayable: Sequence[str]) -> str:
    if not sayable:
        return "export to onnx, torch-export or hub-folder instead"
    return f"prune with --uniform --axes {','.join(sayable)}, or export to hub-folder"


def _uneven(source: Source) -> str:
    """Return an axis that keeps another share than one before it in the same stage, if any."""
    counts: dict[str, int] = {}
    for name in source.plan.kept:
        count = len(source.plan.kept[name])
        if counts.setdefault(stage_of(name), count) != count:
            return name
    return ""


def _shared(one: str, other: str) -> int:
    """Return how many parts two names have in common at their beginnings."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    count = 0
    for own, others in pairs:
        if own != others:
            break
        count += 1
    return count
