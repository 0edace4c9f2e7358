"""head_dims: the dimensions of heads, of which every head may lose others but equally many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..axis import AxisSpec, Places, Tie
from .words import HEAD, HEAD_DIM

QK, V = "qk", "v"


def head_dims(heads: Sequence[AxisSpec], found: Sequence[AxisSpec]) -> list[AxisSpec]:
    """Declare the dimensions of the heads that a model's modules own.

    Args:
        heads: Axes of a model whose heads may leave; others among them are passed over.
        found: Axes of the same model if heads stay. Those of kind `head` are what is inside heads:
            a slice is the same dimension of all of them.

    Returns:
        An axis `<module>.qk` for the products of queries and keys, and `<module>.v` for what the
        heads return, with a group per head. Counts agree where layers are shared, since these are
        reshaped to one size.
    """
    return [
        spec
        for owned in heads
        if owned.kind == HEAD and owned.owner
        for spec in _agreeing(owned, list(_inside(owned, found)))
    ]


def _inside(heads: AxisSpec, found: Sequence[AxisSpec]) -> Iterator[AxisSpec]:
    """Yield what is inside of some heads, one group of slices per head."""
    at = {(tie.parameter, tie.dim): _head_of(tie) for tie in heads.ties}
    number = heads.ties[0].fold.size
    for spec in found:
        if spec.kind != HEAD or not all((tie.parameter, tie.dim) in at for tie in spec.ties):
            continue
        ties = [_by_head(tie, at[tie.parameter, tie.dim], number) for tie in spec.ties]
        if all(ties):
            reads = any(tie.dim for tie in spec.ties)
            yield AxisSpec(
                f"{heads.owner}.{V if reads else QK}",
                HEAD_DIM,
                ties=tuple(tie for tie in ties if tie),
                owner=heads.owner if reads else None,
                groups=number,
                rounded=False,
            )


def _head_of(tie: Tie) -> Tensor:
    """Return the head that each position of a dimension belongs to, -1 if none does."""
    index = tie.fold.index()
    found = torch.full((int(index.max()) + 1,), -1)
    found[index] = torch.arange(len(index)).unsqueeze(1)
    return found


def _by_head(tie: Tie, head_of: Tensor, heads: int) -> Tie | None:
    """Part the slices of all heads by head; None if a head has not as much of them as another."""
    index = tie.fold.index()  # (dims, positions of all heads)
    if int(index.max()) >= len(head_of) or index.shape[1] % heads:
        return None
    owner = head_of[index]
    index = index.gather(1, owner.argsort(dim=1, stable=True))
    if not bool((owner.sort(dim=1).values == owner.sort(dim=1).values[:1]).all()):
        return None
    each = index.view(len(index), heads, -1)  # (dims, heads, positions)
    if not bool((head_of[each] == torch.arange(heads).view(1, -1, 1)).all()):
        return None
    rows = each.transpose(0, 1).flatten(0, 1).tolist()
    assert isinstance(tie.fold, Places), "axes that were found say every position"
    return replace(tie, fold=Places(tie.fold.length, tuple(map(tuple, rows))))


def _agreeing(heads: AxisSpec, specs: Sequence[AxisSpec]) -> list[AxisSpec]:
    """Let counts agree where both sorts are as long; leave out what can shrink only in part."""
    if len({spec.name for spec in specs}) < len(specs):
        return []  # several attentions in one module
    shrinking = _positions(tie for spec in specs for tie in spec.ties)
    whole = _positions(heads.ties)
    sizes = {spec.ties[0].fold.size for spec in specs}
    return [
        replace(spec, match=heads.owner if len(sizes) == 1 else None)
        for spec in specs
        if all(shrinking[t.parameter, t.dim] == whole[t.parameter, t.dim] for t in spec.ties)
    ]


def _positions(ties: Iterable[Tie]) -> dict[tuple[str, int], int]:
    """Count the positions of every dimension that some axes own."""
    found: dict[tuple[str, int], int] = {}
    for tie in ties:
        key = tie.parameter, tie.dim
        found[key] = found.get(key, 0) + tie.fold.index().numel()
    return found
