"""Which score of slices is DIMAP's? Chosen on training images, reported on test images.

Every variant, with heads and MLP channels competing apart (`kind`: each loses the same fraction)
or with each other (`model`), removes 30, 50 and 70 % of each model's parameters in one shot. The
choice has the least loss on the calibration split, which is of training images, mean over models
and ratios. It is then compared with the plain one, and with LAMP, magnitude and Taylor, each in
the scope that is better for it by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prunekit.comparison.statistics import compare, holm, interval
from prunekit.criteria import CRITERIA

from .blame import blame, blame_page
from .parts import Part, Plain, Settings, table
from .slice_cells import RATIOS, SPLITS, Bench, Entry, Row
from .variants import VARIANTS

PLAIN: Entry = ("plain", "kind")
DIMAP: Entry = ("dimap", "model")  # as it is built in, so that it knows what the budget counts
OTHERS = ("lamp", "magnitude", "taylor")
SCOPES = ("kind", "model")
SEEDS = (0, 1, 2)  # of calibration images
REPAIR = "lstsq"


def run(settings: Settings) -> Plain:
    """Prune with all variants, choose one, and compare it with the plain one and with others."""
    bench = Bench(settings)
    variants = list(product([variant.name for variant in VARIANTS], SCOPES))
    rows = {entry: bench.row(entry, "none", _seeds(entry)) for entry in variants}
    chosen = _best(rows)
    rivals = [PLAIN]
    for name in OTHERS:
        found = {(name, s): bench.row((name, s), "none", _seeds((name, s))) for s in SCOPES}
        rows |= found
        rivals.append(_best(found))
    repaired = {entry: bench.row(entry, REPAIR, SEEDS) for entry in [chosen, *rivals]}
    return {
        "images": {split: bench.images(split) for split in SPLITS},
        "chosen": chosen,
        "rivals": rivals,
        "rows": [_figures(entry, row) for entry, row in rows.items()],
        "margins": _margins(chosen, {entry: rows[entry] for entry in variants}),
        "repaired": [_figures(entry, row) for entry, row in repaired.items()],
        "duels": {
            "none": _duels(rows[chosen], {entry: rows[entry] for entry in rivals}),
            REPAIR: _duels(repaired[chosen], {entry: repaired[entry] for entry in rivals}),
        },
        "by_macs": [
            _figures(e, bench.row(e, "none", SEEDS[:1], "macs")) for e in (DIMAP, chosen, PLAIN)
        ],
        "blame": {model: blame(settings.of(model), (PLAIN, chosen)) for model in settings.models},
    }


def _seeds(entry: Entry) -> tuple[int, ...]:
    """Seeds make a difference only to what looks at images."""
    informed = entry[0] in CRITERIA.names() and CRITERIA.get(entry[0]).needs != "nothing"
    return SEEDS if informed else SEEDS[:1]


def _best(rows: Mapping[Entry, Row]) -> Entry:
    """The rule: the least mean loss on training images."""
    return min(rows, key=lambda entry: rows[entry].mean_lost("train"))


def _figures(entry: Entry, row: Row) -> Plain:
    def cell(model: str, ratio: float) -> Plain:
        where = (model, ratio)
        low, high = interval(list(row.correct["test"][where].values()))
        return {
            "model": model,
            "ratio": ratio,
            "got": row.got[where],
            "kept": row.kept[where],
            "lost": {split: row.lost(split, where) for split in SPLITS},
            "top1": [low, high],
        }

    return {
        "score": entry[0],
        "scope": entry[1],
        "mean_lost": {split: row.mean_lost(split) for split in SPLITS},
        "cells": [cell(*where) for where in row.got],
    }


def _margins(chosen: Entry, rows: Mapping[Entry, Row]) -> list[Plain]:
    """How far behind the choice each variant is on training images, and whether that is noise.

    An image counts by how often it is right over models and ratios, so that one test covers all
    cells: a paired t-test over images, adjusted by Holm for the number of variants.
    """
    behind = [entry for entry in rows if entry != chosen]
    best = rows[chosen].per_image("train")
    adjusted = holm([_paired_t(best, rows[entry].per_image("train")) for entry in behind])
    return [
        {
            "score": entry[0],
            "scope": entry[1],
            "points": rows[entry].mean_lost("train") - rows[chosen].mean_lost("train"),
            "p": float(p),
        }
        for entry, p in zip(behind, adjusted, strict=True)
    ]


def _paired_t(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    same = np.array_equal(first, second)  # has no variance to test with
    return 1.0 if same else float(stats.ttest_rel(first, second).pvalue)


def _duels(row: Row, rivals: Mapping[Entry, Row]) -> list[Plain]:
    """Compare the choice with each rival on test images, cell by cell, exactly and paired."""
    cells = [(entry, where) for entry in rivals for where in row.got]
    found = [
        compare(row.correct["test"][where], rivals[entry].correct["test"][where])
        for entry, where in cells
    ]
    adjusted = holm([duel.p for duel in found])
    return [
        {
            "rival": entry,
            "model": where[0],
            "ratio": where[1],
            "points": duel.difference,
            "verdict": duel.verdict(float(p)),
            "p": float(p),
        }
        for (entry, where), duel, p in zip(cells, found, adjusted, strict=True)
    ]


# --- the page --------------------------------------------------------------------------


def page(data: Plain) -> str:
    """Turn the figures into Markdown."""
    chosen = tuple(data["chosen"])
    images = data["images"]
    return "\n\n".join(
        (
            f"Points of top-1 lost in one shot, mean over {_where(data)}. **Chosen** by the "
            f"{images['train']:,} training images of the calibration split: "
            f"**`{chosen[0]}`, scope `{chosen[1]}`**; test images ({images['test']:,}) had no part "
            "in it. *p* says whether a variant is really behind the choice on training images "
            "(paired t-test over images, adjusted by Holm).",
            _variants_table(data),
            "### Where the choice stands, on test images",
            _cells_table(data),
            _duels_said(data),
            "### By MACs",
            _macs_table(data),
            "### Why the plain score falls behind",
            blame_page(data["blame"]),
        )
    )


def _where(data: Plain) -> str:
    cells = data["rows"][0]["cells"]
    models = ", ".join(dict.fromkeys(cell["model"] for cell in cells))
    return f"{models} at {', '.join(f'{r:.0%}' for r in RATIOS)} of all parameters"


def _variants_table(data: Plain) -> str:
    says = {variant.name: variant.says for variant in VARIANTS}
    margins = {(m["score"], m["scope"]): m for m in data["margins"]}
    rows = sorted(data["rows"], key=lambda row: row["mean_lost"]["train"])
    return table(
        ("score", "scope", "what it is", "lost, training", "lost, test", "behind, training", "p"),
        [
            (
                f"`{row['score']}`",
                row["scope"],
                says.get(row["score"], "for comparison"),
                f"{row['mean_lost']['train']:.2f}",
                f"{row['mean_lost']['test']:.2f}",
                *_behind(margins.get((row["score"], row["scope"]))),
            )
            for row in rows
        ],
    )


def _behind(margin: Plain | None) -> tuple[str, str]:
    return (f"{margin['points']:.2f}", _p(margin["p"])) if margin else ("", "")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cells_table(data: Plain) -> str:
    """Points lost in every cell, without and with a repair, of the choice and its rivals."""
    entries = [tuple(entry) for entry in (data["chosen"], *data["rivals"])]
    cells = [(cell["model"], cell["ratio"]) for cell in data["rows"][0]["cells"]]
    bare = {(row["score"], row["scope"]): row for row in data["rows"]}
    repaired = {(row["score"], row["scope"]): row for row in data["repaired"]}
    verdicts = {
        (kind, tuple(duel["rival"]), duel["model"], duel["ratio"]): duel["verdict"]
        for kind, duels in data["duels"].items()
        for duel in duels
    }

    def said(kind: str, rows: Mapping[Entry, Plain], entry: Entry, number: int) -> str:
        mark = {"better": " ▼", "worse": " ▲"}
        verdict = verdicts.get((kind, entry, *cells[number]), "")
        return f"{rows[entry]['cells'][number]['lost']['test']:.2f}{mark.get(verdict, '')}"

    return table(
        ("model", "removed", *(f"{name}, {scope}" for name, scope in entries)),
        [
            (
                model,
                f"{ratio:.0%}",
                *(
                    f"{said('none', bare, entry, n)} → {said(REPAIR, repaired, entry, n)}"
                    for entry in entries
                ),
            )
            for n, (model, ratio) in enumerate(cells)
        ],
    )


def _duels_said(data: Plain) -> str:
    return (
        f"Points lost, without → with repair `{REPAIR}` (mean of calibration seeds "
        f"{', '.join(map(str, SEEDS))}). ▼ marks cells in which the choice (first column) is "
        "better, ▲ those in which it is worse, both by McNemar's exact test in every seed, "
        f"adjusted by Holm for all cells of a kind.\n\n{_counts(data)}"
    )


def _macs_table(data: Plain) -> str:
    """Points lost where MACs are counted, by what a slice is priced in."""
    rows = data["by_macs"]
    cells = [(cell["model"], cell["ratio"]) for cell in rows[0]["cells"]]
    lines = [
        (model, f"{ratio:.0%}", *(_both(row["cells"][n]["lost"]) for row in rows))
        for n, (model, ratio) in enumerate(cells)
    ]
    means = ("mean", "", *(_both(row["mean_lost"]) for row in rows))
    return (
        "Points lost in one shot, training / test images, with so much of the MACs removed. The "
        "built-in `dimap` is the choice with a price in what the budget counts, here MACs.\n\n"
        + table(
            ("model", "removed", "priced in MACs", "in weights", "plain, kind"), [*lines, means]
        )
    )


def _both(lost: Plain) -> str:
    return " / ".join(f"{lost[split]:.2f}" for split in SPLITS)


def _counts(data: Plain) -> str:
    lines = []
    for rival in data["rivals"]:
        said = []
        for kind, words in (("none", "without repair"), (REPAIR, f"with `{REPAIR}`")):
            found = [d["verdict"] for d in data["duels"][kind] if d["rival"] == rival]
            said.append(
                f"{words} better in {found.count('better')}, worse in {found.count('worse')}, "
                f"undecided in {found.count('tie')} of {len(found)}"
            )
        lines.append(f"- against `{rival[0]}`, scope `{rival[1]}`: {'; '.join(said)}")
    return "\n".join(lines)


PART = Part("slice_score", "Which score of slices is DIMAP's?", run, page)
