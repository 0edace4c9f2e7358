"""Cell: one run of a grid, and where in the grid it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le, MaxLen
from numpy.typing import NDArray

NONE = "none"  # the recipe of a cell that is not trained, and the repair that changes nothing


Name = Annotated[str, MaxLen(1000)]
Count = Annotated[int, Ge(0), Le(2**53)]
Milliseconds = Annotated[float, Gt(0), Le(1e9)]


@dataclass(frozen=True)
class Cell:
    """One run of a grid; the words are those of `prunekit run`.

    Attributes:
        arch: Name of an architecture.
        criterion: Name of a criterion, with its options if any: "magnitude:p=1".
        scope: Where slices compete.
        repair: Name of a repair, with its options if any.
        axes: Kinds of axes that may shrink.
        by: What the ratio counts: `params`, `macs` or `slices`.
        ratio: Fraction of the model to remove.
        seed: Of everything random in the run.
        finetune: Name of the recipe it is trained with afterwards, or `none`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    arch: Name
    criterion: Name
    scope: Name
    repair: Name
    axes: tuple[Name, ...]
    by: Name
    ratio: Annotated[float, Ge(0), Le(1)]
    seed: int
    finetune: Name = NONE

    def __str__(self) -> str:
        """Name it in a line, for people."""
        repair = "" if self.repair == NONE else f" + {self.repair}"
        trained = "" if self.finetune == NONE else f", {self.finetune}"
        return (
            f"{self.arch} {self.criterion} (scope {self.scope}){repair}, axes "
            f"{'+'.join(self.axes)}, {self.ratio:.0%} of {self.by}{trained}, seed {self.seed}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "axes": list(self.axes)}


@dataclass(frozen=True)
class Cost:
    """What it took a criterion to score, gathering its statistics included.

    Attributes:
        seconds: Wall-clock time, as if nothing had been shared with other cells.
        images: How many calibration images it looked at.
        peak_bytes: Most bytes of tensors alive at once, on top of model and images.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    seconds: Annotated[float, Ge(0)]
    images: Count
    peak_bytes: Count


@dataclass(frozen=True)
class Timing:
    """How long the dense and the small model take, timed side by side.

    Attributes:
        dense, small: Median milliseconds of a forward pass, by batch size.
        low, high: Quartiles of the small model's; empty in older comparisons.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    dense: Mapping[str, Milliseconds]
    small: Mapping[str, Milliseconds]
    low: Mapping[str, Milliseconds] = field(default_factory=dict)
    high: Mapping[str, Milliseconds] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What came of a cell.

    Attributes:
        cell: Which one.
        seeded: Whether the seed makes a difference; if not, one seed stands for all.
        report: The report that `prunekit run` gives; None if the run had a problem.
        problem: Why there is no report: the sentence the run ended with.
        cost: What scoring took; None if there is no report.
        correct: Whether each test image was classified correctly, (images,) bool.
        dense_correct: The same of the unpruned model.
        scores: Axis name to the criterion's scores of the original model's slices, (size,).
        kept: Axis name to the slices that stay, ascending.
        seconds: How long the cell took, shared work counted where it was done.
        timing: How fast its model is, if that has been measured.
    """

    cell: Cell
    seeded: bool
    report: Mapping[str, Any] | None
    problem: str | None
    cost: Cost | None
    correct: NDArray[np.bool_]
    dense_correct: NDArray[np.bool_]
    scores: Mapping[str, NDArray[np.float64]]
    kept: Mapping[str, NDArray[np.int64]]
    seconds: float
    timing: Timing | None = None
