"""How long a grid will take, from one timed cell of each architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .bench import Bench
from .cell import NONE, Cell
from .grid import Grid
from .launch import Job


@dataclass(frozen=True)
class Estimate:
    """How long the cells of one architecture take that are not trained.

    Attributes:
        cell: The one that was timed, twice: alone, and with what cells share at hand.
        cells: How many there are.
        each: Seconds it took.
        first: Seconds that it took longer the first time.
        problem: Why that cell has no figures; None if it has.
    """

    cell: Cell
    cells: int
    each: float
    first: float
    problem: str | None = None

    @property
    def seconds(self) -> float:
        """Seconds for all of them, one after the other."""
        return self.first + self.cells * self.each


def estimate(
    grid: Grid, missing: Sequence[Job], on_step: Callable[[str], None]
) -> Iterator[Estimate]:
    """Time one cell of each architecture; nothing is stored.

    Training is left out: it takes minutes to days, and how long is best seen in its first epochs.
    """
    for arch in grid.arch:
        cells = [job.cell for job in missing if (job.cell.arch, job.cell.finetune) == (arch, NONE)]
        if cells:
            cell = cells[len(cells) // 2]
            bench = Bench(grid)
            on_step(f"time {cell}")
            first, again = bench.run(cell), bench.run(cell)
            slower = max(0.0, first.seconds - again.seconds)
            yield Estimate(cell, len(cells), again.seconds, slower, again.problem)
