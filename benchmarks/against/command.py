"""The command line."""

import argparse
from pathlib import Path

import torch

from .bench import Bench
from .cells import OURS, THEIRS, cells, keep, kept
from .memory import WEIGHED, peak, peak_of
from .page import page
from .pruned import (
    NARROW,
    WIDE,
)

OUT = Path(__file__).parents[1] / "results" / "against_torch_pruning.md"


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    if args.memory_of:
        print(peak_of(*args.memory_of.split(",")))
        return
    done = {line.cell: line for line in kept(args.cells)}
    lines, dense, memory, mending = [], {}, {}, []
    for model in args.models.split(","):
        bench = Bench(model)
        dense[model] = bench.dense
        mending += [bench.mending(axes) for axes in (NARROW, WIDE)]
        for cell in cells(model):
            if cell not in done:
                done[cell] = bench.run(cell)
                keep(args.cells, done[cell])
            lines.append(done[cell])
        memory |= {(model, t, c): peak(model, t, c) for t in (OURS, THEIRS) for c in WEIGHED}
    OUT.write_text("\n".join(page(lines, dense, memory, mending)) + "\n")
    print(f"wrote {OUT}: {len(lines)} cells")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="prunekit next to torch-pruning's own pruner")
    parser.add_argument("--models", default="swin_micro,vit_micro,convnext_micro")
    parser.add_argument("--cells", type=Path, help="keep finished cells here")
    parser.add_argument("--memory-of", help="only print a peak; MODEL,TOOL,CRITERION")
    return parser.parse_args()
