"""Does it pay to let whole branches leave, and to share the budget by more than scores?

    python benchmarks/shares.py [--models ...] [--parts depth,shares] [--criterion influence]

*Depth*: 40 % of the latency at batch 1 and 8, with and without the axes of kind `block`. *Shares*:
half of the parameters, in the three scopes, by a sensitivity, and by a search. All after `lstsq`,
on the models of the zoo. Nothing is chosen on test images: the search judges plans on training
images. Writes benchmarks/results/shares.md; rows that are in shares.jsonl already are not made
again.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from page import facts, markdown
from rich.table import Table

from prunekit import prune
from prunekit.cli import main as prunekit
from prunekit.errors import BudgetError
from prunekit.inputs import zoo
from prunekit.result import Timing

OUT = Path(__file__).parent / "results" / "shares.md"
SCOPES = ("axis", "kind", "model", "sensitivity", "search")
INSIDE = {"resnet": "conv", "convnext": "mlp"}  # kinds by family; transformers have mlp and head
LATENCY, PARAMS, BATCHES = 0.4, 0.5, (1, 8)
DEPTH = """\
`--by latency --ratio 0.4` on one thread, `--repair lstsq`, with the axes inside branches
alone, and with whole branches (`block`) beside them. *scope* `own` is the criterion's, `search`
tries 24 plans out. Where so much time is not in reach, the table says how much is."""
SHARES = """\
`--ratio 0.5`, `--repair lstsq`, by the way the axes share the budget. *divergence* of the search is
that of the plan it chose, on training images which criterion and repair have not seen. *seconds*
are those of the whole run, with the measurement of the sensitivity (256 images, at a quarter, a
half, three quarters and nine tenths)."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    rows = args.out.with_suffix(".jsonl")
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    known = {key(row) for row in found}
    for cell in cells(args):
        if key(cell) not in known:
            row = tried(cell)
            found.append(row)
            print(row, flush=True)
            rows.write_text("".join(f"{json.dumps(one)}\n" for one in found))
    write(args, found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(zoo.names()))
    parser.add_argument("--parts", default="shares,depth")
    parser.add_argument("--criterion", default="influence")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def key(row: dict) -> tuple:
    same = tuple(row[word] for word in ("part", "model", "criterion", "axes", "scope"))
    return (*same, row.get("batch", 1))


def cells(args: argparse.Namespace) -> list[dict]:
    """Return what is to be tried: part, model, axes and scope."""
    found = []
    for part in args.parts.split(","):
        for model in args.models.split(","):
            inside = INSIDE.get(model.partition("_")[0], "mlp,head")
            same = {"part": part, "model": model, "criterion": args.criterion}
            for axes in (inside, f"{inside},block"):
                if part == "depth":
                    found += [
                        {**same, "axes": axes, "scope": scope, "batch": batch}
                        for batch in BATCHES
                        for scope in ("own", "search")
                    ]
                    continue
                for scope in SCOPES:
                    if scope != "axis" or "block" not in axes:  # a branch is alone on its axis
                        found.append({**same, "axes": axes, "scope": scope})
    return found


def tried(cell: dict) -> dict:
    """Prune one model as a cell says."""
    start = time.perf_counter()
    depth, kinds = cell["part"] == "depth", cell["axes"].split(",")
    scope = None if cell["scope"] == "own" else cell["scope"]
    with tempfile.TemporaryDirectory() as place:
        if scope == "sensitivity":
            words = ["--arch", cell["model"], "--criterion", cell["criterion"], "--axes"]
            words += [cell["axes"], "--repair", "lstsq", "--calibration", "256"]
            words += ["--ratios", "0.25,0.5,0.75,0.9", "--out", place, "--quiet"]
            prunekit(["sensitivity", *words])
            scope = f"sensitivity:{place}"
        try:
            result = prune(
                cell["model"], cell["criterion"], LATENCY if depth else PARAMS, scope=scope,
                axes=kinds, repair="lstsq", data="fashion-mnist", evaluate=True, timed=False,
                by="latency" if depth else "params", latency_batch=cell.get("batch", 1),
            )  # fmt: skip
        except BudgetError as error:
            return {**cell, "refused": str(error)}
    one = result.rounds[0]
    return {
        **cell,
        "got": result.got,
        "top1": [result.before.top1, result.after.top1],
        "branches": [
            sum(kind == "block" for kind in result.kinds.values()),
            sum(not kept for kept in result.plan.kept.values()),
        ],
        "saving": _saving(one.timing),
        "search": None if one.search is None else [one.search.trials, dict(one.search.scopes),
                                                   one.search.divergence],
        "seconds": time.perf_counter() - start,
    }  # fmt: skip


def _saving(timing: Timing | None) -> list[float] | None:
    """Return what was measured: the fraction that is gone, its quartiles, and both times."""
    if timing is None:
        return None
    found = timing.saving
    return [found.removed, found.low, found.high, found.dense.median, found.small.median]


def write(args: argparse.Namespace, rows: list[dict]) -> None:
    """Write the tables with what their figures must travel with."""
    parts = ["# Branches, and shares of the budget", facts("0", 1)]
    depth = [row for row in rows if row["part"] == "depth"]
    shares = [row for row in rows if row["part"] == "shares"]
    if depth:
        parts += ["## Depth", DEPTH, markdown(_depth(depth))]
    if shares:
        parts += ["## Shares", SHARES, markdown(_shares(shares))]
    args.out.write_text("\n\n".join(parts) + "\n")


def _depth(rows: list[dict]) -> Table:
    table = Table("model", "batch", "axes", "scope", "latency gone", "quartiles", "ms",
                  "branches gone", "top-1")  # fmt: skip
    for row in sorted(rows, key=lambda row: (row["model"], row.get("batch", 1), row["axes"])):
        same = (row["model"], str(row.get("batch", 1)), row["axes"], row["scope"])
        if "refused" in row:
            reach = row["refused"].partition("at most ")[2].partition(" ")[0]
            reach = reach if reach.endswith("%") else f"{float(reach):.1%}"
            table.add_row(*same, f"{reach} in reach", "", "", "", "")
            continue
        removed, low, high, before, after = row["saving"]
        table.add_row(
            *(*same, f"{removed:.1%}", f"{low:.1%} to {high:.1%}", f"{before:.3g} to {after:.3g}"),
            *(_branches(row), _top1(row)),
        )
    return table


def _shares(rows: list[dict]) -> Table:
    table = Table("model", "axes", "scope", "divergence", "branches gone", "top-1", "seconds")
    order = {scope: number for number, scope in enumerate(SCOPES)}
    for row in sorted(rows, key=lambda row: (row["model"], row["axes"], order[row["scope"]])):
        lost = f"{row['search'][2]:.2e}" if row["search"] else ""
        table.add_row(
            *(row["model"], row["axes"], row["scope"], lost, _branches(row), _top1(row)),
            f"{row['seconds']:.0f}",
        )
    return table


def _branches(row: dict) -> str:
    there, gone = row["branches"]
    return f"{gone} of {there}" if there else ""


def _top1(row: dict) -> str:
    before, after = row["top1"]
    return f"{before:.2f} to {after:.2f} %"


if __name__ == "__main__":
    main()
