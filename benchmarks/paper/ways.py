"""The ways from a dense model to fewer MACs that are compared: masks, and slices."""

from __future__ import annotations

from dataclasses import dataclass

from .parts import Plain


@dataclass(frozen=True)
class Way:
    """A way to prune by DIMAP's scores: what leaves, and what adjusts the rest."""

    name: str
    granularity: str
    repair: str = "none"


SINGLE = Way("single weights", "weight")
# Not in a module that 2:4 and slices leave alone, such as ConvNeXt's depthwise convolutions.
ALIKE = Way("single weights where 2:4 is", "weight")
PATTERN = Way("2:4", "2:4")
SLICES = Way("slices", "slice")
REPAIRED = Way("slices + lstsq", "slice", "lstsq")
MASKED = (SINGLE, ALIKE, PATTERN)


def rows_of(found: Plain, way: Way, target: float | None = None) -> list[Plain]:
    """Return the rows of a way, all or those of a target."""
    rows = [row for row in found["rows"] if row["way"] == way.name]
    return [row for row in rows if target in (None, row["target"])]
