"""Peak: a cost that is the largest of several, such as memory over the moments of a pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from .budget import Term


@dataclass(frozen=True)
class Peak(Term):
    """A cost that is the largest of several sums.

    Attributes:
        sums: What they are made of, the largest first; `cost` is that one, `dims` are those of all.
    """

    sums: tuple[tuple[Term, ...], ...] = ()

    @classmethod
    def of(cls, moments: Iterable[tuple[Term, ...]]) -> Peak:
        """Return the peak of some moments; at least one."""
        largest_first = sorted(moments, key=_cost, reverse=True)
        dims = dict.fromkeys(dim for moment in largest_first for one in moment for dim in one.dims)
        return cls(_cost(largest_first[0]), tuple(dims), sums=tuple(largest_first))

    def saved(self, left: Iterable[float]) -> float:
        """Return by how much the largest sum falls where these fractions of dimensions are left."""
        there, most = dict(zip(self.dims, left, strict=True)), 0.0
        for whole, moment in zip(self._wholes, self.sums, strict=True):
            if whole <= most:
                break  # it was never as large as another still is, nor are those that follow
            saved = sum(term.saved(there[dim] for dim in term.dims) for term in moment)
            most = max(most, whole - saved)
        return self.cost - most

    @property
    def parts(self) -> tuple[Term, ...]:
        """The terms of all sums, since no single slice makes the largest of them smaller."""
        many = len(self.sums)
        return tuple(replace(term, cost=term.cost / many) for one in self.sums for term in one)

    @property
    def moments(self) -> tuple[tuple[Term, ...], ...]:
        """The sums."""
        return self.sums

    @cached_property
    def _wholes(self) -> tuple[float, ...]:
        return tuple(map(_cost, self.sums))


def _cost(moment: Iterable[Term]) -> float:
    return sum(term.cost for term in moment)
