"""The same numbers as text: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from ..findings import Column, Findings, Row, Standing
from .words import (
    aside,
    count,
    duration,
    fixed,
    heading,
    interval,
    largest,
    latency,
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

COLUMN = ("arch", "axes", "by", "ratio", "repair", "finetune")
ROW = ("criterion", "scope", "seeds", "seeded", "problem", "got", "missed", "params", "macs")
TOP1 = ("top1", "low", "high", "worst", "best", "deviation", "lost", "rank", "leads")


def csv_text(findings: Findings) -> str:
    """Write one line for each row of each standing, in full precision; nothing means none."""
    batches = _batches(findings)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    speeds = [f"{name}_batch_{batch}" for name in ("speedup", "latency_ms") for batch in batches]
    writer.writerow([*COLUMN, *ROW, *speeds, *TOP1])
    for standing in findings.standings:
        for row in standing.rows:
            writer.writerow([_plain(value) for value in _values(standing.column, row, batches)])
    return file.getvalue()


def _values(column: Column, row: Row, batches: Sequence[str]) -> Iterator[object]:
    yield from (getattr(column, name) for name in COLUMN)
    yield from (getattr(row, name) for name in ROW)
    for by_batch in (row.speedup or {}, row.latency_ms or {}):
        yield from (by_batch.get(batch) for batch in batches)
    yield from (getattr(row, name) for name in TOP1)


def _plain(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, tuple) else value


def _batches(findings: Findings) -> list[str]:
    found = {
        batch
        for standing in findings.standings
        for row in standing.rows
        for batch in (*(row.speedup or ()), *(row.latency_ms or ()))
    }
    return sorted(found, key=int)


def markdown(findings: Findings) -> str:
    """Write the answer, the rankings, the costs and the origin, readable as it is."""
    parts = [
        "# Criteria compared",
        _safe(findings.answer),
        _safe(unfinished(findings)),
        *_dense(findings),
        *_glance(findings),
        *_over_models(findings),
        *_rankings(findings),
        *_met(findings),
        *_sensed(findings),
        *_scoring(findings),
        *_origin(findings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _dense(findings: Findings) -> Iterator[str]:
    if not findings.dense:
        return
    yield "## The unpruned models"
    yield _table(
        ("model", "parameters", "MACs", "top-1 %", "95 % interval", "test images", "data"),
        [
            (d.arch, count(d.params), count(d.macs), fixed(d.top1),
             f"{fixed(d.low)}–{fixed(d.high)}", f"{d.images:,}", d.data)
            for d in findings.dense
        ],
    )  # fmt: skip


def _glance(findings: Findings) -> Iterator[str]:
    """Write one table per method: points lost, criteria down and settings across."""
    ways = methods(findings)
    if ways:
        yield "## Points of top-1 lost"
        yield "\\* leads or is tied for the lead in its column; (brackets): missed the budget."
    for way in ways:
        chosen = [s for s in findings.standings if method(s.column) == way]
        extra = aside(way, ways)
        yield f"### {_safe(str(way))}{', ' + _safe(extra) if extra else ''}"
        head = ("criterion", *(f"{s.column.arch} {percent(s.column.ratio)}" for s in chosen))
        yield _table(head, _lost(findings, chosen))


def _lost(findings: Findings, chosen: Sequence[Standing]) -> Iterator[tuple[str, ...]]:
    called = names(findings)
    found = [{called[r.criterion, r.scope]: r for r in standing.rows} for standing in chosen]
    for name in series(findings):
        if any(name in rows for rows in found):
            yield (name, *(lost(rows.get(name)) for rows in found))


def lost(row: Row | None) -> str:
    """Write what a row lost, with a mark for a leader and brackets for one that missed."""
    if row is None or row.lost is None:
        return "–"
    if row.missed:
        return f"({fixed(row.lost)})"
    return f"{fixed(row.lost)}{' *' if row.leads else ''}"


def _over_models(findings: Findings) -> Iterator[str]:
    if not findings.rankings:
        return
    yield "## Rank over models"
    yield (
        "Ranks in every setting, averaged over the ratios of each model and then over models; the "
        "interval is over models. Behind: told apart from the best (Friedman and Nemenyi, 5 %)."
    )
    for ranking in findings.rankings:
        yield f"### {_safe(over(ranking))}"
        yield _table(
            ("criterion", "mean rank", "95 % interval", "standing"),
            [
                (row.name, fixed(row.mean), f"{fixed(row.low)}–{fixed(row.high)}",
                 "behind" if row.behind else "not told apart from the best")
                for row in ranking.rows
            ],
        )  # fmt: skip


def _rankings(findings: Findings) -> Iterator[str]:
    batch = largest(_batches(findings))
    head = ("rank", "criterion", "scope", "top-1 %", "95 % interval", "lost", "seeds", "MACs",
            "parameters", latency(batch), "standing")  # fmt: skip
    yield "## Rankings"
    for standing in findings.standings:
        yield f"### {_safe(heading(standing.column))}"
        yield _safe(standing.sentence)
        yield _table(head, [_ranked(row, standing, batch) for row in standing.rows])


def _ranked(row: Row, standing: Standing, batch: str | None) -> tuple[str, ...]:
    speedup = (row.speedup or {}).get(batch or "")
    words = why(row, standing.column) or verdict(row, standing)
    return (
        str(row.rank or "–"), row.criterion, row.scope, fixed(row.top1), interval(row),
        fixed(row.lost), seeds(row), count(row.macs), count(row.params),
        fixed(1 / speedup if speedup else None), words,
    )  # fmt: skip


def _met(findings: Findings) -> Iterator[str]:
    if not findings.met:
        return
    yield "## Latency: asked, predicted, measured"
    yield "Fractions of the dense model's time that are gone; quartiles over pairs of passes."
    yield _table(
        ("setting", "criterion", "seed", "batch", "asked", "predicted", "measured", "quartiles",
         "miss"),
        [
            (heading(m.column), m.criterion, str(m.seed), str(m.batch), percent(m.column.ratio),
             share(m.predicted), share(m.measured), f"{share(m.low)} to {share(m.high)}",
             f"{100 * m.miss:+.1f} %")
            for m in findings.met
        ],
    )  # fmt: skip


def _sensed(findings: Findings) -> Iterator[str]:
    if not findings.sensed:
        return
    yield "## Sensitivity"
    yield "Each axis cut alone, as far as was tried; divergence from the dense model in nats."
    for found in findings.sensed:
        yield (
            f"### {_safe(found.arch)}: {_safe(found.criterion)}, repair {_safe(found.repair)}, "
            f"{found.images:,} training images of {_safe(found.data)}"
        )
        most = {cut.axis: cut for cut in sorted(found.cuts, key=lambda cut: cut.gone)}
        yield _table(
            ("axis", "gone", "divergence", "agreement", "parameters gone"),
            [
                (cut.axis, percent(cut.gone), f"{cut.divergence:.1e}", share(cut.agreement),
                 share(cut.params))
                for cut in most.values()
            ],
        )  # fmt: skip


def _scoring(findings: Findings) -> Iterator[str]:
    if not findings.scoring:
        return
    yield "## What a criterion costs"
    yield "To score the whole model once, gathering its statistics included."
    yield _table(
        ("model", "criterion", "seconds", "images", "peak memory"),
        [
            (s.arch, s.criterion, fixed(s.seconds, 3), f"{s.images:,}", f"{count(s.peak_bytes)}B")
            for s in findings.scoring
        ],
    )


def _origin(findings: Findings) -> Iterator[str]:
    origin = findings.origin
    yield "## Where the figures are from"
    yield f"```console\n$ {_flat(origin.command)}\n```"
    facts = {
        "made": origin.made,
        "seeds": ", ".join(map(str, origin.seeds)),
        "calibration images": f"{origin.calibration:,}",
        "hardware": "; ".join(origin.devices),
        "latency timed on": origin.timed_on,
        "versions": ", ".join(f"{name} {version}" for name, version in origin.versions.items()),
        "cells": f"{origin.cells - origin.missing:,} of {origin.cells:,}",
        "time": f"{duration(origin.seconds)}; with nothing shared {duration(origin.alone)}"
        if origin.alone
        else duration(origin.seconds),
    }
    yield "\n".join(f"- {name}: {_safe(value)}" for name, value in facts.items() if value)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Align a table, so that it reads well as it is."""
    lines = [[_safe(cell) for cell in line] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def _safe(text: str) -> str:
    """Take from a text what Markdown or HTML would make of it."""
    text = _flat(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|`\[\]])", r"\\\1", text)


def _flat(text: str) -> str:
    return " ".join(text.split())
