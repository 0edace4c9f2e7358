"""What things are called on every page, and how numbers are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..cell import NONE
from ..findings import Column, Findings, Ranking, Row, Standing
from ..grid import DEFAULT
from ..naming import CONTROL


@dataclass(frozen=True)
class Series:
    """A criterion as it looks in every figure.

    Attributes:
        name: As in `Pair`.
        number: Its place in the alphabet; chooses colour, marker and dash.
        control: Whether it is the random control, which is drawn as such.
    """

    name: str
    number: int
    control: bool


@dataclass(frozen=True, order=True)
class Method:
    """What a column does, apart from how much it removes of which model.

    Attributes:
        axes, by, repair, finetune: As in `Cell`.
    """

    axes: tuple[str, ...]
    by: str
    repair: str
    finetune: str

    def __str__(self) -> str:
        """Say it in words."""
        repair = "No repair" if self.repair == NONE else f"Repair {self.repair}"
        trained = "no training" if self.finetune == NONE else f"trained with {self.finetune}"
        return f"{repair}, {trained}"


def settled(findings: Findings) -> Findings:
    """Call the axes of all models `default` if each has but one set, and they are not the same.

    They then are no choice that a reader has. What they are, the parts on layers tell.
    """
    columns = [standing.column for standing in findings.standings]
    sets = {(column.arch, column.axes) for column in columns}
    if len(sets) > len({arch for arch, _ in sets}) or len({axes for _, axes in sets}) < 2:
        return findings
    standings = tuple(
        replace(standing, column=replace(standing.column, axes=(DEFAULT,)))
        for standing in findings.standings
    )
    return replace(findings, standings=standings)


def method(column: Column) -> Method:
    """Return what a column does."""
    return Method(column.axes, column.by, column.repair, column.finetune)


def methods(findings: Findings) -> list[Method]:
    """Name every method once, in the order of the standings."""
    return list(dict.fromkeys(method(standing.column) for standing in findings.standings))


def aside(way: Method, ways: Iterable[Method]) -> str:
    """Name the axes and the budget of a method where they are not the same for all."""
    several = list(ways)
    axes = f"axes {'+'.join(way.axes)}" if len({other.axes for other in several}) > 1 else ""
    by = f"by {way.by}" if len({other.by for other in several}) > 1 else ""
    return ", ".join(word for word in (axes, by) if word)


def heading(column: Column) -> str:
    """Name a column in a line."""
    return (
        f"{column.arch}, {percent(column.ratio)} of {column.by} removed "
        f"from {'+'.join(column.axes)}, {str(method(column)).lower()}"
    )


def over(ranking: Ranking) -> str:
    """Say in a line what was ranked over models, and how sure it is that rows differ at all."""
    way = Method((), ranking.by, ranking.repair, ranking.finetune)
    ratios = ", ".join(percent(ratio) for ratio in ranking.ratios)
    sure = f"p = {ranking.p:.2g}" if ranking.p >= 1e-4 else "p < 0.0001"
    return (
        f"{way}, {ratios} of {ranking.by}: {len(ranking.models)} models, {sure} (Friedman), "
        f"critical difference {ranking.critical:.2f}"
    )


def scopes(findings: Findings) -> dict[str, set[str]]:
    """Return the scopes that each criterion ran in."""
    found: dict[str, set[str]] = {}
    for standing in findings.standings:
        for row in standing.rows:
            found.setdefault(row.criterion, set()).add(row.scope)
    return found


def names(findings: Findings) -> dict[tuple[str, str], str]:
    """Return what each criterion in each scope is called: with its scope if there are several."""
    return {
        (criterion, scope): criterion if len(several) == 1 else f"{criterion}, scope {scope}"
        for criterion, several in scopes(findings).items()
        for scope in sorted(several)
    }


def series(findings: Findings) -> dict[str, Series]:
    """Give every criterion its looks, the control last."""
    found = set(names(findings).values()) | {kept.criterion for kept in findings.kept}
    ordered = sorted(found, key=lambda name: (is_control(name), name))
    return {name: Series(name, i, is_control(name)) for i, name in enumerate(ordered)}


def is_control(name: str) -> bool:
    """Tell whether a criterion, with its options and scope if any, is the random control."""
    return name.split(":")[0].split(",")[0] == CONTROL


def verdict(row: Row, standing: Standing) -> str:
    """Say in a word or two where a row stands."""
    if row.problem is not None:
        return "failed"
    if row.missed:
        return "missed the budget"
    if not row.leads:
        return "behind"
    return "leads" if sum(other.leads for other in standing.rows) == 1 else "tied for the lead"


def why(row: Row, column: Column) -> str:
    """Explain a row that has no rank; empty for one that has."""
    if row.problem is not None:
        return row.problem
    if row.missed and row.got is not None:
        return f"Removed {row.got:.2%} where {column.ratio:.2%} was asked: not ranked."
    return ""


def fixed(value: float | None, digits: int = 2) -> str:
    """Write a number, or a dash where there is none."""
    # Adding zero to what is rounded turns -0.00 into 0.00.
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def percent(value: float | None) -> str:
    """Write a fraction as a percentage, with as few digits as say it."""
    return "–" if value is None else f"{100 * value:.4g} %"


def share(value: float | None) -> str:
    """Write a fraction as a percentage, to a hundredth."""
    return "–" if value is None else f"{100 * value:.2f} %"


def count(value: float | None) -> str:
    """Write a large number with three digits and a unit."""
    if value is None:
        return "–"
    scale, unit = unit_of(value)
    digits = f"{value / scale:#.3g}" if unit else f"{value:.0f}"
    return f"{digits.removesuffix('.')} {unit}".strip()


def unit_of(value: float) -> tuple[float, str]:
    """Choose the unit that a number is written in."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale * 0.9995:  # or it would be written as 1e+03 of the unit below
            return scale, unit
    return 1.0, ""


def duration(seconds: float) -> str:
    """Write a time for people."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def latency(batch: str | None) -> str:
    """Head a column of latencies; none were taken if there is no batch size."""
    return "latency, dense = 1" + (f" (batch {batch})" if batch else "")


def largest(batches: Iterable[str]) -> str | None:
    """Return the largest batch size, or None of none."""
    return max(batches, key=int, default=None)


def interval(row: Row) -> str:
    """Write the confidence interval of a row's top-1."""
    return "–" if row.low is None else f"{fixed(row.low)}–{fixed(row.high)}"


def seeds(row: Row) -> str:
    """Say how far the seeds of a row are apart."""
    if row.deviation is None:
        return "1" if row.seeded else "any"
    return f"{len(row.seeds)}: ±{fixed(row.deviation)}"


def unfinished(findings: Findings) -> str:
    """Say how much has not been run; empty if all has."""
    origin = findings.origin
    if not origin.missing:
        return ""
    verb = "has" if origin.missing == 1 else "have"
    return f"{origin.missing} of {origin.cells} cells {verb} not been run yet."
