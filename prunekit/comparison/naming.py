"""Naming: what a row is called, and which records it is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from .cell import Record
from .statistics import ANY

CONTROL = "random"  # the criterion that all others are to beat

Names = Mapping[tuple[str, str], str]
Runs = dict[int | None, Record]


def names(records: Sequence[Record]) -> Names:
    """Return what each criterion in each scope is called: with its scope if there are several."""
    scopes: dict[str, set[str]] = defaultdict(set)
    for record in records:
        scopes[record.cell.criterion].add(record.cell.scope)
    return {
        (criterion, scope): criterion if len(found) == 1 else f"{criterion}, scope {scope}"
        for criterion, found in scopes.items()
        for scope in found
    }


def by_name(records: Sequence[Record], called: Names) -> dict[str, Runs]:
    """Sort one column's records into rows, in order of names, and each row's into seeds.

    Runs in which the seed makes no difference are all the same, so the first stands for all;
    but no problem is passed over.

    Args:
        records: Of one column, in any order.
        called: Criterion and scope to the name of the row.
    """
    rows: dict[str, Runs] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.cell.seed):
        runs = rows[called[record.cell.criterion, record.cell.scope]]
        if record.seeded or record.problem is not None or not runs:
            runs[record.cell.seed if record.seeded else ANY] = record
    return {row: rows[row] for row in sorted(rows)}


def is_control(criterion: str) -> bool:
    """Tell whether a criterion, with its options if any, is the random control."""
    return criterion.partition(":")[0] == CONTROL
