"""What torch-pruning is asked for, and what comes of it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch_pruning as tp
from torch import nn

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
