"""Branches: the residual branches that a module is computed for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..axis import Axis
from ..naming import is_within
from ..planning.budget import Place


class Branches:
    """Says what is saved with a branch, beyond what the branch's own parameters cost."""

    def __init__(self, axes: Sequence[Axis]):
        self._found = [
            (axis.spec.branch, {(member.name, member.dim) for member in axis.members})
            for axis in axes
            if axis.spec.branch is not None
        ]

    def on(self, module: str, dims: Collection[Place] = ()) -> tuple[Place, ...]:
        """Return what else a module's cost depends on: a place in each branch it is computed for.

        Args:
            module: Its name.
            dims: What it is known to depend on.
        """
        return tuple(
            (f"{branch.last}.weight", 1)
            for branch, places in self._found
            if any(is_within(module, part) for part in branch.modules) and not places & set(dims)
        )
