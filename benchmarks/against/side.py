"""torch-pruning's own pruner on timm models, fixed up by hand as its users must.

What is done follows torch-pruning's examples (examples/transformers/prune_timm_vit.py and
prune_hf_swin.py) and Isomorphic-Pruning's prune.py. What those leave broken on current timm is
mended as a careful user would: timm's `attn_dim`, and the columns of Swin's bias tables.
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch_pruning as tp
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn
from torch.nn import functional as F

from prunekit.inputs.data import Images, batches
from prunekit.measuring.counting import stats

from .fixups import _as_documented_, _folded_, _mended_, attentions
from .masking import masked
from .merging import PatchMergingPruner
from .pruned import (
    CALIBRATION,
    IMPORTANCES,
    INFORMED,
    NARROW,
    ROUND_TO,
    SCHEMES,
    WIDE,
    BrokenError,
    Choice,
    Informed,
    Pruned,
    Removal,
)

BATCH = 64


def inform(
    model: nn.Module, name: str, images: Images | None, example: Tensor, seed: int = 0
) -> Informed:
    """Show an importance the calibration images, as its docstring and examples do.

    Args:
        model: Copied, not modified.
        name: A key of IMPORTANCES.
        images: Training images, of which some are drawn; None if the importance needs none.
        example: One image.
        seed: Of the draw.
    """
    model, importance = copy.deepcopy(model).eval(), IMPORTANCES[name]()
    start = time.perf_counter()
    if name in INFORMED:
        # The Hessian wants a gradient per sample, so it gets the same images one by one.
        size = 1 if name == "hessian" else BATCH
        drawn = batches(images, size, limit=CALIBRATION, seed=seed)
        {"taylor": _backward, "hessian": _squares, "activation": _watch}[name](
            model, importance, drawn
        )
    seconds = time.perf_counter() - start
    return Informed(model, importance, stats(model, example).macs, seconds)


def _backward(model: nn.Module, importance: Any, drawn: Iterable) -> None:
    model.zero_grad()
    for x, y in drawn:
        F.cross_entropy(model(x), y).backward()


def _squares(model: nn.Module, importance: Any, drawn: Iterable) -> None:
    importance.zero_grad()
    for x, y in drawn:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        importance.accumulate_grad(model)


@torch.no_grad()
def _watch(model: nn.Module, importance: Any, drawn: Iterable) -> None:
    with importance.compute_importance(model):
        for x, _ in drawn:
            model(x)


def prune_once(
    informed: Informed, choice: Choice, ratio: float, example: Tensor, seed: int = 0
) -> Pruned:
    """Cut, count what is gone, and compare with the masked model.

    Args:
        informed: Left as it is.
        choice: What to prune, and by what.
        ratio: torch-pruning's own ratio, of channels; of heads too if those may go.
        example: One image.
        seed: Of the random importance.

    Raises:
        BrokenError: It cannot be done, or what is left does not run.
    """
    return _compared(informed, _counted(informed, choice, (ratio, ratio), example, seed), example)


def _counted(
    informed: Informed, choice: Choice, ratios: tuple[float, float], example: Tensor, seed: int
) -> Pruned:
    start = time.perf_counter()
    model, removals = cut(informed, choice, ratios, example, seed)
    seconds = time.perf_counter() - start
    _output(model, example)  # what does not run has no MACs either
    return Pruned(model, removals, 1 - stats(model, example).macs / informed.macs, seconds)


def _compared(informed: Informed, made: Pruned, example: Tensor) -> Pruned:
    expected = _output(masked(informed.model, made.removals), example)
    return replace(made, difference=_difference(_output(made.model, example), expected))


def cut(
    informed: Informed,
    choice: Choice,
    ratios: tuple[float, float],
    example: Tensor,
    seed: int = 0,
) -> tuple[nn.Module, tuple[Removal, ...]]:
    """Prune a fresh copy of the model, with a fresh pruner and fresh dictionaries.

    `ratios` are torch-pruning's own, of channels and of heads; the rest is as for `prune_once`.
    """
    model, importance = informed.fresh()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bare parameters that it guesses a dimension for
        torch.manual_seed(seed)
        try:
            pruner = _pruner(model, importance, choice, ratios, example)
            removals = _step_(pruner)
            FIX_UPS[choice.fix_up](pruner, removals)
        except Exception as error:  # of the library; that it fails is part of the answer
            raise BrokenError(f"pruning raises {type(error).__name__}: {error}") from error
    model.zero_grad()
    return model, removals


def _pruner(
    model: nn.Module, importance: Any, choice: Choice, ratios: tuple[float, float], x: Tensor
) -> Any:
    heads_go = choice.axes == NARROW
    return tp.pruner.BasePruner(
        model,
        x,
        importance=importance,
        pruning_ratio=ratios[0],
        ignored_layers=ignored(model, choice.axes),
        num_heads={part.qkv: part.num_heads for part in attentions(model)},
        prune_num_heads=heads_go,
        prune_head_dims=not heads_go,
        head_pruning_ratio=ratios[1] if heads_go else 0.0,
        customized_pruners={PatchMerging: PatchMergingPruner()},
        round_to=ROUND_TO,
        # Fresh ones, since its defaults are shared by all pruners, and written to.
        pruning_ratio_dict={},
        head_pruning_ratio_dict={},
        in_channel_groups={},
        out_channel_groups={},
        channel_groups={},
        **SCHEMES[choice.scheme],
    )


def _step_(pruner: Any) -> tuple[Removal, ...]:
    """Prune group by group, and write down what leaves."""
    names: dict[Any, str] = {module: name for name, module in pruner.model.named_modules()}
    names |= {parameter: name for name, parameter in pruner.model.named_parameters()}
    removals = []
    for group in pruner.step(interactive=True):
        removals += [removal_of(pruner.DG, item, names) for item in group]
        group.prune()
    return tuple(one for one in removals if one is not None)


def ignored(model: nn.Module, axes: str) -> list[Any]:
    """List layers whose outputs may not be pruned, and parameters that may not."""
    tables = [p for name, p in model.named_parameters() if name.endswith("_bias_table")]
    if axes == WIDE:
        return [model.get_classifier(), *tables]
    layers = [part for part in model.named_modules() if isinstance(part[1], nn.Linear | nn.Conv2d)]
    return [part for name, part in layers if not name.endswith((".qkv", ".fc1"))] + tables


def removal_of(graph: Any, item: Any, names: dict[Any, str]) -> Removal | None:
    target = item.dep.target
    name = names.get(target.module)
    if name is None:  # reshapes, additions and the like
        return None
    if isinstance(target.module, nn.Parameter):
        return Removal(name, f"dim {target.pruning_dim}", tuple(item.idxs))
    # Norms and depthwise convolutions have one function for both sides.
    side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
    return Removal(name, side, tuple(item.idxs))


FIX_UPS: dict[str, Callable[[Any, Sequence[Removal]], None]] = {
    "nothing": lambda pruner, removals: None,
    "documented": _as_documented_,
    "mended": _mended_,
    "folded": _folded_,
}


@torch.inference_mode()
def _output(model: nn.Module, example: Tensor) -> Tensor:
    try:
        found = model.eval()(example)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise BrokenError(f"forward raises {type(error).__name__}: {reason}") from error
    if found.dim() != 2 or not found.isfinite().all():
        raise BrokenError(f"the output is {tuple(found.shape)}, or not finite")
    return found


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        raise BrokenError(f"the output is {tuple(found.shape)}, not {tuple(expected.shape)}")
    return float((found - expected).abs().max() / expected.abs().max())
