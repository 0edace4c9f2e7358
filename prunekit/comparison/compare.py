"""compare: run what is missing of a grid, and write the report."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import ArtifactError, GridError
from ..files.reading import reason
from ..recovery.training.setting import check_installed
from ..registry import unknown
from ..shared import Shared
from .cell import NONE
from .findings import Findings
from .grid import DEFAULT, Grid
from .known import Known, determinants, find_out, key_of
from .launch import Failure, Job, Launcher, Progress, Silent, run_here
from .sensed import sensed
from .store import Store, check_out
from .timing import time_models, timed_on, with_timing

PACKAGES = ("jinja2", "matplotlib", "scipy")


def compare(
    grid: Grid,
    out: str | Path,
    *,
    command: str = "prunekit.compare(...)",
    launcher: Launcher = run_here,
    progress: Progress | None = None,
) -> tuple[Findings, list[Failure]]:
    """Run all cells of a grid that are not there yet, and write the report.

    Args:
        grid: What to compare.
        out: Directory for cells and report. Several processes may work on one, and a run that was
            killed goes on when the same call is made again.
        command: What the report says it was made by.
        launcher: What runs the cells.
        progress: Is told how it goes.

    Returns:
        What was found, and the cells that could not be run; the next call tries those again.

    Raises:
        PruneError: The grid names something that is not there, or the directory cannot be written.
    """
    check_out(Path(out))
    check_ready(grid)
    return run(grid, plan(grid), out, command=command, launcher=launcher, progress=progress)


def run(
    grid: Grid,
    jobs: Sequence[Job],
    out: str | Path,
    *,
    command: str,
    launcher: Launcher = run_here,
    progress: Progress | None = None,
) -> tuple[Findings, list[Failure]]:
    """Do what `compare` does, with jobs that have been planned."""
    store = Store(Path(out))
    store.prepare()
    named = [{"key": job.key, "cell": job.cell.to_json()} for job in jobs]
    store.write_grid({"command": command, "grid": grid.to_json(), "cells": named})
    progress = progress or Silent()
    failures = launcher(grid, jobs, store, progress)
    done = [store.read(job.key) for job in jobs if store.has(job.key)]
    if failures and not done:
        raise GridError(f"No cell could be run. {failures[0].cell}: {failures[0].reason}")
    time_models(grid, done, store, progress.aside)
    return report(out), failures


def report(out: str | Path) -> Findings:
    """Write the report of the cells that are there.

    Raises:
        ArtifactError: The directory is not a comparison or cannot be written, or a cell is not
            readable.
        GridError: What reports are made with is not installed.
    """
    check_pages()
    from .pages import write_pages
    from .summary import summarise

    store = Store(Path(out))
    kept = store.read_grid()
    keys = [entry["key"] for entry in kept["cells"]]
    records = [store.read(key) for key in keys if store.has(key)]
    if not records:
        raise GridError(
            f"{out} has none of its {len(keys)} cells yet; run the command that makes them: "
            f"{kept['command']}"
        )
    findings = summarise(
        with_timing(records, store),
        command=kept["command"],
        seeds=tuple(kept["grid"]["seeds"]),
        calibration=kept["grid"]["calibration"],
        cells=len(keys),
        timed_on=timed_on(store.read_timing()),
    )
    findings = replace(findings, sensed=sensed(store.root))
    try:
        write_pages(findings, store.root)
    except OSError as error:
        raise ArtifactError(
            f"The report cannot be written to {str(out)!r} ({reason(error)}); make room there, "
            "then make it again with prunekit compare --report-only."
        ) from error
    return findings


def plan(grid: Grid) -> list[Job]:
    """Find out what the cells of a grid are, and what each of them depends on.

    Raises:
        PruneError: An architecture cannot be built or has no data, or none has a kind of axes.
    """
    known = {arch: find_out(grid, arch, Shared()) for arch in grid.arch}
    _check_kinds(grid, known)
    jobs = []
    for cell in grid.cells({arch: found.default_kinds for arch, found in known.items()}):
        determined_by = determinants(cell, grid, known[cell.arch])
        jobs.append(Job(cell, key_of(determined_by), determined_by))
    return jobs


def _check_kinds(grid: Grid, known: Mapping[str, Known]) -> None:
    """Refuse kinds that no architecture has; one that only some have is their cells' problem."""
    kinds = sorted({kind for found in known.values() for kind in found.kinds})
    for axes in grid.axes:
        for kind in axes.split("+"):
            if kind not in (DEFAULT, *kinds):
                raise GridError(unknown("kind of axes", kind, kinds))


def check_ready(grid: Grid) -> None:
    """Make sure that all that the grid needs is installed.

    Raises:
        PruneError: It is not.
    """
    check_pages()
    if set(grid.finetune) != {NONE}:
        check_installed()


def check_pages() -> None:
    """Make sure that reports can be written.

    Raises:
        GridError: They cannot.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GridError(
            f"Comparing needs {_listed(missing)}, which is not installed; "
            "pip install 'prunekit[compare]'."
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
