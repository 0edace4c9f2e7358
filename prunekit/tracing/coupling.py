"""coupled: torch-pruning's walk from one dimension to all that are coupled with it.

The steps of the walk are torch-pruning's own. It carries positions as lists of pairs, which takes
longer than all else that pruning does; here they are tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions on one dimension, and the channels of the first layer that they are coupled with.

    Attributes:
        here: Of the dimension, (n,) int64.
        root: Of the dimension where the walk began, (n,) int64.
    """

    here: Tensor
    root: Tensor

    def same(self, other: Positions) -> bool:
        """Say whether both are equal, in the same order."""
        return torch.equal(self.here, other.here) and torch.equal(self.root, other.root)

    def __getitem__(self, which: Tensor) -> Positions:
        return Positions(self.here[which], self.root[which])

    def merged(self, other: Positions) -> Positions:
        """Join two, each position once; the first one counts."""
        here, root = torch.cat([self.here, other.here]), torch.cat([self.root, other.root])
        order = here.argsort(stable=True)
        new = here[order].diff(prepend=here.new_tensor([-1])) > 0
        return Positions(here[order][new], root[order][new])


@dataclass
class Coupling:
    """A dimension that is coupled with the first: what cuts it, where, and at which positions."""

    target: Any
    handler: Any
    positions: Positions


def coupled(node: Any, cut: Any, channels: int) -> list[Coupling]:
    """Return every dimension that is coupled with a layer's channels, that one first.

    Args:
        node: The layer's node in the graph.
        cut: torch-pruning's function that cuts the dimension.
        channels: The size of the dimension.
    """
    every = torch.arange(channels)
    stack = [Coupling(node, cut, Positions(every, every))]
    found: dict[tuple[Any, Any], list[Positions]] = {(node, cut): [stack[0].positions]}
    passed = set()
    while stack:
        at = stack.pop()
        passed.add(at.target)
        for step in at.target.dependencies:
            if not step.is_triggered_by(at.handler):
                continue
            positions = at.positions
            for mapping in step.index_mapping:
                if mapping is not None:
                    positions = _mapped(mapping, positions)
            if not len(positions.here):
                continue
            seen = found.setdefault((step.target, step.handler), [])
            if step.target not in passed or not any(map(positions.same, seen)):
                seen.append(positions)
                stack.append(Coupling(step.target, step.handler, positions))
    return [Coupling(*key, _all(each)) for key, each in found.items()]


def _all(found: list[Positions]) -> Positions:
    whole = found[0]
    for each in found[1:]:
        if not whole.same(each):
            whole = whole.merged(each)
    return whole


def _mapped(mapping: Any, positions: Positions) -> Positions:
    """Carry positions across a step, as one of torch-pruning's mappings says."""
    known = MAPPINGS.get(type(mapping).__name__)
    if known is not None:
        return known(mapping, positions)
    pairs = zip(positions.here.tolist(), positions.root.tolist(), strict=True)
    mapped = mapping([SimpleNamespace(idx=here, root_idx=root) for here, root in pairs])
    columns = [[pair.idx for pair in mapped], [pair.root_idx for pair in mapped]]
    return Positions(*(torch.tensor(column, dtype=torch.int64) for column in columns))


def _into(mapping: Any, positions: Positions) -> Positions:
    return Positions(positions.here + mapping.offset[0], positions.root)


def _out_of(mapping: Any, positions: Positions) -> Positions:
    start, end = mapping.offset[:2]
    inside = positions[(positions.here >= start) & (positions.here < end)]
    return Positions(inside.here - start, inside.root)


MAPPINGS: dict[str, Callable[[Any, Positions], Positions]] = {
    "_ConcatIndexMapping": lambda mapping, positions: (
        _out_of(mapping, positions) if mapping.reverse else _into(mapping, positions)
    ),
    "_SplitIndexMapping": lambda mapping, positions: (
        _into(mapping, positions) if mapping.reverse else _out_of(mapping, positions)
    ),
}
