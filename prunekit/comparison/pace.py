"""Pace: how long the rest of a comparison will take, judging by the cells that are done."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .cell import Cell


class Pace:
    """Estimates by the mean time of cells of the same sort: architecture, repair and recipe."""

    def __init__(self, cells: Sequence[Cell]):
        """Begin with all cells of a grid still to be done."""
        self.total = len(cells)
        self._left = set(cells)
        self._seconds: dict[tuple[str, str, str], list[float]] = {}

    @property
    def done(self) -> int:
        """How many cells are done."""
        return self.total - len(self._left)

    def add(self, cell: Cell, seconds: float) -> None:
        """Note that a cell is done, and how long it took."""
        self._left.discard(cell)
        self._seconds.setdefault(_sort(cell), []).append(seconds)

    def seconds_left(self) -> tuple[float, bool]:
        """Return how long the rest takes one after the other, and whether that is all of it.

        It is not if nothing like some of the cells has been timed yet; they are left out.
        """
        means = {sort: statistics.mean(times) for sort, times in self._seconds.items()}
        known = [means[_sort(cell)] for cell in self._left if _sort(cell) in means]
        return sum(known), len(known) == len(self._left)


def _sort(cell: Cell) -> tuple[str, str, str]:
    return cell.arch, cell.repair, cell.finetune
