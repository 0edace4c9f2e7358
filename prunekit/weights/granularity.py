"""What leaves: whole slices, single weights, or all but n of every m weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import BudgetError
from ..registry import unknown

LARGEST_GROUP = 64


@dataclass(frozen=True)
class Granularity:
    """The level at which a model is pruned.

    Attributes:
        text: How it is written: `slice`, `weight`, or `n:m` such as `2:4`.
        pattern: (n, m) for n:m, of which every m consecutive weights of one output keep n.
    """

    text: str
    pattern: tuple[int, int] | None = None

    @property
    def masks(self) -> bool:
        """Whether weights become zero, in a model of the same shape."""
        return self.text != "slice"

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """Read what a user wrote.

        Raises:
            BudgetError: There is no such level.

        Example:
            >>> Granularity.parse("2:4").pattern
            (2, 4)
        """
        if text in ("slice", "weight"):
            return cls(text)
        found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
        if not found:
            raise BudgetError(unknown("granularity", text, ("slice", "weight", "2:4")))
        n, m = int(found[1]), int(found[2])
        if not 1 <= n < m <= LARGEST_GROUP:
            raise BudgetError(
                f"The granularity is {text!r}; expected n:m with 1 <= n < m <= {LARGEST_GROUP}, "
                "such as 2:4, which keeps 2 of every 4 weights."
            )
        return cls(f"{n}:{m}", (n, m))
