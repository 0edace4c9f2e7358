"""What to spend less of, and what it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import BudgetError

By = Literal["params", "macs", "slices"]


BYS: tuple[By, ...] = ("params", "macs", "slices")


CLOSE_ENOUGH = 0.005  # of the budget: a result further from what was asked is remarked upon


@dataclass(frozen=True)
class Term:
    """A cost that shrinks in proportion to some parameter dimensions.

    Attributes:
        cost: What it costs in the original model.
        dims: The (parameter, dimension) pairs it is proportional to.
    """

    cost: float
    dims: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Budget:
    """What to spend less of.

    Attributes:
        ratio: The fraction of `total` to remove, in (0, 1).
        by: What is counted: `params`, `macs` or `slices`.
        total: What the whole original model costs.
        terms: The part of it that can shrink; the rest is fixed. Unused for slices.
    """

    ratio: float
    by: By
    total: float
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise BudgetError(
                f"The ratio is {self.ratio}; expected the fraction to remove, between 0 and 1 "
                "(both excluded)."
            )
