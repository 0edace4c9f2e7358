"""What may be wrong with pruning whole branches, which are alone on their axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..axis import Axis
from ..errors import BudgetError, CriterionError


def check_compete(axes: Sequence[Axis], scope: str) -> None:
    """Refuse a scope in which branches compete with nothing.

    Raises:
        BudgetError: Slices compete within their axis.
    """
    if scope == "axis" and any(axis.spec.branch for axis in axes):
        raise BudgetError(
            "Slices compete within their axis here (scope axis), where a residual branch is alone; "
            "pass scope 'kind' or 'model', or leave the axes of kind 'block' out."
        )


def check_told_apart(axes: Sequence[Axis], scores: Sequence[Tensor], criterion: str) -> None:
    """Refuse scores that say nothing of which branch should leave.

    Raises:
        CriterionError: All branches have the same.
    """
    found = [float(score) for axis, score in zip(axes, scores, strict=True) if axis.spec.branch]
    if len(found) > 1 and len(set(found)) == 1:
        raise CriterionError(
            f"Criterion {criterion!r} scores all {len(found)} residual branches the same, so it "
            "cannot choose among them; choose another, such as 'influence', or leave the axes of "
            "kind 'block' out."
        )
