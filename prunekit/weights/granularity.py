"""What leaves: whole slices, single weights, or all but n of every m weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..criteria.base import Criterion, Scope
from ..errors import BudgetError, CriterionError, RepairError
from ..registry import unknown
from ..repairs.base import Repair

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


def check_applies(
    level: Granularity,
    criterion: Criterion,
    repairs: Sequence[Repair],
    ratio: float | None,
    scope: Scope | None,
    steps: int,
) -> None:
    """Refuse what says nothing about single weights, rather than pass it over in silence.

    Raises:
        PruneError: One of its children.
    """
    if not criterion.weight_level:
        raise CriterionError(
            f"Criterion {criterion.name!r} does not say that it can score single weights, which "
            f"granularity {level.text!r} needs; choose another, or declare it with "
            "weight_level=True if it can."
        )
    for repair in (one for one in repairs if one.needs != "nothing" and not one.masks):
        raise RepairError(
            f"Repair {repair.name!r} does not say that it keeps single weights zero, which "
            f"granularity {level.text!r} needs; choose another, or declare it with masks=True if "
            "it does."
        )
    if steps != 1:
        raise BudgetError(
            f"Asked for {steps} steps at granularity {level.text!r}, which prunes in one; leave "
            "the steps out, or prune slices."
        )
    if level.pattern and ratio is not None:
        n, m = level.pattern
        raise BudgetError(
            f"The ratio is {ratio:g}, but granularity {level.text!r} settles how much leaves, "
            f"{m - n} of every {m} weights; leave the ratio out, or take granularity 'weight'."
        )
    if level.pattern and scope is not None:
        raise BudgetError(
            f"The scope is {scope!r}, but at granularity {level.text!r} weights compete with the "
            f"{level.pattern[1]} of their group only; leave the scope out, or take granularity "
            "'weight'."
        )
