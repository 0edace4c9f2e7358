"""Standings: who is ahead in each column, by how much, and whether that is beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import rankdata

from .cell import NONE, Record
from .findings import Column, Pair, Row, Standing
from .naming import Runs, by_name, names
from .statistics import ANY, Correct, compare, holm, interval
from .wording import sentence

MISS = 0.005  # of the whole model: a run further than this from its budget is not compared
ROUGH = {"latency", "memory"}  # budgets that are not met so exactly: one is measured, one a maximum
MISS_OF_ROUGH = 0.03
EPSILON = 1e-9  # what floating point may add to that

Report = Mapping[str, Any]


def standings(records: Sequence[Record]) -> tuple[Standing, ...]:
    """Rank the rows of every column; untrained columns come first, then unrepaired ones."""
    columns: dict[Column, list[Record]] = {}
    for record in records:
        cell = record.cell
        column = Column(cell.arch, cell.axes, cell.by, cell.ratio, cell.repair, cell.finetune)
        columns.setdefault(column, []).append(record)
    called = names(records)
    return tuple(
        standing(column, by_name(columns[column], called))
        for column in sorted(columns, key=_column_order)
    )


def standing(column: Column, runs: Mapping[str, Runs]) -> Standing:
    """Rank the rows of one column.

    Only rows that met the budget are compared. All their pairs are one family of tests, so the
    more rows a column has, the larger a difference has to be to be called one.

    Args:
        column: The setting.
        runs: Name of each row to its runs, by seed.
    """
    rows = [_row(name, found, column.ratio) for name, found in runs.items()]
    failed = [row for row in rows if row.problem is not None]
    missed = _best_first([row for row in rows if row.missed])
    ranked = _best_first([row for row in rows if row.problem is None and not row.missed])
    pairs = _pairs([row.name for row in ranked], runs)
    places = rankdata([-_top1(row) for row in ranked], method="min")
    level = {pair.second for pair in pairs[: len(ranked) - 1] if pair.verdict == "tie"}
    ordered = (
        *(
            replace(row, rank=int(place), leads=n == 0 or row.name in level)
            for n, (row, place) in enumerate(zip(ranked, places, strict=True))
        ),
        *missed,
        *failed,
    )
    return Standing(column, ordered, pairs, sentence(ordered, pairs))


def _row(name: str, runs: Runs, asked: float) -> Row:
    """Sum up the runs of one row; if some had a problem, there are no figures of any."""
    records = list(runs.values())
    cell = records[0].cell
    seeds = tuple(sorted(record.cell.seed for record in records))
    row = Row(cell.criterion, cell.scope, seeds, ANY not in runs, name=name)
    reports = [record.report for record in records if record.report is not None]
    if len(reports) < len(records):
        return replace(row, problem=_problem(records))
    correct = [record.correct for record in records]
    each = [_percent(one) for one in correct]
    top1, dense = _percent(*correct), _percent(*(record.dense_correct for record in records))
    low, high = interval(correct)
    residual = max((report["got"] - asked for report in reports), key=abs)
    return replace(
        row,
        got=_mean([report["got"] for report in reports]),
        residual=residual,
        missed=abs(residual) > (MISS_OF_ROUGH if cell.by in ROUGH else MISS) + EPSILON,
        params=_mean([report["after"]["params"] for report in reports]),
        macs=_mean([report["after"]["macs"] for report in reports]),
        speedup=_by_batch(records, lambda old, new: old / new),
        latency_ms=_by_batch(records, lambda old, new: new),
        latency_spread=_spread(records),
        top1=top1,
        low=low,
        high=high,
        worst=min(each),
        best=max(each),
        deviation=float(np.std(each, ddof=1)) if len(each) > 1 else None,
        lost=dense - top1,
    )


def _problem(records: Sequence[Record]) -> str:
    """Say what was wrong; once, if it was the same with every seed."""
    found = [record.problem for record in records if record.report is None]
    if len(set(found)) == 1 and len(found) == len(records):
        return str(found[0])
    return " ".join(
        f"Seed {record.cell.seed}: {record.problem}" for record in records if not record.report
    )


def _pairs(ranked: Sequence[str], runs: Mapping[str, Runs]) -> tuple[Pair, ...]:
    """Compare all rows with each other, the best with all others first."""
    correct: dict[str, dict[int | None, Correct]] = {
        name: {seed: record.correct for seed, record in runs[name].items()} for name in ranked
    }
    found = list(combinations(ranked, 2))
    comparisons = [compare(correct[first], correct[second]) for first, second in found]
    adjusted = holm([comparison.p for comparison in comparisons])
    return tuple(
        Pair(*pair, comparison.difference, comparison.p, float(p), comparison.verdict(p))
        for pair, comparison, p in zip(found, comparisons, adjusted, strict=True)
    )


def _by_batch(
    records: Sequence[Record], measure: Callable[[float, float], float]
) -> dict[str, float] | None:
    """Average a measure of the dense and the small latency over runs, by batch size."""
    found = [record.timing for record in records if record.timing is not None]
    if len(found) < len(records):
        return None
    return {
        batch: _mean([measure(timing.dense[batch], timing.small[batch]) for timing in found])
        for batch in found[0].dense
    }


def _spread(records: Sequence[Record]) -> dict[str, tuple[float, float]] | None:
    """Average the quartiles of the small latencies over the dense medians, by batch size."""
    found = [record.timing for record in records if record.timing is not None]
    if len(found) < len(records) or not all(timing.low for timing in found):
        return None
    return {
        batch: (
            _mean([timing.low[batch] / timing.dense[batch] for timing in found]),
            _mean([timing.high[batch] / timing.dense[batch] for timing in found]),
        )
        for batch in found[0].dense
    }


def _best_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-_top1(row), row.name))


def _top1(row: Row) -> float:
    assert row.top1 is not None, "only rows with figures are sorted"
    return row.top1


def _percent(*correct: Correct) -> float:
    return 100 * sum(np.count_nonzero(one) for one in correct) / sum(map(len, correct))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _column_order(column: Column) -> tuple[Any, ...]:
    trained, repaired = column.finetune != NONE, column.repair != NONE
    model = (column.arch, column.axes, column.by)
    return (*model, trained, column.finetune, repaired, column.repair, column.ratio)
