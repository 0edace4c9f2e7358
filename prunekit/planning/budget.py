"""What to spend less of, and what it is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import BudgetError
from .curve import Curve

By = Literal["params", "macs", "slices", "latency", "memory"]
Place = tuple[str, int]  # a parameter, and one of its dimensions


BYS: tuple[By, ...] = ("params", "macs", "slices", "latency", "memory")


CLOSE_ENOUGH = 0.005  # of the budget: a result further from what was asked is remarked upon


@dataclass(frozen=True)
class Term:
    """A cost that shrinks with some parameter dimensions.

    Attributes:
        cost: What it costs in the original model.
        dims: The (parameter, dimension) pairs it depends on.
        curve: How, given the product of what is left of these; in proportion to it if None.
    """

    cost: float
    dims: tuple[Place, ...]
    curve: Curve | None = None

    def saved(self, left: Iterable[float]) -> float:
        """Return what is saved where these fractions of its dimensions are left."""
        size = math.prod(left)
        return self.cost * (1 - (size if self.curve is None else self.curve(size)))

    def saved_by_a_little(self, left: Iterable[float]) -> float:
        """Return the same for fractions near 1, at which no curve is exact."""
        slope = 1.0 if self.curve is None else self.curve.slope
        return self.cost * slope * (1 - math.prod(left))

    def after(self, left: Iterable[float]) -> Term:
        """Return the cost that is there once these fractions of its dimensions are left."""
        size = math.prod(left)
        if size == 0 or self.curve is None:
            return replace(self, cost=self.cost * size)
        return replace(self, cost=self.cost * self.curve(size), curve=self.curve.after(size))

    @property
    def parts(self) -> tuple[Term, ...]:
        """What single slices save of it, term by term."""
        return (self,)

    @property
    def moments(self) -> tuple[tuple[Term, ...], ...]:
        """The sums of which it is the largest; one unless it is a `Peak`."""
        return ((self,),)


@dataclass(frozen=True)
class Cost:
    """What a model costs in whatever a budget counts.

    Attributes:
        total: What the dense model costs.
        terms: What can shrink of the model that is cut.
        gone: How much less that one costs than the dense one, before anything is cut: parameters
            that layers computed their weight from.
    """

    total: float
    terms: tuple[Term, ...] = ()
    gone: float = 0.0


@dataclass(frozen=True)
class Budget:
    """What to spend less of.

    Attributes:
        ratio: The fraction of `total` to remove, in (0, 1).
        by: What is counted: `params`, `macs`, `slices`, `latency` in nanoseconds, or `memory` in
            bytes.
        total: What the whole original model costs.
        terms: The part of it that can shrink; the rest is fixed. Unused for slices.
        gone: What of it has left already, see `Cost`.
    """

    ratio: float
    by: By
    total: float
    terms: tuple[Term, ...] = ()
    gone: float = 0.0

    @classmethod
    def of(cls, cost: Cost, ratio: float, by: By) -> Budget:
        """Return the budget that removes a fraction of a cost."""
        return cls(ratio, by, cost.total, cost.terms, cost.gone)

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise BudgetError(
                f"The ratio is {self.ratio}; expected the fraction to remove, between 0 and 1 "
                "(both excluded)."
            )

    @property
    def target(self) -> float:
        """What may be left of it."""
        return (1 - self.ratio) * self.total

    @property
    def fixed(self) -> float:
        """What would be left of a peak if all that can shrink were gone."""
        moments = (moment for term in self.terms for moment in term.moments)
        return max(sum(term.cost for term in moment if not term.dims) for moment in moments)

    @property
    def parts(self) -> Sequence[Budget]:
        """The budgets to meet together: of memory, one for every moment at which it is exceeded."""
        if self.by != "memory":
            return (self,)
        moments = [moment for term in self.terms for moment in term.moments]
        sums = [sum(term.cost for term in moment) for moment in moments]
        return [
            Budget(1 - self.target / whole, self.by, whole, moment)
            for whole, moment in zip(sums, moments, strict=True)
            if whole > self.target
        ]
