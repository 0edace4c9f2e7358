"""The report as one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

from ..cell import NONE
from ..findings import Agreement, Column, Findings, Kept, Pair, Row, Standing
from .figures import draw, swatch
from .layers import draw_kept
from .panels import LATENCY, MACS, by_method, panels
from .sensitive import draw_sensed
from .theme import palette_css
from .words import (
    Method,
    Series,
    aside,
    count,
    duration,
    fixed,
    heading,
    interval,
    is_control,
    largest,
    method,
    methods,
    names,
    over,
    percent,
    seeds,
    series,
    share,
    unfinished,
    verdict,
    why,
)

FIELDS = {  # of a column, in the order that they are chosen in, and what they are called
    "arch": "Model",
    "axes": "Axes",
    "by": "Budget",
    "ratio": "Removed",
    "repair": "Repair",
    "finetune": "Training",
}
FIRST = ("axes", "by", "repair", "finetune")  # shown for one value at a time, to begin with


@dataclass(frozen=True)
class Choice:
    """A control that narrows the page to one value of a field.

    Attributes:
        field: Of a column.
        name: What people call it.
        options: Values, and what people call them.
        first: What is chosen to begin with; empty for everything.
    """

    field: str
    name: str
    options: Mapping[str, str]
    first: str


@dataclass(frozen=True)
class Line:
    """A row of the ranking, with what the table says about it."""

    column: Column
    row: Row
    name: str
    verdict: str
    why: str
    relative: float | None
    ms: float | None

    @property
    def plain(self) -> bool:
        """Whether it has a rank."""
        return self.row.rank is not None


@dataclass(frozen=True)
class Glance:
    """A table of points lost: criteria down, settings across."""

    method: Method
    extra: str
    columns: Sequence[Column]
    lines: Sequence[tuple[Series, Sequence[Row | None]]]


@dataclass(frozen=True)
class Heat:
    """One matrix of agreement; `values` has the part below the diagonal."""

    title: str
    ratio: str
    names: Sequence[str]
    values: Sequence[Sequence[float | None]]


def html(findings: Findings) -> str:
    """Write the page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    # Names of criteria, problems and commands are other people's text: escape everything.
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip
    page.filters |= {"fixed": fixed, "percent": percent, "count": count, "duration": duration}
    page.tests["control"] = is_control
    script, style = _asset("script.js"), palette_css() + _asset("style.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.from_string(_asset("template.html")).render(
        findings=findings,
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        unfinished=unfinished(findings),
        answer=_lead(findings.answer),
        facts=_facts(findings),
        fields=FIELDS,
        choices=_choices(findings),
        legend=[(entry, Markup(swatch(entry))) for entry in series(findings).values()],
        curves=_curves(findings, Markup),
        over=over,
        glances=list(_glances(findings)),
        lines=list(_lines(findings)),
        batch=_batch(findings),
        kept=_kept(findings, Markup),
        agreements=list(_agreements(findings)),
        sensed=[
            (one, Markup(draw_sensed(one, f"sense{number}-")))
            for number, one in enumerate(findings.sensed)
        ],
        several=_several(findings),
        attributes=_attributes,
        heading=heading,
        brief=partial(_brief, several=_several(findings)),
        interval=interval,
        seeds=seeds,
        share=share,
        pairs=_pairs,
    )


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _attributes(column: Column | Kept | Agreement | Method) -> Mapping[str, str]:
    """Return what the controls of the page know something by."""
    known = {field: getattr(column, field) for field in FIELDS if hasattr(column, field)}
    return {f"data-{field}": _value(value) for field, value in known.items()}


