"""Say what the bench of many models showed: choices by leaving one family out, and ranks.

    python benchmarks/many/page.py [--rows FILE] [--out FILE]

A setting is chosen on five of the six shapes, by its mean rank in the divergence from the dense
models' outputs on training images that criteria and repairs did not see. What it loses is reported
on the test images of the sixth. Reads what run.py wrote; writes benchmarks/results/many.md.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from cells import Cell
from scipy.stats import rankdata
from shapes import SHAPES
from train import NAMES

from prunekit.comparison.ranking import rank
from prunekit.pruning.cache import folder_for

RESULTS = Path(__file__).parents[1] / "results"
KNOWING = ("obs", "osscar", "kfac", "kfac:loss=self")
BUDGETS = (("params", 0.6), ("params", 0.8), ("params", 0.9), ("macs", 0.7))
NEARLY = 0.9  # of the cells that the most common setting was run on
Row = dict[str, Any]
Group = Callable[[Row], bool]
GROUPS: dict[str, Group] = {
    "before": lambda r: r["criterion"] not in KNOWING and "reconstruct" not in r["repair"],
    "before, no repair": lambda r: r["criterion"] not in KNOWING and r["repair"] == "none",
    "criteria that know the repair, one round": lambda r: (
        r["criterion"] in KNOWING and r["repair"] == "lstsq" and r.get("steps", 1) == 1
    ),
    "before, reconstructed": lambda r: (
        r["criterion"] not in KNOWING and "reconstruct" in r["repair"]
    ),
    "new": lambda r: r["criterion"] in KNOWING,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=RESULTS / "many.jsonl")
    parser.add_argument("--out", type=Path, default=RESULTS / "many.md")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()]
    refused = [row for row in rows if "problem" in row]
    rows = [row | {"setting": Cell.of(row).setting} for row in rows if "problem" not in row]
    parts = [
        INTRODUCTION,
        versions(),
        *models(),
        *chosen(rows),
        *ranked(rows),
        *reach(rows, refused),
    ]
    args.out.write_text("\n\n".join(parts) + "\n")
    print(args.out.read_text())


INTRODUCTION = """\
# Many models: which criterion, which repair

