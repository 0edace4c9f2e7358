"""Summary: from the records of a grid to everything its report says."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import mean, median
from typing import Any

from .agreement import agreements, kept_fractions
from .cell import Record
from .findings import Column, Dense, Findings, Met, Origin, Scoring
from .naming import names
from .ranking import rankings
from .standings import standings
from .statistics import interval
from .wording import answer

Report = Mapping[str, Any]


def summarise(
    records: Sequence[Record],
    *,
    command: str,
    seeds: Sequence[int],
    calibration: int,
    cells: int,
    timed_on: str = "nowhere yet",
    made: str | None = None,
) -> Findings:
    """Say what came of a grid, or of as much of it as there is.

    Args:
        records: What came of each cell that was run, in any order.
        command: The command that ran them.
        seeds: All that were asked for.
        calibration: Images that criteria and repairs may see.
        cells: How many the grid has.
        timed_on: Where models were timed.
        made: When this is, ISO 8601, UTC; now if None.
    """
    reports = [record.report for record in records if record.report is not None]
    found = standings(records)
    origin = Origin(
        command=command,
        made=made or datetime.now(UTC).isoformat(timespec="seconds"),
        seeds=tuple(seeds),
        calibration=calibration,
        versions=_versions(reports),
        devices=_devices(reports),
        timed_on=timed_on,
        cells=cells,
        missing=cells - len(records),
        seconds=math.fsum(record.seconds for record in records),
        alone=math.fsum(s for report in reports for s in report["seconds"].values()),
    )
    return Findings(
        answer(found),
        origin,
        _dense(records),
        found,
        agreements(records),
        kept_fractions(records),
        _scoring(records),
        _met(records),
        rankings=rankings(found),
    )


def _dense(records: Sequence[Record]) -> tuple[Dense, ...]:
    """Describe the model of each architecture that was pruned at least once."""
    by_arch: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.report is not None:
            by_arch[record.cell.arch].append(record)
    return tuple(_one_dense(arch, by_arch[arch]) for arch in sorted(by_arch))


def _one_dense(arch: str, records: Sequence[Record]) -> Dense:
    reports = [record.report for record in records if record.report is not None]
    before, correct = reports[0]["before"], records[0].dense_correct
    low, high = interval([correct])
    times: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for batch, milliseconds in (record.timing.dense if record.timing else {}).items():
            times[batch].append(milliseconds)
    return Dense(
        arch=arch,
        params=before["params"],
        macs=before["macs"],
        top1=100 * float(correct.mean()),
        low=low,
        high=high,
        latency_ms={batch: median(found) for batch, found in times.items()},
        images=len(correct),
        data=reports[0]["recipe"]["data"],
    )


def _scoring(records: Sequence[Record]) -> tuple[Scoring, ...]:
    """Average what each criterion's scores cost over the runs that it scored in."""
    costs = defaultdict(list)
    for record in records:
        if record.cost is not None:
            costs[record.cell.arch, record.cell.criterion].append(record.cost)
    return tuple(
        Scoring(
            arch,
            criterion,
            seconds=mean(cost.seconds for cost in found),
            images=round(mean(cost.images for cost in found)),
            peak_bytes=round(mean(cost.peak_bytes for cost in found)),
        )
        for (arch, criterion), found in sorted(costs.items())
    )


def _met(records: Sequence[Record]) -> tuple[Met, ...]:
    """Say of every run with a budget of latency how near it came."""
    called, found = names(records), []
    for record in records:
        cell = record.cell
        if record.report is None or cell.by != "latency":
            continue
        timing = record.report["rounds"][-1]["timing"]
        saving = timing["saving"]
        left = 1 - saving["removed"]
        found.append(
            Met(
                Column(cell.arch, cell.axes, cell.by, cell.ratio, cell.repair, cell.finetune),
                called[cell.criterion, cell.scope],
                cell.seed,
                timing["conditions"]["batch"],
                timing["predicted"],
                saving["removed"],
                saving["low"],
                saving["high"],
                left / (1 - timing["asked"]) - 1,
            )
        )
    return tuple(sorted(found, key=lambda one: (str(one.column), one.criterion, one.seed)))


def _versions(reports: Iterable[Report]) -> dict[str, str]:
    """Collect the versions of all packages; several, if cells were run with several."""
    found: dict[str, set[str]] = defaultdict(set)
    for report in reports:
        for package, version in report["recipe"]["versions"].items():
            found[package].add(version)
    return {package: ", ".join(sorted(versions)) for package, versions in found.items()}


def _devices(reports: Iterable[Report]) -> tuple[str, ...]:
    recipes = [report["recipe"] for report in reports]
    return tuple(sorted({f"{recipe['device']}, threads {recipe['threads']}" for recipe in recipes}))