def _value(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _choices(findings: Findings) -> Iterator[Choice]:
    for field in _several(findings):
        values = [getattr(standing.column, field) for standing in findings.standings]
        ordered = sorted(set(values)) if field == "ratio" else list(dict.fromkeys(values))
        options = {_value(v): percent(v) if field == "ratio" else _value(v) for v in ordered}
        first = _value(values[0]) if field in FIRST else ""
        yield Choice(field, FIELDS[field], options, first)


def _several(findings: Findings) -> list[str]:
    """Name the fields in which columns differ."""
    return [
        field
        for field in FIELDS
        if len({getattr(standing.column, field) for standing in findings.standings}) > 1
    ]


def _lead(answer: str) -> tuple[str, str]:
    """Split off the first sentence, and keep numbers with their per cent."""
    first, *rest = re.split(r"(?<=[.!?]) (?=[A-Z])", answer.replace(" %", "\u00a0%"), maxsplit=1)
    return first, " ".join(rest)


def _brief(column: Column, several: Sequence[str]) -> str:
    """Name a column among the others of the page."""
    words = {
        "arch": column.arch,
        "axes": "+".join(column.axes),
        "by": f"by {column.by}",
        "ratio": percent(column.ratio),
        "repair": "no repair" if column.repair == NONE else column.repair,
        "finetune": "no training" if column.finetune == NONE else column.finetune,
    }
    return ", ".join(words[field] for field in several) or heading(column)


def _facts(findings: Findings) -> Mapping[str, str]:
    columns = [standing.column for standing in findings.standings]
    images = {f"{dense.images:,} of {dense.data}" for dense in findings.dense}
    facts = {
        "Models": _listed(column.arch for column in columns),
        "Criteria": ", ".join(series(findings)),
        "Removed": _removed(columns),
        "Repairs": _listed(column.repair for column in columns),
        "Trainings": _listed(column.finetune for column in columns),
        "Test images": "; ".join(sorted(images)),
    }
    return {name: text for name, text in facts.items() if text}


def _removed(columns: Sequence[Column]) -> str:
    ratios = sorted({column.ratio for column in columns})
    counted = _listed(column.by for column in columns)
    return f"{', '.join(percent(ratio) for ratio in ratios)} of {counted}" if ratios else ""


def _listed(values: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _batch(findings: Findings) -> str | None:
    rows = [row for standing in findings.standings for row in standing.rows]
    return largest({batch for row in rows for batch in row.speedup or ()})


def _curves(findings: Findings, markup: Any) -> list[dict[str, Any]]:
    titles = {
        MACS: ("Accuracy against MACs", "macs"),
        LATENCY: ("Accuracy against latency", "latency"),
    }
    found = []
    for kind, (title, anchor) in titles.items():
        ways = [
            (way, aside(way, methods(findings)), [
                (panel, markup(draw(panel, f"{anchor}{number}-{place}-")))
                for place, panel in enumerate(group)
            ])
            for number, (way, group) in enumerate(by_method(panels(findings, kind)))
        ]  # fmt: skip
        found.append({"title": title, "anchor": anchor, "ways": ways})
    return found


def _glances(findings: Findings) -> Iterator[Glance]:
    called, ways = names(findings), methods(findings)
    for way in ways:
        chosen = [s for s in findings.standings if method(s.column) == way]
        found = [{called[r.criterion, r.scope]: r for r in s.rows} for s in chosen]
        lines = [
            (entry, [rows.get(name) for rows in found])
            for name, entry in series(findings).items()
            if any(name in rows for rows in found)
        ]
        yield Glance(way, aside(way, ways), [s.column for s in chosen], lines)


def _lines(findings: Findings) -> Iterator[Line]:
    called, batch = names(findings), _batch(findings) or ""
    for standing in findings.standings:
        for row in standing.rows:
            speedup = (row.speedup or {}).get(batch)
            yield Line(
                column=standing.column,
                row=row,
                name=called[row.criterion, row.scope],
                verdict=verdict(row, standing),
                why=why(row, standing.column),
                relative=1 / speedup if speedup else None,
                ms=(row.latency_ms or {}).get(batch),
            )


def _pairs(standing: Standing) -> tuple[list[str], list[tuple[str, list[Pair | None]]]]:
    """Lay out the tests of one column: each row against all that are ranked below it."""
    ordered = list(dict.fromkeys(name for pair in standing.pairs for name in _both(pair)))
    found = {(pair.first, pair.second): pair for pair in standing.pairs}
    lines = [(first, [found.get((first, second)) for second in ordered[1:]]) for first in ordered]
    return ordered[1:], lines[:-1]


def _both(pair: Pair) -> tuple[str, str]:
    return pair.first, pair.second


def _kept(findings: Findings, markup: Any) -> list[tuple[Kept, list[tuple[str, Any]]]]:
    """Draw what is kept, grouped by everything but the criterion."""
    groups: dict[tuple[Any, ...], list[Kept]] = {}
    for kept in findings.kept:
        groups.setdefault((kept.arch, kept.axes, kept.by, kept.ratio), []).append(kept)
    looks = series(findings)
    return [
        (group[0], [
            (kept.criterion, markup(draw_kept(kept, f"k{number}-{place}-")))
            for place, kept in enumerate(sorted(group, key=lambda k: looks[k.criterion].number))
        ])
        for number, group in enumerate(groups.values())
    ]  # fmt: skip


def _agreements(findings: Findings) -> Iterator[tuple[str, list[tuple[Agreement, list[Heat]]]]]:
    """Group the matrices by model; the whole model comes first."""
    groups: dict[str, list[Agreement]] = {}
    for agreement in findings.agreements:
        groups.setdefault(agreement.arch, []).append(agreement)
    for arch, group in groups.items():
        ordered = sorted(group, key=lambda agreement: agreement.sort != "all")
        yield arch, [(agreement, list(_heats(agreement))) for agreement in ordered]


def _heats(agreement: Agreement) -> Iterator[Heat]:
    yield Heat("Scores: Spearman's correlation", "", agreement.criteria, agreement.correlation)
    for setting, overlap in agreement.overlap.items():
        ratio, _, by = setting.partition(" ")  # "0.5", or "0.5 of params" if there are several
        title = f"Kept at {percent(float(ratio))} {by + ' ' if by else ''}removed: Jaccard index"
        yield Heat(title, str(float(ratio)), agreement.criteria, overlap)
