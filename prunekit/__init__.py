"""prunekit: physically smaller vision backbones, by criteria that can be compared.

The public names, imported when first used, since torch and timm take seconds to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters.base import Adapter, register
    from .artifact import load
    from .axis import Axis, AxisSpec, Fold, Member, Tie
    from .comparison.compare import compare
    from .comparison.grid import Grid
    from .criteria.base import Criterion, criterion
    from .engine import prune
    from .errors import ParityError, PruneError
    from .exporting.export import export
    from .finetuning import finetune
    from .planning.plan import Plan
    from .recovery.recipes import Recipe
    from .repairs.base import Repair, repair
    from .repairs.given import Block, Layer, Norm
    from .result import Result
    from .sensing.measure import sensitivity
    from .weights.semistructured import to_semi_structured

_HOMES = {
    "Adapter": "adapters.base",
    "Axis": "axis",
    "AxisSpec": "axis",
    "Block": "repairs.given",
    "Criterion": "criteria.base",
    "Fold": "axis",
    "Grid": "comparison.grid",
    "Layer": "repairs.given",
    "Member": "axis",
    "Norm": "repairs.given",
    "Plan": "planning.plan",
    "ParityError": "errors",
    "PruneError": "errors",
    "Recipe": "recovery.recipes",
    "Repair": "repairs.base",
    "Result": "result",
    "Tie": "axis",
    "compare": "comparison.compare",
    "criterion": "criteria.base",
    "export": "exporting.export",
    "finetune": "finetuning",
    "load": "artifact",
    "prune": "engine",
    "register": "adapters.base",
    "repair": "repairs.base",
    "sensitivity": "sensing.measure",
    "to_semi_structured": "weights.semistructured",
}
__all__ = [
    "Adapter",
    "Axis",
    "AxisSpec",
    "Block",
    "Criterion",
    "Fold",
    "Grid",
    "Layer",
    "Member",
    "Norm",
    "ParityError",
    "Plan",
    "PruneError",
    "Recipe",
    "Repair",
    "Result",
    "Tie",
    "compare",
    "criterion",
    "export",
    "finetune",
    "load",
    "prune",
    "register",
    "repair",
    "sensitivity",
    "to_semi_structured",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
