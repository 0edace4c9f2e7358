"""In a worker: runs a cell, once it is sure to have what the cell was planned with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ...inputs.data import fingerprint
from ...inputs.subject import find_images, find_subject
from ...measuring.provenance import versions
from ...recovery.recipes import settings_of
from ...repairs.chain import chained
from ..bench import Bench
from ..cell import Record
from ..grid import Grid
from ..known import source_of, weights_digest
from ..launch import Job, reason_of
from .alike import check_same
from .luggage import Luggage


@dataclass(frozen=True)
class Parcel:
    """What all tasks of a launch need.

    Attributes:
        grid: The grid.
        luggage: All else.
    """

    grid: Grid
    luggage: Luggage

    @property
    def plugins(self) -> Mapping[tuple[str, str], bytes]:
        """What was sent along."""
        return self.luggage.plugins


_benches: dict[str, Bench] = {}  # of the launch that this worker process serves, by its name


def run_cell(parcel: Parcel, job: Job) -> Record | str:
    """Run one cell in a worker.

    Returns:
        What came of it, or why nothing did. Errors are told, not raised: the launching process
        may not be able to unpickle those of others' code.
    """
    try:
        bench = _bench_for(parcel)
        _check_alike(bench, parcel, job)
        return bench.run(job.cell)
    except Exception as error:  # of the worker, not of the cell: those are results
        _benches.clear()
        return reason_of(error)


def _bench_for(parcel: Parcel) -> Bench:
    """Return this process's bench; at the start of a launch, make it, and all that it needs."""
    name = parcel.luggage.name
    if name not in _benches:
        _benches.clear()
        parcel.luggage.unpack()
        _benches[name] = Bench(parcel.grid)
    return _benches[name]


def _check_alike(bench: Bench, parcel: Parcel, job: Job) -> None:
    """Make sure that what a cell was planned with is what this worker has.

    Without this, a record would be kept under a key that says something else, and an image folder
    that is missing here would count as a result.

    Raises:
        PruneError: It is not, or is not there.
    """
    planned = dict(job.determined_by)
    planned["criterion"], *repairs = planned["plugins"]
    planned |= {f"repair {number}": source for number, source in enumerate(repairs)}
    check_same(planned, _found(bench, parcel, job))


def _found(bench: Bench, parcel: Parcel, job: Job) -> dict[str, Any]:
    """Return what this worker has of what a key is made of; not of what was sent along."""
    grid, cell = bench.grid, job.cell
    recipe = grid.recipe_of(cell.finetune)
    found: dict[str, Any] = {
        "versions": versions() | ({"accelerate": version("accelerate")} if recipe else {}),
        "finetune": settings_of(recipe) if recipe else None,
    }
    found |= bench.shared.once("found", cell.arch, lambda: _subject_found(bench, parcel, cell.arch))
    repairs = [
        ("prunekit.repairs", f"repair {number}", repair)
        for number, repair in enumerate(chained(cell.repair))
    ]
    criterion = ("prunekit.criteria", "criterion", grid.criterion_of(cell.criterion))
    for group, part, plugin in (criterion, *repairs):
        if (group, plugin.name) not in parcel.plugins:
            found[part] = source_of(plugin.function)
    return found


def _subject_found(bench: Bench, parcel: Parcel, arch: str) -> dict[str, Any]:
    grid, shared = bench.grid, bench.shared
    subject = find_subject(grid.source(arch, grid.seeds[0]), shared)
    images = find_images(subject, grid.settings.data, grid.settings.data_dir, shared)
    found = {
        "device": next(subject.model.parameters()).device.type,
        "weights": weights_digest(subject.model),
        "data": fingerprint(images) if images else None,
    }
    if ("prunekit.adapters", subject.adapter.name) not in parcel.plugins:
        found["adapter"] = source_of(type(subject.adapter))
    return found
