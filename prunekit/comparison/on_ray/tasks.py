"""In the process that launches: cells become tasks, and what comes back is stored."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any
from uuid import uuid4

from ...adapters import ADAPTERS
from ...errors import GridError
from ...registry import Registry
from ...repairs.chain import parts_of
from ..cell import Record
from ..grid import Grid
from ..launch import Failure, Job, Progress
from ..store import Store
from .connect import named
from .share import Share
from .worker import DOORS, Parcel, run_cell

TICK_S = 1.0  # how often to look for new machines, and for cells that others have finished
PATIENCE_S = 60.0  # how long a cluster may be without any machine that can run a cell


@dataclass(frozen=True)
class _Flight:
    """A task on its way, and the claim on its cell, which keeps other launchers from it."""

    job: Job
    claim: ExitStack


class Launch:
    """One launch: hands out jobs, and stores what comes back."""

    def __init__(self, share: Share, ray: Any, grid: Grid, store: Store, progress: Progress):
        self.share, self.ray, self.store, self.progress = share, ray, store, progress
        self.slots, self.able_at = 0, -math.inf
        self.flying: dict[Any, _Flight] = {}
        self.told: set[str] = set()
        self.failures: list[Failure] = []
        self.task = ray.remote(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_retries=share.retries,
            retry_exceptions=False,
        )(run_cell)
        threads, gpus = max(1, int(share.cpus)), share.gpus > 0
        plugins = plugins_of(grid)
        parcel = Parcel(uuid4().hex, grid, plugins, os.getcwd(), threads, gpus)
        self.parcel = ray.put(parcel)

    def run(self, jobs: Sequence[Job]) -> list[Failure]:
        left = list(jobs)
        try:
            while left or self.flying:
                self.count_slots()
                left = self.hand_out(left)
                self.collect()
        finally:
            self.abandon()
        return self.failures

    def count_slots(self) -> None:
        """Find out how many cells can run at once; machines come and go."""
        self.slots, now = self.share.slots(self.ray.nodes()), time.monotonic()
        if self.slots:
            self.able_at = now
        elif now - self.able_at > PATIENCE_S:
            raise GridError(
                f"Ray has no machine with {_requests(self.share)}, which every cell is to get; "
                "ask for less with --cpus and --gpus, or add such a machine."
            )

    def hand_out(self, jobs: Sequence[Job]) -> list[Job]:
        """Submit jobs, twice as many as can run, so that no worker waits for this process.

        Returns:
            The jobs that are left: there was no room, or another launcher works on them.
        """
        left = []
        for job in jobs:
            full = len(self.flying) >= 2 * self.slots
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
                self.flying[self.task.remote(self.parcel, job)] = _Flight(job, stack.pop_all())
        return True

    def tell_started(self) -> None:
        """Tell which cells are being run; Ray takes tasks in the order they came."""
        for flight in list(self.flying.values())[: self.slots]:
            if flight.job.key not in self.told:
                self.told.add(flight.job.key)
                self.progress.started(flight.job.cell)

    def collect(self) -> None:
        """Wait a moment for a task to come back, and store its record."""
        if not self.flying:
            time.sleep(TICK_S)
            return
        ready, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=TICK_S)
        for task in ready:
            flight = self.flying.pop(task)
            with flight.claim:
                self.settle(flight.job, self.fetch(task))

    def settle(self, job: Job, outcome: Record | str) -> None:
        if isinstance(outcome, str):
            self.failures.append(Failure(job.cell, outcome))
            return
        self.store.write(job.key, outcome, job.determined_by)
        self.progress.done(job.cell, outcome.seconds)

    def fetch(self, task: Any) -> Record | str:
        """Return what a task returned, or say why it did not."""
        errors = self.ray.exceptions
        try:
            outcome: Record | str = self.ray.get(task)
        except errors.RayTaskError as error:  # before our own code was reached
            return (
                f"{named(error.cause)}: a worker could not start on it; make sure that all "
                "machines have the same packages."
            )
        except errors.RayError as error:  # what it says at length names machines
            tries = self.share.retries + 1
            return (
                f"{type(error).__name__}: its worker died, in {tries} of {tries} tries; see "
                "whether the machines have enough memory."
            )
        return outcome

    def abandon(self) -> None:
        """Give up what is still on its way, if anything is."""
        for task, flight in self.flying.items():
            flight.claim.close()
            # A cluster that was there before us would otherwise go on with it.
            with suppress(self.ray.exceptions.RayError):
                self.ray.cancel(task, force=True)


def _requests(share: Share) -> str:
    gpus = f" and {share.gpus:g} GPUs" if share.gpus else ""
    return f"{share.cpus:g} CPUs{gpus}"


def plugins_of(grid: Grid) -> dict[tuple[str, str], bytes]:
    """Pickle the plug-ins of a grid that are neither built in nor installed."""
    wanted = {
        "prunekit.criteria": grid.criteria(),
        "prunekit.repairs": tuple(part for spec in grid.repair for part in parts_of(spec)),
        "prunekit.adapters": tuple(ADAPTERS.names()),
    }
    packed = {}
    for group, registry in DOORS:
        findable = {entry.name for entry in entry_points(group=group)} | {*registry.builtin_names()}
        for name in sorted({spec.partition(":")[0] for spec in wanted[group]} - findable):
            packed[group, name] = _packed(registry, name)
    return packed


def _packed(registry: Registry[Any], name: str) -> bytes:
    """Pickle a plug-in with its code, since a worker may not find the file it is from.

    Raises:
        GridError: It holds on to something that cannot be sent.
    """
    from ray import cloudpickle

    plugin = registry.get(name)
    home = sys.modules[plugin.origin.partition(":")[0]]
    with ExitStack() as stack:
        if home.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(home)
            stack.callback(cloudpickle.unregister_pickle_by_value, home)
        try:
            return bytes(cloudpickle.dumps(plugin))
        except Exception as error:
            raise GridError(
                f"The {registry.noun} {name!r} cannot be sent to Ray's workers "
                f"({named(error)}); let a package declare it as an entry point, and install that "
                "on all machines."
            ) from error
