"""Does prune() work, and hit its ratio, on every family at full size?

    python benchmarks/run_matrix.py [--models swin_t,...] [--ratios 0.2,0.5,0.7]

Every run uses random weights, the criterion dimap and the adapter's default axes, and
evaluates nothing on data. A run that fails is reported and the next one goes on; the exit
status is then 1. Writes benchmarks/results/run_matrix.md.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from page import facts, markdown
from rich import box
from rich.console import Console
from rich.table import Table

from prunekit import PruneError, prune

MODELS = "swin_t,swin_b,deit_s,vit_b,convnext_t,convnextv2_tiny"
OUT = Path(__file__).parent / "results" / "run_matrix.md"
HEADERS = (
    "model",
    "asked",
    "got",
    "params before",
    "after",
    "MACs before",
    "after",
    "parity difference",
    "scale",
    "seconds",
)
NOTE = (
    "Weights are random. A random ConvNeXt V1 scales every block by 1e-6, which would hide what "
    "pruning does, so its parity is checked with noise in place of its vectors. Ratios are of "
    "parameters; params and MACs (one image) are in millions; seconds are of the whole of prune(), "
    "building the model included."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--ratios", default="0.2,0.5,0.7")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(*HEADERS, box=box.SIMPLE)
    remarks = []
    for model in args.models.split(","):
        for ratio in map(float, args.ratios.split(",")):
            row, remark = cell(model, ratio, args.seed)
            table.add_row(*row)
            remarks += remark
            print("  ".join(row), *remark, flush=True)
    Console(width=140).print(table)
    write(args, table, remarks)
    failed = [remark for remark in remarks if "FAILED" in remark]
    sys.exit(1 if failed else 0)


def cell(model: str, ratio: float, seed: int) -> tuple[list[str], list[str]]:
    """Prune once; return a row of the table, and warnings or the reason of a failure."""
    start = time.perf_counter()
    try:
        result = prune(model, "dimap", ratio, weights="random", evaluate=False, seed=seed)
    except PruneError as error:
        row = [model, f"{ratio:.1%}", "failed", *[""] * 6, f"{time.perf_counter() - start:.1f}"]
        return row, [f"{model} at {ratio:g} FAILED: {type(error).__name__}: {error}"]
    seconds = time.perf_counter() - start
    before, after, parity = result.before, result.after, result.parity
    counts = [before.params, after.params, before.macs, after.macs]
    row = [
        model,
        f"{ratio:.1%}",
        f"{result.got:.2%}",
        *[f"{count / 1e6:,.2f}" for count in counts],
        f"{parity.difference:.1e}",
        f"{parity.scale:.2g}",
        f"{seconds:.1f}",
    ]
    return row, [f"{model} at {ratio:g}: {warning}" for warning in result.warnings]


def write(args: argparse.Namespace, table: Table, remarks: list[str]) -> None:
    """Write the table with what its figures must travel with."""
    parts = [
        "# prune() on every family, random weights",
        NOTE,
        facts(args.seed, args.threads),
        markdown(table),
        "\n".join(f"- {remark}" for remark in remarks),
    ]
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text("\n\n".join(part for part in parts if part) + "\n")


if __name__ == "__main__":
    main()
