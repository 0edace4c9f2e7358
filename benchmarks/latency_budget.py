"""Is a latency that was asked for met by the model that is built?

    python benchmarks/latency_budget.py [--models ...] [--ratios 0.3,0.5] [--batches 1,8]

Prunes by latency, and times the dense and the small model once more afterwards, since the best of
several measurements flatters itself. Writes benchmarks/results/latency_budget.md; rows that are in
latency_budget.jsonl already are not made again.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch
from page import facts, markdown
from rich.table import Table

from prunekit import prune
from prunekit.adapters.answers import default_kinds_of
from prunekit.branch import BLOCK
from prunekit.errors import BudgetError
from prunekit.inputs import zoo
from prunekit.inputs.subject import Source, find_subject
from prunekit.measuring.saving import Conditions, saved_time
from prunekit.pruning.closing import CLOSE
from prunekit.shared import Shared

NAMED = ("swin_t", "vit_s", "convnext_t")  # with random weights: latency does not depend on them
OUT = Path(__file__).parent / "results" / "latency_budget.md"
NOTE = """\
`prune(model, "magnitude", ratio, by="latency")`: *predicted* is what the plan removes by
the times of the modules; *measured* what the best of the models that were *built* removed; *again*
the same two models timed once more afterwards, with the quartiles over pairs of passes. *miss* is
how far that time is from the one that was asked for. *block*: whether whole branches could leave,
beside the axes that the adapter prunes anyway. Other work ran on the machine beside it."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    rows = args.out.with_suffix(".jsonl")
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    known = {key(row) for row in found}
    wanted = itertools.product(
        args.models.split(","),
        map(int, args.batches.split(",")),
        args.block.split(","),
        map(float, args.ratios.split(",")),
    )
    for model, batch, block, ratio in wanted:
        cell = {"model": model, "ratio": ratio, "batch": batch, "block": block == "with"}
        if key(cell) not in known:
            found.append(tried(cell))
            print(found[-1], flush=True)
            rows.write_text("".join(f"{json.dumps(one)}\n" for one in found))
    write(args, found)


def key(row: dict) -> tuple:
    return row["model"], row["batch"], row.get("block", False), row["ratio"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join((*NAMED, *zoo.names())))
    parser.add_argument("--ratios", default="0.3,0.5")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--block", default="without,with", help="whole branches among the axes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def tried(cell: dict) -> dict:
    """Prune one model, and time it once more."""
    model, ratio, batch = cell["model"], cell["ratio"], cell["batch"]
    weights = "random" if model in NAMED else "auto"
    subject = find_subject(Source(model=model, weights=weights), Shared())
    axes = default_kinds_of(subject.adapter, subject.model)
    try:
        result = prune(
            model, "magnitude", ratio, by="latency", latency_batch=batch, weights=weights,
            axes=[*axes, BLOCK] if cell["block"] else axes,
        )  # fmt: skip
    except BudgetError as error:
        return {**cell, "refused": str(error)}
    dense = subject.model
    timing = result.rounds[0].timing
    again = saved_time(dense, result.model, result.example, Conditions(batch))
    return {
        **cell,
        "predicted": timing.predicted,
        "measured": timing.saving.removed,
        "built": timing.tries,
        "again": again.removed,
        "quartiles": [again.low, again.high],
        "ms": [again.dense.median, again.small.median],
        "miss": (1 - again.removed) / (1 - ratio) - 1,
    }


def write(args: argparse.Namespace, rows: list[dict]) -> None:
    """Write the table with what its figures must travel with."""
    table = Table("model", "batch", "block", "asked", "predicted", "measured", "again",
                  "quartiles", "ms", "built", "miss")  # fmt: skip
    for row in sorted(rows, key=key):
        block = "with" if row.get("block") else ""
        same = (row["model"], str(row["batch"]), block, f"{row['ratio']:.0%}")
        if "refused" in row:
            reach = row["refused"].partition("at most ")[2].partition(" ")[0]
            reach = reach if reach.endswith("%") else f"{float(reach):.0%}"
            table.add_row(*same, f"{reach} in reach")
            continue
        low, high = row["quartiles"]
        before, after = row["ms"]
        table.add_row(
            *same,
            *(f"{row[key]:.1%}" for key in ("predicted", "measured", "again")),
            *(f"{low:.1%} to {high:.1%}", f"{before:.3g} to {after:.3g}"),
            *(str(row["built"]), f"{row['miss']:+.1%}"),
        )
    met = [row for row in rows if "refused" not in row]
    close = sum(abs(row["miss"]) <= CLOSE for row in met)
    parts = [
        "# Latency: asked, predicted, measured",
        NOTE,
        facts("0", args.threads),
        f"{close} of {len(met)} within 3 %, timed once more; {len(rows) - len(met)} were refused, "
        "since so much is not in reach.",
        markdown(table),
    ]
    args.out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
