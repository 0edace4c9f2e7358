"""torch-pruning's own pruner on timm models, fixed up by hand as its users must.

What is done follows torch-pruning's examples (examples/transformers/prune_timm_vit.py and
prune_hf_swin.py) and Isomorphic-Pruning's prune.py. What those leave broken on current timm is
mended as a careful user would: timm's `attn_dim`, and the columns of Swin's bias tables.
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch_pruning as tp
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn
from torch.nn import functional as F

from prunekit.inputs.data import Images, batches
from prunekit.measuring.counting import stats

IMPORTANCES: dict[str, Callable[[], Any]] = {
    "random": tp.importance.RandomImportance,
    "magnitude": tp.importance.GroupMagnitudeImportance,
    "magnitude:p=1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "lamp": tp.importance.LAMPImportance,
    "fpgm": tp.importance.FPGMImportance,
    "taylor": tp.importance.GroupTaylorImportance,
    "hessian": tp.importance.GroupHessianImportance,
    "activation": tp.importance.ActivationImportance,
}
INFORMED = ("taylor", "hessian", "activation")
SCHEMES = {
    "local": {},
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}
NARROW, WIDE = "mlp+head", "mlp+head_dim+width"
CALIBRATION = 512
BATCH = 64
ROUND_TO = 2  # as in its examples
TRIES, MORE_TRIES = 10, 6  # with one ratio for channels and heads, then with two
CLOSE = 0.005  # of the MACs; what is further off has missed the budget
NEAR = 0.003  # of the MACs; near enough to stop searching
SAME = 0.002  # ratios so near to each other remove the same channels, all but a few


@dataclass(frozen=True)
class Choice:
    """One way to use torch-pruning.

    Attributes:
        importance: A key of IMPORTANCES.
        scheme: A key of SCHEMES.
        axes: NARROW, what prunekit shrinks by default, or WIDE, what the examples shrink.
        fix_up: A key of FIX_UPS: what is done by hand afterwards.
    """

    importance: str
    scheme: str
    axes: str
    fix_up: str = "mended"


@dataclass(frozen=True)
class Informed:
    """A model and an importance that has seen what it needs to see of it.

    Attributes:
        model: The original, never pruned; holds gradients for those that need them.
        macs: What one image costs.
        seconds: What the statistics took.
    """

    model: nn.Module
    importance: Any
    macs: int
    seconds: float

    def fresh(self) -> tuple[nn.Module, Any]:
        """Return copies of both that belong together."""
        # In one go, since an importance may hold dictionaries by parameter.
        model, importance = copy.deepcopy((self.model, self.importance))
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        for old, new in pairs:  # a copied parameter comes without its gradient
            new.grad = None if old.grad is None else old.grad.clone()
        return model, importance


@dataclass(frozen=True)
class Removal:
    """The positions that left one side of one module, or one dimension of a bare parameter."""

    name: str
    side: str  # "in", "out", or "dim N"
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Pruned:
    """What one call made.

    Attributes:
        macs: The fraction of all MACs that is gone, as prunekit counts them.
        seconds: What the call took; counting and comparing are not in it.
        difference: From the masked model's output, as a fraction of its scale.
    """

    model: nn.Module
    removals: tuple[Removal, ...]
    macs: float
    seconds: float
    difference: float = float("nan")


@dataclass(frozen=True)
class Found:
    """What the search for a pruning ratio came to.

    Attributes:
        ratios: The pruning ratios, of channels and heads, whose MACs are nearest to the target.
        best: What they made; None if every try failed.
        problems: What went wrong, by pruning ratio of channels.
    """

    ratios: tuple[float, float]
    best: Pruned | None
    tries: int
    seconds: float
    problems: dict[float, str] = field(default_factory=dict)


class BrokenError(Exception):
    """torch-pruning raised, or what it left does not run."""


# --- statistics ------------------------------------------------------------------------


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


# --- one call --------------------------------------------------------------------------


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
        removals += [_removal(pruner.DG, item, names) for item in group]
        group.prune()
    return tuple(one for one in removals if one is not None)


def ignored(model: nn.Module, axes: str) -> list[Any]:
    """List layers whose outputs may not be pruned, and parameters that may not."""
    tables = [p for name, p in model.named_parameters() if name.endswith("_bias_table")]
    if axes == WIDE:
        return [model.get_classifier(), *tables]
    layers = [part for part in model.named_modules() if isinstance(part[1], nn.Linear | nn.Conv2d)]
    return [part for name, part in layers if not name.endswith((".qkv", ".fc1"))] + tables


def attentions(model: nn.Module) -> list[Any]:
    return [part for part in model.modules() if hasattr(part, "qkv")]


class PatchMergingPruner(tp.BasePruningFunc):
    """Prunes timm's PatchMerging, as in torch-pruning's own example for Swin."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        tp.prune_linear_out_channels(layer.reduction, idxs)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        homes = four_homes(idxs, layer.dim)
        tp.prune_linear_in_channels(layer.reduction, homes)
        tp.prune_layernorm_out_channels(layer.norm, homes)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return layer.reduction.out_features

    def get_in_channels(self, layer: Any) -> int:
        return layer.dim


