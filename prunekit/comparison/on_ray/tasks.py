"""In the process that launches: cells become tasks, and what comes back is stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ...repairs.chain import parts_of
from ..cell import Record
from ..grid import Grid
from ..launch import Failure, Job, Progress
from ..store import Store
from .luggage import Luggage
from .pool import Pool
from .share import Share
from .worker import Parcel, run_cell


@dataclass(frozen=True)
class _Flight:
    """A task on its way, and the claim on its cell, which keeps other launchers from it."""

    job: Job
    claim: ExitStack


class Launch:
    """One launch: hands out jobs, and stores what comes back."""

    def __init__(self, share: Share, ray: Any, grid: Grid, store: Store, progress: Progress):
        self.store, self.progress = store, progress
        self.flying: dict[Any, _Flight] = {}
        self.told: set[str] = set()
        self.failures: list[Failure] = []
        repairs = [part for spec in grid.repair for part in parts_of(spec)]
        luggage = Luggage.packed(share, grid.criteria(), repairs)
        self.pool = Pool(share, ray, run_cell, Parcel(grid, luggage))

    def run(self, jobs: Sequence[Job]) -> list[Failure]:
        left = list(jobs)
        try:
            while left or self.flying:
                self.pool.count_slots()
                left = self.hand_out(left)
                self.collect()
        finally:
            self.abandon()
        return self.failures

    def hand_out(self, jobs: Sequence[Job]) -> list[Job]:
        """Submit jobs, twice as many as can run, so that no worker waits for this process.

        Returns:
            The jobs that are left: there was no room, or another launcher works on them.
        """
        left = []
        for job in jobs:
            full = len(self.flying) >= 2 * self.pool.slots
            if full or not (self.settled(job) or self.submit(job)):
                left.append(job)
        self.tell_started()
        return left

    def settled(self, job: Job) -> bool:
        """Whether another launcher has done the job; says so."""
        there = self.store.has(job.key)
        if there:
            self.progress.done(job.cell, self.store.read(job.key).seconds)
        return there

    def submit(self, job: Job) -> bool:
        """Make a job a task, unless another launcher has claimed its cell."""
        with ExitStack() as stack:
            if not stack.enter_context(self.store.claim(job.key, wait=False)):
                return False
            if not self.settled(job):  # by whoever had the claim until now
                self.flying[self.pool.start(job)] = _Flight(job, stack.pop_all())
        return True

    def tell_started(self) -> None:
        """Tell which cells are being run; Ray takes tasks in the order they came."""
        for flight in list(self.flying.values())[: self.pool.slots]:
            if flight.job.key not in self.told:
                self.told.add(flight.job.key)
                self.progress.started(flight.job.cell)

    def collect(self) -> None:
        """Wait a moment for a task to come back, and store its record."""
        for task in self.pool.ready(self.flying):
            flight = self.flying.pop(task)
            with flight.claim:
                self.settle(flight.job, self.pool.fetch(task))

    def settle(self, job: Job, outcome: Record | str) -> None:
        if isinstance(outcome, str):
            self.failures.append(Failure(job.cell, outcome))
            return
        self.store.write(job.key, outcome, job.determined_by)
        self.progress.done(job.cell, outcome.seconds)

    def abandon(self) -> None:
        """Give up what is still on its way, if anything is."""
        for flight in self.flying.values():
            flight.claim.close()
        self.pool.cancel(self.flying)
