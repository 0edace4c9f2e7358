"""Heads: which dimension may shrink where channels are split in several.

A model that attends splits its channels into heads and the dimensions of a head, multiplies
matrices head by head, and joins the heads again. That a dimension is one of heads shows only where
the matrices are multiplied; so a model is followed twice, and what the first pass finds tells the
second what to couple at every split. Where there are heads, a third pass lets all of them stay, and
their dimensions leave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from .coupled import Coupled, line, varying


class Heads:
    """What is known of the splits of one model's channels.

    Attributes:
        coupled: Is told what leaves together.
    """

    coupled: Coupled

    def __init__(self, known: Mapping[int, int] | None = None, *, inside: bool = False):
        """Begin a pass over a model.

        Args:
            known: The number of an operation that splits off heads, to their dimension. None: that
                is to be found out, and no split couples anything.
            inside: Whether it is the dimensions of a head that may leave, and no head.
        """
        self._known = known
        self._inside = inside
        self._numbers: set[int] = set()
        self._splits: list[tuple[int, tuple[int, ...], Tensor]] = []
        self._multiplied: list[np.ndarray] = []

    @property
    def sought(self) -> bool:
        """Whether heads are to be found out in this pass."""
        return self._known is None

    def split(self, shaped: Tensor, operation: int) -> Tensor:
        """Return numbers that were split, with those coupled that can only leave together.

        Args:
            shaped: What has several dimensions now, and had one.
            operation: Its number in the order of the forward pass.
        """
        dims = varying(shaped)
        if self._known is None:
            self._splits.append((operation, dims, shaped))
            return shaped
        if self._inside and operation in self._known:
            return self._opened(shaped, self._known[operation])
        shrinks = self._known.get(operation, dims[-1])
        for dim in dims:
            if dim != shrinks:
                first = shaped.narrow(dim, 0, 1)
                self.coupled.couple(first, shaped)
                shaped = first.expand(shaped.shape)
        if operation in self._known:
            self._numbers.update(line(shaped, shrinks).tolist())
        return shaped

    def _opened(self, shaped: Tensor, heads: int) -> Tensor:
        """Couple all heads, and leave their dimensions, and queries and keys, to themselves."""
        first = shaped.narrow(heads, 0, 1)
        self.coupled.couple(first, shaped)
        self.coupled.attended(first.reshape(-1))
        self._numbers.update(first.reshape(-1).tolist())
        return first.expand(shaped.shape)

    def inside(self, layer: Tensor) -> bool:
        """Say whether numbers are those of the dimensions of a head, in a pass that lets these go.

        Queries, keys and values may lie side by side, and each lose others.
        """
        return self._inside and int(layer[(0,) * layer.dim()]) in self._numbers

    def chosen(self, layers: list[Tensor]) -> list[Tensor]:
        """Return numbers of one value without those that say something else where heads are.

        Heads and their dimensions are joined to channels; either may leave, but not both.
        """
        heads = [layer for layer in layers if self._are(layer)]
        if self.sought or self._inside or not heads:
            return layers
        found = []
        for layer in layers:
            if any(layer is head for head in heads) or all(
                varying(layer) != varying(head) for head in heads
            ):
                found.append(layer)
            else:
                self.coupled.keep(layer)
        return found

    def _are(self, layer: Tensor) -> bool:
        dims = varying(layer)
        return len(dims) == 1 and int(line(layer, dims[0])[0]) in self._numbers

    def multiplied(self, layer: Tensor) -> bool:
        """Take note of numbers of matrices, (heads, n, m); return whether they may be heads."""
        if 0 not in varying(layer) or self._inside:
            return False
        if self.sought:
            self._multiplied.append(np.unique(line(layer, 0).numpy()))
            return True
        if varying(layer) == (0,):
            self.coupled.attended(line(layer, 0))
            return True
        return False

    def found(self) -> dict[int, int] | None:
        """Return which operations split off heads, and their dimension; None if nothing split."""
        if not self._splits:
            return None
        known = {}
        for operation, dims, shaped in self._splits:
            numbers = _along(shaped, dims)
            for heads in self._multiplied:
                changing = _changing(numbers, heads)
                if changing is not None:
                    known[operation] = dims[changing]
        return known


def _along(shaped: Tensor, dims: tuple[int, ...]) -> np.ndarray:
    """Return numbers without the dimensions along which they are the same."""
    for dim in range(shaped.dim()):
        if dim not in dims:
            shaped = shaped.narrow(dim, 0, 1)
    return np.asarray(shaped.reshape([shaped.shape[dim] for dim in dims]).numpy())


def _changing(numbers: np.ndarray, some: np.ndarray) -> int | None:
    """Return the one dimension of an array along which some of its numbers differ."""
    if not numbers.min() <= some[0] <= numbers.max():
        return None
    flat = numbers.ravel()
    order = np.argsort(flat, kind="stable")
    at = np.searchsorted(flat, some, sorter=order).clip(max=len(flat) - 1)
    if not np.array_equal(flat[order[at]], some):
        return None
    coordinates = np.unravel_index(order[at], numbers.shape)
    changing = [dim for dim, each in enumerate(coordinates) if len(np.unique(each)) > 1]
    return changing[0] if len(changing) == 1 else None