24 small models: six shapes, two sizes, two data sets. Criteria and repairs see 512 training
images. Settings are chosen on training images that these did not see, and by leaving one family
out: what is reported of a family was chosen on the five others. No default was tuned on them."""


def versions() -> str:
    return "\n".join([
        "- commands: `python benchmarks/many/train.py`, `python benchmarks/many/run.py`, "
        "`python benchmarks/many/page.py`",
        "- seed: 0; device: cpu, one thread; floor 0.02, multiple 1",
        f"- versions: torch {torch.__version__}, timm {timm.__version__}",
    ])  # fmt: skip


def family(model: str) -> str:
    return model.split("_")[0]


def models() -> Iterable[str]:
    yield "## The models"
    yield "Test top-1 in percent, and parameters."
    cards = {name: json.loads((folder_for("many") / f"{name}.json").read_text()) for name in NAMES}
    lines = []
    for shape in SHAPES:
        for size in ("small", "large"):
            found = [cards[f"{shape}_{size}_{data}"] for data in ("fashion", "digits")]
            top1 = [f"{card['test_top1']:.2f}" for card in found]
            lines.append([f"{shape}, {size}", f"{found[0]['params']:,}", *top1])
    yield table(["model", "parameters", "Fashion-MNIST", "digits"], lines)


def chosen(rows: Sequence[Row]) -> Iterable[str]:
    """Write what the setting that was chosen on other families loses, group by group."""
    yield "## Chosen on the other families"
    yield (
        "Points of test top-1 lost, mean over the models where the budget is in reach, by the "
        "best single setting of a group. *before*: criteria that do not know the repair, in any "
        "scope, with `lstsq` or without a repair; *new*: those that do, with `lstsq` or "
        "`lstsq,reconstruct`. Either in one round of choosing, or in three (`--steps 3`), of which "
        "each looks at the model as it was cut and repaired in the one before. Settings that were "
        "not yet run on all models take no part; the number says how many were. In brackets the "
        "95 % bootstrap interval over models."
    )
    picks = {name: picked([r for r in rows if of(r)]) for name, of in GROUPS.items()}
    lines = []
    for name, pick in picks.items():
        line = [f"{name} ({len(complete([r for r in rows if GROUPS[name](r)])[0])} settings)"]
        for budget in BUDGETS:
            lost = [v for model, v in losses(rows, pick, budget).items()]
            line.append(spread(lost))
        lines.append(line)
    head = [f"{ratio:.0%} of {by}" for by, ratio in BUDGETS]
    yield table(["group", *head], lines)
    yield "What *new* loses as a fraction of what *before* loses, over the same models:"
    line = []
    for budget in BUDGETS:
        new, old = (losses(rows, picks[name], budget) for name in ("new", "before"))
        both = sorted(set(new) & set(old))
        line.append(fraction([new[m] for m in both], [old[m] for m in both]))
    yield table(head, [line])
    yield "Which setting was chosen where a family was left out:"
    yield table(
        ["left out", *GROUPS], [[out, *(picks[name][out] for name in GROUPS)] for out in SHAPES]
    )


def picked(rows: Sequence[Row]) -> dict[str, str]:
    """Return for every family the setting with the best mean rank on all others."""
    chosen = {out: [r for r in rows if family(r["model"]) != out] for out in SHAPES}
    return {out: best(some) if some else "–" for out, some in chosen.items()}


def best(rows: Sequence[Row]) -> str:
    """Return the setting of the best mean rank in divergence on judged training images."""
    names, by_cell = complete(rows)
    ranks = [rankdata([cell[name]["judged_divergence"] for name in names]) for cell in by_cell]
    return names[int(np.mean(ranks, axis=0).argmin())]


def complete(rows: Sequence[Row]) -> tuple[list[str], list[dict[str, Row]]]:
    """Return settings that were run nearly everywhere, and the cells, each with all of them.

    A setting that has been run on a part of the models so far takes no part.
    """
    cells: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["by"], row["ratio"]), {})[row["setting"]] = row
    counts = Counter(name for found in cells.values() for name in found)
    most = max(counts.values(), default=0)
    names = [name for name, count in counts.items() if count >= NEARLY * most]
    return names, [found for found in cells.values() if all(name in found for name in names)]


def losses(
    rows: Sequence[Row], pick: dict[str, str], budget: tuple[str, float]
) -> dict[str, float]:
    """Return model to what it lost in the setting chosen on the other families."""
    return {
        row["model"]: row["test_lost"]
        for row in rows
        if (row["by"], row["ratio"]) == budget and row["setting"] == pick[family(row["model"])]
    }


def spread(lost: Sequence[float]) -> str:
    if not lost:
        return "–"
    low, high = np.quantile(redrawn(len(lost)) @ np.array(lost), (0.025, 0.975))
    return f"{np.mean(lost):.2f} ({low:.2f} to {high:.2f}), {len(lost)} models"


def fraction(new: Sequence[float], old: Sequence[float]) -> str:
    if not new:
        return "–"
    draws = redrawn(len(new))
    low, high = np.quantile((draws @ np.array(new)) / (draws @ np.array(old)), (0.025, 0.975))
    return f"{np.mean(new) / np.mean(old):.2f} ({low:.2f} to {high:.2f})"


def redrawn(count: int) -> np.ndarray:
    """Return weights of models drawn anew with replacement, (draws, models)."""
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), 9999)
    return draws / count


def ranked(rows: Sequence[Row]) -> Iterable[str]:
    """Write ranks over models: of all criteria in their own scope, and of the forms of dimap."""
    own = [r for r in rows if r["scope"] is None]
    parts = {
        "all criteria, each in its own scope, with `lstsq`": [
            r for r in own if r["repair"] == "lstsq"
        ],
        "all criteria, each in its own scope, without a repair": [
            r for r in own if r["repair"] == "none"
        ],
        "with `lstsq,reconstruct`": [r for r in own if r["repair"] == "lstsq,reconstruct"],
        "criteria of weights alone, all scopes, without a repair": [
            r
            for r in rows
            if r["repair"] == "none" and r["criterion"].startswith(("dimap", "lamp", "magnitude"))
        ],
    }
    yield "## Ranks over models"
    yield (
        "By points of test top-1 lost; ranks are averaged over a model's budgets, then over "
        "models. The interval is a bootstrap over models; behind means told apart from the best "
        "(Friedman and Nemenyi, 5 %)."
    )
    for title, some in parts.items():
        names, cells = complete(some)
        if len(names) < 3:
            continue
        lost: dict[str, list[list[float]]] = {}
        for cell in cells:
            (model,) = {row["model"] for row in cell.values()}
            lost.setdefault(model, []).append([cell[name]["test_lost"] for name in names])
        found = rank(names, lost, "params", "", "", ())
        yield f"### {title[0].upper()}{title[1:]}"
        yield (
            f"{len(lost)} models, p = {found.p:.1g} (Friedman), critical difference "
            f"{found.critical:.2f}"
        )
        means = {n: np.mean([c[n]["test_lost"] for c in cells]) for n in names}
        yield table(
            ["setting", "mean rank", "95 % interval", "", "mean points lost"],
            [
                [row.name, f"{row.mean:.2f}", f"{row.low:.2f} to {row.high:.2f}",
                 "behind" if row.behind else "", f"{means[row.name]:.2f}"]
                for row in found.rows
            ],
        )  # fmt: skip


def reach(rows: Sequence[Row], refused: Sequence[Row]) -> Iterable[str]:
    """Write on how many models each budget is in reach."""
    yield "## Out of reach"
    yield (
        "Default axes cannot give up so much of every model: the patch embedding, the width and "
        "the classifier stay."
    )
    lines = []
    for by, ratio in BUDGETS:
        there = {r["model"] for r in rows if (r["by"], r["ratio"]) == (by, ratio)}
        missing = sorted(
            {r["model"] for r in refused if (r["by"], r["ratio"]) == (by, ratio)} - there
        )
        lines.append([f"{ratio:.0%} of {by}", str(len(there)), ", ".join(missing) or "–"])
    yield table(["budget", "models", "out of reach"], lines)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [list(head), ["---"] * len(head), *map(list, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
