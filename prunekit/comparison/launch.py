"""Jobs, and the launcher that runs them in this process, beside others like it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import PruneError
from .bench import Bench
from .cell import Cell
from .grid import Grid
from .store import Store


@dataclass(frozen=True)
class Job:
    """A cell that is to be there in the end.

    Attributes:
        cell: Which.
        key: What it is stored under.
        determined_by: Everything it depends on, which the key is made of.
    """

    cell: Cell
    key: str
    determined_by: Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run, for a reason that another try may not meet.

    Attributes:
        cell: Which.
        reason: What happened, in a line.
    """

    cell: Cell
    reason: str


class Progress(Protocol):
    """What wants to know how a comparison is going."""

    def started(self, cell: Cell) -> None:
        """A cell has been started."""

    def step(self, name: str) -> None:
        """The cell that was started last has come to a step."""

    def done(self, cell: Cell, seconds: float) -> None:
        """A cell is there; it may have been run elsewhere."""

    def aside(self, name: str) -> None:
        """Something is being done that belongs to no cell."""


class Silent:
    """Progress that nobody looks at."""

    def started(self, cell: Cell) -> None:
        """Say nothing."""

    def step(self, name: str) -> None:
        """Say nothing."""

    def done(self, cell: Cell, seconds: float) -> None:
        """Say nothing."""

    def aside(self, name: str) -> None:
        """Say nothing."""


Launcher = Callable[[Grid, Sequence[Job], Store, Progress], list[Failure]]


def run_here(grid: Grid, jobs: Sequence[Job], store: Store, progress: Progress) -> list[Failure]:
    """Run jobs one after the other.

    Any number of processes may do so in one directory. Each first takes whole groups that nobody
    works on, since the cells of a group have statistics in common; then it helps with what is
    left of others' groups; at last it waits for cells that others have begun, and runs them
    itself if those processes died.

    Returns:
        The jobs that failed; all others are in the store.
    """
    return _Here(grid, jobs, store, progress).run()


class _Here:
    def __init__(self, grid: Grid, jobs: Sequence[Job], store: Store, progress: Progress):
        self.grid, self.jobs, self.store, self.progress = grid, jobs, store, progress
        self.bench = Bench(grid)
        self.failed: dict[str, Failure] = {}
        self.told: set[str] = set()

    def run(self) -> list[Failure]:
        for group, jobs in itertools.groupby(self.jobs, _group):
            with self.store.claim(group, wait=False) as mine:
                if mine:
                    self.work_through(jobs, wait=False)
        for wait in (False, True):
            self.work_through(self.jobs, wait=wait)
        return list(self.failed.values())

    def work_through(self, jobs: Iterable[Job], *, wait: bool) -> None:
        for job in jobs:
            if not self.settled(job):
                with self.store.claim(job.key, wait=wait) as mine:
                    if mine and not self.settled(job):
                        self.work(job)

    def settled(self, job: Job) -> bool:
        """Whether nothing is left to do; says so once, if another process did it."""
        if job.key in self.failed:
            return True
        there = self.store.has(job.key)
        if there and job.key not in self.told:
            self.told.add(job.key)
            self.progress.done(job.cell, self.store.read(job.key).seconds)
        return there

    def work(self, job: Job) -> None:
        self.progress.started(job.cell)
        try:
            record = self.bench.run(job.cell, self.progress.step)
        except (
            Exception
        ) as error:  # one cell that runs out of memory should not take the rest along
            self.failed[job.key] = Failure(job.cell, reason_of(error))
            self.bench = Bench(self.grid)
            return
        self.store.write(job.key, record, job.determined_by)
        self.settled(job)


def reason_of(error: Exception) -> str:
    """Say why a cell failed: our own sentences stand for themselves."""
    return str(error) if isinstance(error, PruneError) else f"{type(error).__name__}: {error}"


def _group(job: Job) -> str:
    """Name the cells that share statistics; a digest is not needed, just a file name."""
    cell = job.cell
    words = (cell.finetune, cell.arch, *cell.axes, str(cell.seed))
    return "group-" + "-".join("".join(c for c in word if c.isalnum()) for word in words)