def four_homes(positions: Sequence[int], width: int) -> list[int]:
    """Return where channels land when 2x2 neighbours are folded into channels."""
    return [position + home * width for home in range(4) for position in positions]


def _removal(graph: Any, item: Any, names: dict[Any, str]) -> Removal | None:
    target = item.dep.target
    name = names.get(target.module)
    if name is None:  # reshapes, additions and the like
        return None
    if isinstance(target.module, nn.Parameter):
        return Removal(name, f"dim {target.pruning_dim}", tuple(item.idxs))
    # Norms and depthwise convolutions have one function for both sides.
    side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
    return Removal(name, side, tuple(item.idxs))


# --- what the user must do afterwards --------------------------------------------------


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


FIX_UPS: dict[str, Callable[[Any, Sequence[Removal]], None]] = {
    "nothing": lambda pruner, removals: None,
    "documented": _as_documented_,
    "mended": _mended_,
    "folded": _folded_,
}


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


# --- is it the masked model? -----------------------------------------------------------


def masked(model: nn.Module, removals: Sequence[Removal]) -> nn.Module:
    """Return a copy of full size with what was removed silenced.

    Norms average over what is left, so that a narrower model can be compared too.
    """
    model = copy.deepcopy(model).eval()
    for one in removals:
        gone = list(one.positions)
        if one.side.startswith("dim"):
            model.get_parameter(one.name).data.index_fill_(
                int(one.side.split()[1]), torch.tensor(gone), 0.0
            )
            continue
        part: Any = model.get_submodule(one.name)
        if isinstance(part, PatchMerging):
            if one.side == "out":
                _silence_(part.reduction, "out", gone)
            else:
                _silence_(part.norm, "out", four_homes(gone, part.dim))
        else:
            _silence_(part, one.side, gone)
    return model


def _silence_(layer: Any, side: str, gone: list[int]) -> None:
    if isinstance(layer, nn.LayerNorm):
        _leave_out_(layer, gone)
    elif side == "out" or getattr(layer, "groups", 1) > 1:
        for parameter in layer.parameters(recurse=False):
            parameter.data[gone] = 0
    else:
        layer.weight.data[:, gone] = 0


def _leave_out_(norm: nn.LayerNorm, gone: list[int]) -> None:
    """Make a norm average over all but some channels, and give zeros for those."""
    left = sorted(set(range(norm.normalized_shape[0])) - set(gone))
    first = "2d" in type(norm).__name__  # timm's LayerNorm2d has its channels first

    def forward(x: Tensor) -> Tensor:
        x = x.movedim(1, -1) if first else x
        y = torch.zeros_like(x)
        weight, bias = norm.weight[left], norm.bias[left]
        y[..., left] = F.layer_norm(x[..., left], (len(left),), weight, bias, norm.eps)
        return y.movedim(-1, 1) if first else y

    norm.forward = forward


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


# --- the ratio that removes so many MACs -----------------------------------------------


def search(
    informed: Informed, choice: Choice, target: float, example: Tensor, seed: int = 0
) -> Found:
    """Look for the pruning ratio that removes `target` of the MACs.

    One ratio serves channels and heads. Since few heads make for large steps, that may miss; then
    the heads keep the ratio that came nearest, and another is sought for the channels.
    """

    def attempt(ratio: float, heads: float) -> Pruned:
        return _counted(informed, choice, (ratio, heads), example, seed)

    start = time.perf_counter()
    found = _bisect(lambda ratio: attempt(ratio, ratio), target, TRIES)
    heads = found.ratios[1]
    if choice.axes == NARROW and found.best and abs(found.best.macs - target) > CLOSE:
        more = _bisect(lambda ratio: attempt(ratio, heads), target, MORE_TRIES)
        better = more.best and abs(more.best.macs - target) < abs(found.best.macs - target)
        nearest = replace(more, ratios=(more.ratios[0], heads)) if better else found
        problems, tries = found.problems | more.problems, found.tries + more.tries
        found = replace(nearest, problems=problems, tries=tries)
    found = replace(found, seconds=time.perf_counter() - start)
    if found.best is None:
        return found
    return replace(found, best=_compared(informed, found.best, example))


def _bisect(attempt: Callable[[float], Pruned], target: float, tries: int) -> Found:
    """Close in on the target, by interpolation and bisection in turn.

    A ratio that breaks counts as too large.
    """
    low, high, best, problems = (0.0, 0.0), (1.0, 1.0), None, {}  # ratios and their MACs
    for tried in range(1, tries + 1):
        share = (target - low[1]) / (high[1] - low[1]) if tried % 2 else 0.5
        ratio = low[0] + share * (high[0] - low[0])
        try:
            made = attempt(ratio)
        except BrokenError as error:
            problems[ratio] = str(error)
            high = ratio, high[1]
            continue
        if best is None or abs(made.macs - target) < abs(best[1].macs - target):
            best = ratio, made
        if abs(made.macs - target) <= NEAR or high[0] - low[0] < SAME:
            break
        if made.macs < target:
            low = ratio, max(made.macs, low[1])
        else:
            high = ratio, min(made.macs, high[1])
    ratio, made = best or (float("nan"), None)
    return Found((ratio, ratio), made, tried, 0.0, problems)
