"""chained: several repairs, one after the other, as one value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from ..errors import RepairError
from ..plugin import configured
from . import REPAIRS
from .base import Repair

Spec: TypeAlias = "str | Repair | Sequence[str | Repair]"
NEXT = re.compile(r"[,+](?=[^\d=:,+][^=:,+]*(?:[:,+]|$))")  # a name follows, not an option's value


def chained(spec: Spec) -> tuple[Repair, ...]:
    """Find repairs and give them their options.

    Args:
        spec: A repair, its name with options ("lstsq:ridge=0.1"), several names with commas or
            plus signs between them ("lstsq,recalibrate"), or a sequence of either.

    Raises:
        RegistryError: Nothing has that name.
        RepairError: There is no such option, or the second repair would undo the first.
    """
    given: Any = parts_of(spec) if isinstance(spec, str) else spec
    parts = given if isinstance(given, list | tuple) else [given]
    found = tuple(configured(REPAIRS, part) for part in parts)
    names = [repair.name for repair in found]
    for name in names:
        if name == "none" and len(names) > 1:
            raise RepairError("The repair 'none' stands alone; leave it out of the chain.")
        if names.count(name) > 1:
            raise RepairError(f"The repair {name!r} is listed twice; name it once.")
    for need, what in (
        ("moments", "refit layers"),
        ("blocks", "rebuild blocks"),
        ("norms", "recalibrate BatchNorms"),
    ):
        alike = [repair.name for repair in found if repair.needs == need]
        if len(alike) > 1:
            raise RepairError(
                f"The repairs {alike[0]!r} and {alike[1]!r} both {what}, so that the second would "
                "undo the first; choose one of them."
            )
    order = [repair.needs for repair in found]
    if {"moments", "blocks"} <= set(order) and order.index("blocks") < order.index("moments"):
        first, second = (found[order.index(need)].name for need in ("blocks", "moments"))
        raise RepairError(
            f"The repair {second!r} would undo what {first!r} did before; write {second},{first}."
        )
    if not found:
        raise RepairError("The list of repairs is empty; name one, or 'none'.")
    return found


def parts_of(spec: str) -> list[str]:
    """Split the names of a chain, each with its options."""
    return NEXT.split(spec)


def named(chain: Sequence[Repair]) -> str:
    """Return the names of a chain as one word."""
    return "+".join(repair.name for repair in chain)


def options_of(chain: Sequence[Repair]) -> dict[str, Any]:
    """Return the options of a chain; several repairs' under "name.option"."""
    if len(chain) == 1:
        return dict(chain[0].options)
    return {f"{one.name}.{key}": value for one in chain for key, value in one.options.items()}
