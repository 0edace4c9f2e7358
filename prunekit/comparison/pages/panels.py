"""What the figures show: points, curves and panels, before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..findings import Dense, Findings, Row
from .words import Method, Series, aside, largest, latency, method, methods, names, series

MACS, LATENCY = "macs", "latency"  # what a panel shows accuracy against


@dataclass(frozen=True)
class Point:
    """A model in the plane of accuracy and cost.

    Attributes:
        cost, top1: Where it is.
        low, high: Confidence interval of its accuracy.
        worst, best: Accuracy of the single seeds, where there are several.
        fast, slow: Quartiles of its cost, where that was timed.
    """

    cost: float
    top1: float
    low: float
    high: float
    worst: float | None = None
    best: float | None = None
    fast: float | None = None
    slow: float | None = None

    @property
    def edges(self) -> tuple[float, ...]:
        """All accuracies that are drawn of it."""
        seeds = (self.worst, self.best)
        return self.low, self.high, *(value for value in seeds if value is not None)


@dataclass(frozen=True)
class Curve:
    """The models of one criterion, from the least cut to the most."""

    series: Series
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """What one panel shows.

    Attributes:
        arch: Name of the architecture.
        method: What was done to it.
        kind: What it costs: `MACS` or `LATENCY`.
        label: That, for the horizontal axis.
        dense: The unpruned model; None if unknown.
        curves: One per criterion.
    """

    arch: str
    method: Method
    kind: str
    label: str
    dense: Point | None
    curves: tuple[Curve, ...]

    def __str__(self) -> str:
        """Say what it shows, for those who do not see it."""
        ends = [
            f"{curve.series.name} {_span([point.top1 for point in curve.points])}"
            for curve in self.curves
        ]
        dense = f" Dense: {self.dense.top1:.2f} %." if self.dense else ""
        return (
            f"{self.arch}: top-1 accuracy against {self.label}. {self.method}. From the least "
            f"cut to the most: {'; '.join(ends)}.{dense}"
        )


def panels(findings: Findings, kind: str) -> list[Panel]:
    """Gather the panels that have anything to show, method by method."""
    found = []
    for way in methods(findings):
        archs = [s.column.arch for s in findings.standings if method(s.column) == way]
        for arch in dict.fromkeys(archs):
            panel = _panel(findings, way, arch, kind)
            if panel.curves:
                found.append(panel)
    return found


def front(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other beats in accuracy without costing more, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


def _title(way: Method, ways: Sequence[Method]) -> str:
    extra = aside(way, ways)
    return f"Accuracy against MACs. {way}{', ' + extra if extra else ''}"


def _panel(findings: Findings, way: Method, arch: str, kind: str) -> Panel:
    rows = [
        (standing.column.ratio, row)
        for standing in findings.standings
        if method(standing.column) == way and standing.column.arch == arch
        for row in standing.rows
    ]
    dense = next((dense for dense in findings.dense if dense.arch == arch), None)
    batch = _batch(row for _, row in rows)
    label = "MACs" if kind == MACS else latency(batch)
    found: dict[str, list[tuple[float, Point]]] = {}
    called = names(findings)
    for ratio, row in rows:
        point = _point(row, kind, batch)
        if point:
            found.setdefault(called[row.criterion, row.scope], []).append((ratio, point))
    looks = series(findings)
    curves = tuple(
        Curve(entry, tuple(point for _, point in sorted(found[name], key=lambda pair: pair[0])))
        for name, entry in looks.items()
        if name in found
    )
    return Panel(arch, way, kind, label, _dense_point(dense, kind), curves)


def _batch(rows: Iterable[Row]) -> str | None:
    return largest({batch for row in rows for batch in row.speedup or ()})


def _point(row: Row, kind: str, batch: str | None) -> Point | None:
    if row.top1 is None or row.low is None or row.high is None:
        return None
    speedup = (row.speedup or {}).get(batch or "")
    cost = row.macs if kind == MACS else 1 / speedup if speedup else None
    if cost is None:
        return None
    seeds = (row.worst, row.best) if len(row.seeds) > 1 else (None, None)
    spread = (row.latency_spread or {}).get(batch or "") if kind == LATENCY else None
    return Point(cost, row.top1, row.low, row.high, *seeds, *(spread or (None, None)))


def _dense_point(dense: Dense | None, kind: str) -> Point | None:
    if dense is None:
        return None
    return Point(dense.macs if kind == MACS else 1.0, dense.top1, dense.low, dense.high)


def _span(values: Sequence[float]) -> str:
    ends = [values[0], values[-1]] if len(values) > 1 else list(values)
    return " to ".join(f"{value:.2f} %" for value in ends)


def by_method(shown: Iterable[Panel]) -> Iterator[tuple[Method, list[Panel]]]:
    """Group panels, keeping their order."""
    groups: dict[Method, list[Panel]] = {}
    for panel in shown:
        groups.setdefault(panel.method, []).append(panel)
    yield from groups.items()
