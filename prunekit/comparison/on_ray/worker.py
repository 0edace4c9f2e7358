"""In a worker: runs a cell, once it is sure to have what the cell was planned with."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from ...adapters import ADAPTERS
from ...criteria import CRITERIA
from ...errors import GridError
from ...inputs.data import fingerprint
from ...inputs.subject import find_images, find_subject
from ...measuring.provenance import versions
from ...recovery.recipes import settings_of
from ...registry import Registry
from ...repairs import REPAIRS
from ...repairs.chain import chained
from ..bench import Bench
from ..cell import Record
from ..grid import Grid
from ..known import source_of, weights_digest
from ..launch import Job, reason_of

DOORS: tuple[tuple[str, Registry[Any]], ...] = (
    ("prunekit.criteria", CRITERIA),
    ("prunekit.repairs", REPAIRS),
    ("prunekit.adapters", ADAPTERS),
)


@dataclass(frozen=True)
class Parcel:
    """What all tasks of a launch need.

    Attributes:
        name: Tells it from those of other launches.
        grid: The grid.
        plugins: What is known to the sender only, pickled, by entry-point group and name.
        home: The sender's working directory.
        threads: How many to compute on.
        gpus: Whether there are any.
    """

    name: str
    grid: Grid
    plugins: Mapping[tuple[str, str], bytes]
    home: str
    threads: int
    gpus: bool


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
    if parcel.name not in _benches:
        _benches.clear()
        if not parcel.gpus:  # Ray does not hide those that were not asked for
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(parcel.threads)
        if os.path.isdir(parcel.home):
            os.chdir(parcel.home)
        for group, registry in DOORS:
            for (its_group, name), packed in parcel.plugins.items():
                if its_group == group:
                    registry.add(name, pickle.loads(packed))
        _benches[parcel.name] = Bench(parcel.grid)
    return _benches[parcel.name]


OTHER = {
    "versions": ("other versions", "install the same versions on all machines"),
    "device": (
        "another sort of device",
        "pass --device cpu, or start this on a machine like the workers'",
    ),
    "weights": ("other weights", "name weights that are the same on all machines"),
    "data": ("other images", "name images that are the same on all machines"),
    "finetune": ("another recipe", "name a recipe that is the same on all machines"),
    "adapter": ("another adapter", "install the same code on all machines"),
    "criterion": ("another criterion", "install the same code on all machines"),
    "repair": ("another repair", "install the same code on all machines"),
}


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
    for part, value in _found(bench, parcel, job).items():
        if value != planned[part]:
            other, advice = OTHER[part.partition(" ")[0]]
            raise GridError(
                f"A worker has {other} than the cell was planned with"
                f"{_told_apart(planned[part], value)}; {advice}."
            )


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


def _told_apart(planned: Any, found: Any) -> str:
    """Say what differs where a person can tell: not between digests."""
    if isinstance(planned, dict) and isinstance(found, dict):
        return "".join(
            f" ({name} {found.get(name)}, not {planned[name]})"
            for name in planned
            if planned[name] != found.get(name)
        )
    return f" ({found}, not {planned})" if found in ("cpu", "cuda") else ""
