"""Curve: how much of a cost is left, where it does not shrink in proportion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """What was measured of a cost while what it depends on shrank.

    Attributes:
        sizes: How much of that there was, as fractions, ascending up to 1.
        costs: Which fraction of the cost each of them had; never falling, and 1 at the end.
    """

    sizes: tuple[float, ...]
    costs: tuple[float, ...]

    @classmethod
    def fitted(cls, sizes: Sequence[float], costs: Sequence[float]) -> Curve:
        """Return the curve that never falls and is nearest to what was measured.

        Args:
            sizes: Fractions, in (0, 1]; 1 is among them.
            costs: What was measured at each, in any unit; positive.

        Source:
            Barlow et al., Statistical inference under order restrictions, 1972: isotonic
            regression by pooling adjacent violators.
        """
        from scipy.optimize import isotonic_regression

        places, which = np.unique(np.asarray(sizes, float), return_inverse=True)
        means = np.bincount(which, costs) / np.bincount(which)
        rising = isotonic_regression(means, weights=np.bincount(which)).x
        return cls(tuple(places.tolist()), tuple((rising / rising[-1]).tolist()))

    def __call__(self, size: float) -> float:
        """Return the fraction of the cost at a fraction of the size, between what was measured.

        What is not there costs nothing.
        """
        if size == 0:
            return 0.0
        return float(np.interp(size, self.sizes, self.costs))

    def after(self, size: float) -> Curve:
        """Return the curve of what is left once a fraction of the size is: 1 is what is there then.

        Args:
            size: The fraction, above 0.
        """
        there = self(size)
        points = [(1.0, 1.0)] + [
            (each / size, cost / there)
            for each, cost in zip(self.sizes, self.costs, strict=True)
            if each < size
        ]
        return Curve(*zip(*sorted(points), strict=True))

    @property
    def slope(self) -> float:
        """How fast the cost falls over all that was measured; 1 if in proportion to the size."""
        if self.sizes[0] == 1:
            return 0.0
        return (1 - self.costs[0]) / (1 - self.sizes[0])
