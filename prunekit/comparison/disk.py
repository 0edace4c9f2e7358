"""Disk: what the files of a comparison say, and records made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, NotRequired

import numpy as np
from annotated_types import Ge, MaxLen
from numpy.typing import NDArray
from pydantic import JsonValue, StringConstraints, with_config

# Before Python 3.12, pydantic cannot look into the TypedDict of typing.
from typing_extensions import TypedDict

from ..files.report import OPEN, Count, Digest, Milliseconds, Report, Text
from .cell import Cell, Cost, Record

Key = Annotated[str, StringConstraints(pattern=r"^\w[\w-]{0,99}$")]  # it names a directory
CLOSED = with_config({"extra": "forbid"})


@CLOSED
class CellFile(TypedDict):
    """See `Record`."""

    cell: Cell
    seeded: bool
    problem: Annotated[str, MaxLen(100_000)] | None
    cost: Cost | None
    seconds: Annotated[float, Ge(0)]
    report: Report | None
    determined_by: JsonValue
    arrays_sha256: NotRequired[Digest]  # which cells did not always have, as the next
    sha256: NotRequired[Digest]


@OPEN
class GridEntry(TypedDict):
    seeds: Annotated[list[int], MaxLen(1_000_000)]
    calibration: Count


@OPEN
class NamedCell(TypedDict):
    key: Key


@OPEN
class GridFile(TypedDict):
    command: Annotated[str, MaxLen(1_000_000)]
    grid: GridEntry
    cells: list[NamedCell]


@OPEN
class Where(TypedDict):
    device: Text
    threads: NotRequired[Count]


@CLOSED
class TimingEntry(TypedDict):
    dense: dict[str, Milliseconds]
    small: dict[str, Milliseconds]
    low: NotRequired[dict[str, Milliseconds]]  # which older comparisons did not keep
    high: NotRequired[dict[str, Milliseconds]]


@OPEN
class TimingFile(TypedDict):
    where: Where | None
    shapes: dict[str, TimingEntry]


def plain_of(record: Record) -> dict[str, Any]:
    """Return what goes into a cell's JSON."""
    return {
        "cell": record.cell.to_json(),
        "seeded": record.seeded,
        "problem": record.problem,
        "cost": asdict(record.cost) if record.cost else None,
        "seconds": record.seconds,
        "report": record.report,
    }


def arrays_of(record: Record) -> dict[str, NDArray[Any]]:
    """Return what goes into a cell's arrays."""
    return {
        "correct": record.correct,
        "dense_correct": record.dense_correct,
        **{f"scores/{name}": scores for name, scores in record.scores.items()},
        **{f"kept/{name}": kept for name, kept in record.kept.items()},
    }


def record_of(data: CellFile, arrays: Mapping[str, NDArray[Any]]) -> Record:
    """Make a record of what `plain_of` and `arrays_of` returned.

    Raises:
        ValueError: They are not of one run.
    """
    if not {"correct", "dense_correct"} <= arrays.keys():
        raise ValueError("it lacks which images were right")
    scores, kept = _named(arrays, "scores/"), _named(arrays, "kept/")
    if (data["report"] is None) == (data["problem"] is None):
        raise ValueError("it has neither a report nor a problem, or both")
    if data["report"] is not None:
        _check_agree(data["report"], arrays, scores, kept)
    return Record(
        cell=data["cell"],
        seeded=data["seeded"],
        report=data["report"],
        problem=data["problem"],
        cost=data["cost"],
        correct=arrays["correct"],
        dense_correct=arrays["dense_correct"],
        scores=scores,
        kept=kept,
        seconds=data["seconds"],
    )


def _named(arrays: Mapping[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    found = [name for name in arrays if name.startswith(part)]
    return {name.removeprefix(part): arrays[name] for name in found}


def _check_agree(
    report: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    scores: Mapping[str, NDArray[Any]],
    kept: Mapping[str, NDArray[Any]],
) -> None:
    """Refuse arrays of another shape than the report tells.

    Raises:
        ValueError: They are.
    """
    sizes = {name: axis["size"] for name, axis in report["axes"].items()}
    if scores.keys() - sizes.keys() or kept.keys() - sizes.keys():
        raise ValueError("it has scores of other axes than its report")
    for name, values in scores.items():
        if len(values) != sizes[name] or not np.isfinite(values).all():
            raise ValueError(f"the scores of {name!r} are not {sizes[name]} finite numbers")
    for name, slices in kept.items():
        if not len(slices) and sizes[name] == 1:  # a branch that left
            continue
        ascending = bool((np.diff(slices) > 0).all())
        if not len(slices) or not ascending or slices[0] < 0 or slices[-1] >= sizes[name]:
            raise ValueError(f"{name!r} keeps impossible slices")
    images = report["after"]["images"]
    if not len(arrays["correct"]) == len(arrays["dense_correct"]) == images:
        raise ValueError(f"it is not told of {images} images whether they were right")
