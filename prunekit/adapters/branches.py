"""Residual branches: what an adapter declares so that they may leave whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..axis import AxisSpec, Fold, Tie
from ..branch import BLOCK, Branch

if TYPE_CHECKING:
    from torch import nn


def branch_axis(
    model: nn.Module,
    name: str,
    modules: Sequence[str],
    *,
    core: str,
    last: str,
    after: Sequence[str] | None = None,
    scale: str | None = None,
) -> AxisSpec:
    """Declare that a residual branch may leave whole.

    Args:
        model: What it is part of.
        name: The axis' name.
        modules: What runs for this branch alone, first to last; the stream has the same shape
            before the first and after the last.
        core: The one of them in whose place the constant stands; its input is of that shape too.
        last: The layer, in the core, of which only the bias is left once its weight is zero.
        after: Modules that run on what that layer returns; those after the core unless given.
        scale: A parameter that multiplies what the core returns, if it may be None.
    """
    own = dict(model.named_parameters())
    inside = [p for p in own if any(p.startswith(f"{module}.") for module in modules)]
    if after is None:
        after = modules[list(modules).index(core) + 1 :]
    later = tuple(f"{module}." for module in after)
    biases = [p for p in inside if p.startswith(later) and p.endswith("bias") and own[p].dim() == 1]
    constant = next((p for p in (f"{last}.bias", *biases) if p in own), None)
    folded = {p for p in inside if p.startswith(later)}
    if scale is not None:
        inside.append(scale)
        folded.add(scale)
    ties = []
    for parameter in inside:
        if parameter == constant or not own[parameter].dim():
            continue
        dim = 1 if parameter == f"{last}.weight" else 0
        whole = Fold((1, own[parameter].shape[dim]))
        ties.append(Tie(parameter, dim, whole, folds=parameter in folded))
    branch = Branch(tuple(modules), core, last, tuple(after), scale, constant)
    return AxisSpec(name, BLOCK, ties=tuple(ties), rounded=False, branch=branch)


def is_gone(model: nn.Module, core: str) -> bool:
    """Say whether a branch has left, by the module in whose place its constant stands."""
    from ..constant import Constant

    found: object = dict(model.named_modules()).get(core)
    return isinstance(found, Constant)


def constants(model: nn.Module, part: str) -> Iterator[Tie]:
    """Tie the constants of branches that have left to the width of the stream they add to.

    Args:
        model: What they are part of.
        part: The module that holds the branches.
    """
    from ..constant import Constant

    for name, module in model.get_submodule(part).named_modules():
        if isinstance(module, Constant) and module.bias is not None:
            yield Tie(f"{part}.{name}.bias", 0, Fold((len(module.bias),)))
