"""Cluster: what Ray is to set apart for a cell, and where; called, it is a launcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...errors import GridError
from ...sensing.bench import Bench, Effect
from ..grid import Grid
from ..launch import Failure, Job, Progress
from ..store import Store
from .connect import connected
from .cuts import measured
from .share import Share
from .tasks import Launch


@dataclass(frozen=True)
class Cluster:
    """Where cells are run by Ray, and what each of them gets there; called, it is a launcher.

    Cells run in Ray's worker processes, which keep what cells have in common; a worker whose cells
    get GPUs runs only one, since a process stays on the GPUs that it saw first. Results come back
    through this process, which alone writes to the store, so that only the cells that are being
    run are lost with it. A worker that dies, or whose machine does, is replaced.

    All machines need the same code, packages, weights and images: every worker makes sure that it
    has what a cell was planned with, and else that cell fails. Paths must lead there on all
    machines; relative ones count from this process's directory, if that is there too. Criteria,
    repairs and adapters that only this process knows are sent along.

    Attributes:
        address: Of a cluster that this machine is part of: "host:port" or "auto". Unless given,
            Ray's own RAY_ADDRESS is; without either, Ray is started on this machine, and ended
            afterwards. Where this process has called `ray.init`, that is what counts, and is left
            running.
        cpus: How many processors to set apart for a cell; it computes on as many threads.
        gpus: How many GPUs to set apart for a cell: a whole number, or a part of one.
        retries: How often to run a cell again whose worker died.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        """Refuse what Ray could not set apart.

        Raises:
            GridError: A number is out of range.
        """
        self.share  # noqa: B018  (checks the numbers)

    @property
    def share(self) -> Share:
        """What a cell is given."""
        return Share(self.cpus, self.gpus, self.retries)

    def __call__(
        self, grid: Grid, jobs: Sequence[Job], store: Store, progress: Progress
    ) -> list[Failure]:
        """Run what is not there yet of some jobs.

        Returns:
            The jobs that failed; all others are in the store.

        Raises:
            GridError: Ray is not installed, no cluster answers, or it has no machine that can run
                a cell.
            ArtifactError: A cell cannot be written.
        """
        missing = []
        for job in jobs:
            if store.has(job.key):
                progress.done(job.cell, store.read(job.key).seconds)
            else:
                missing.append(job)
        if not missing:
            return []
        devices = {job.determined_by["device"] for job in missing}
        self._check_device(devices, grid.settings.device)
        with connected(self.address) as ray:
            return Launch(self.share, ray, grid, store, progress).run(missing)

    def cuts(
        self, bench: Bench, cells: Sequence[tuple[str, float]], on_step: Callable[[str], None]
    ) -> Iterator[Effect]:
        """Yield what some cuts do; a launcher for `sensitivity`.

        Raises:
            GridError: A cut could not be measured; what could be was yielded before. Or as above.
        """
        request = bench.job.request
        device = next(bench.job.subject.model.parameters()).device.type
        self._check_device({device}, request.device)
        with connected(self.address) as ray:
            yield from measured(self.share, ray, bench, cells, on_step)

    def _check_device(self, devices: set[str], wanted: str) -> None:
        """Make sure that workers will have the sort of device that cells were planned on."""
        if self.gpus == 0 and devices != {"cpu"}:
            raise GridError(
                f"The cells are to be run on {' and '.join(sorted(devices))}, but get no GPUs; "
                "pass --gpus 1, or --device cpu."
            )
        if self.gpus > 0 and "cpu" in devices:
            asked = "--device cpu asks for" if wanted == "cpu" else "this machine has"
            raise GridError(
                f"The cells are to be run on the CPU, which is what {asked}, but get "
                f"{self.gpus:g} GPUs each; leave out --gpus, or start this where there is a GPU."
            )
