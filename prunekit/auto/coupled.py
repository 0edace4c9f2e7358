"""Coupled: which positions of which tensors can only leave together.

Every position of every dimension of every parameter and buffer has a number. Whoever looks at a
model's operations says which numbers go together, and which must stay; here they are sorted into
components.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

STAYS = 0  # the number of all that must stay


@dataclass(frozen=True)
class Place:
    """One dimension of one tensor.

    Attributes:
        tensor: Its qualified name.
        dim: Which of its dimensions.
        start: The number of its first position.
        length: How many positions it has.
    """

    tensor: str
    dim: int
    start: int
    length: int


class Coupled:
    """Numbers of positions, and what is known of them so far."""

    def __init__(self, shapes: Mapping[str, torch.Size]):
        """Number the positions of tensors of these shapes."""
        self.places: dict[tuple[str, int], Place] = {}
        self.count = STAYS + 1
        for name, shape in shapes.items():
            for dim, length in enumerate(shape):
                self.places[name, dim] = Place(name, dim, self.count, length)
                self.count += length
        self._edges: list[np.ndarray] = []
        self._added: list[np.ndarray] = []
        self._attended: list[np.ndarray] = []

    def numbers(self, name: str, dim: int) -> Tensor:
        """Return the numbers of a dimension's positions, (length,)."""
        place = self.places[name, dim]
        return torch.arange(place.start, place.start + place.length)

    def made(self, length: int) -> Tensor:
        """Return new numbers, (length,), of what is repeated and so may be repeated less often."""
        self.count += length
        return torch.arange(self.count - length, self.count)

    def owners(self, numbers: Tensor) -> list[Place] | None:
        """Return the dimensions that numbers are all of; None if they are parts of some.

        Args:
            numbers: Distinct, (n,).
        """
        starts = np.array([place.start for place in self.places.values()])
        places = list(self.places.values())
        found: dict[int, int] = {}
        for at in np.searchsorted(starts, numbers.numpy(), side="right") - 1:
            found[int(at)] = found.get(int(at), 0) + 1
        whole = all(at >= 0 and count == places[at].length for at, count in found.items())
        return [places[at] for at in found] if whole else None

    def couple(self, one: Tensor, other: Tensor, *, added: bool = False) -> None:
        """Note that positions leave together, number by number.

        Args:
            one: Numbers.
            other: Numbers of the same shape, or of one that is broadcast to it.
            added: Values of different origin are added up here, as on a residual stream.
        """
        pairs = _distinct(one, other)
        self._edges.append(pairs)
        if added:
            self._added.append(pairs[0])

    def keep(self, *numbers: Tensor) -> None:
        """Note that positions must stay."""
        for each in numbers:
            own = np.unique(_squeezed(each).numpy())
            self._edges.append(np.stack([own, np.full_like(own, STAYS)]))

    def attended(self, numbers: Tensor) -> None:
        """Note that matrices are multiplied for each of these positions, as for heads."""
        self._attended.append(numbers.numpy())

    def components(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return every number's component; which are added up somewhere; and which attend."""
        edges = np.concatenate([np.zeros((2, 1), np.int64), *self._edges], 1)
        ones = np.ones(edges.shape[1], np.int8)
        graph = coo_array((ones, (edges[0], edges[1])), shape=(self.count, self.count))
        number, found = connected_components(graph, directed=False)
        added, attend = np.zeros((2, number), bool)
        for which, noted in ((added, self._added), (attend, self._attended)):
            for some in noted:
                which[found[some]] = True
        return found, added, attend


def varying(numbers: Tensor) -> tuple[int, ...]:
    """Return the dimensions that numbers vary along."""
    return tuple(
        dim
        for dim, (size, stride) in enumerate(zip(numbers.shape, numbers.stride(), strict=True))
        if size > 1 and stride
    )


def compressed(numbers: Tensor) -> Tensor:
    """Return equal numbers that are stored once along each dimension where they are the same."""
    for dim in varying(numbers):
        first = numbers.narrow(dim, 0, 1)
        if bool((numbers == first).all()):
            numbers = first.expand(numbers.shape)
    return numbers


def along(numbers: Tensor, dim: int, shape: Iterable[int]) -> Tensor:
    """Lay numbers, (length,), along one dimension of a shape."""
    shape = tuple(shape)
    lying = [1] * len(shape)
    lying[dim] = len(numbers)
    return numbers.view(lying).expand(shape)


def line(layer: Tensor, dim: int) -> Tensor:
    """Return the numbers of a layer that varies along one dimension, (length,)."""
    for other in range(layer.dim()):
        if other != dim:
            layer = layer.narrow(other, 0, 1)
    return layer.reshape(-1)


def _squeezed(numbers: Tensor) -> Tensor:
    """Return each number that is stored, once."""
    for dim, (size, stride) in enumerate(zip(numbers.shape, numbers.stride(), strict=True)):
        if size > 1 and not stride:
            numbers = numbers.narrow(dim, 0, 1)
    return numbers.reshape(-1)


def _distinct(one: Tensor, other: Tensor) -> np.ndarray:
    one, other = torch.broadcast_tensors(one, other)  # type: ignore[no-untyped-call]
    for dim in range(one.dim()):
        if one.shape[dim] > 1 and not one.stride(dim) and not other.stride(dim):
            one, other = one.narrow(dim, 0, 1), other.narrow(dim, 0, 1)
    pairs = torch.stack([one.reshape(-1), other.reshape(-1)])
    distinct: Tensor = pairs if one.dim() == 1 else pairs.unique(dim=1)  # type: ignore[no-untyped-call]
    return distinct.numpy()
