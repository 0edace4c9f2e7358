"""What a repair costs on models of full size: seconds and peak memory.

    python benchmarks/repair_cost.py [--models swin_b,vit_b] [--images 256] [--threads 2]

Each model, with random weights, loses half its parameters by magnitude, and is repaired on images
of noise, in a process of its own. Memory is the process' peak resident set (as the kernel counts
it) during the repair, over what it was just before, with both models loaded. Writes
benchmarks/results/repair_cost.md.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from page import facts, markdown
from rich.table import Table

from prunekit.adapters.finding import adapter_for
from prunekit.criteria import CRITERIA
from prunekit.cutting.shrink import shrunk
from prunekit.inputs.architectures import build
from prunekit.inputs.feed import InputSpec
from prunekit.measuring.counting import param_terms
from prunekit.planning.budget import Budget
from prunekit.planning.plan import make_plan
from prunekit.pruning.job import REPAIR_BATCH
from prunekit.recovery.reconstruct import repair_
from prunekit.repairs import REPAIRS
from prunekit.tracing.graph import trace

OUT = Path(__file__).parent / "results" / "repair_cost.md"
MEGA = 1e6


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure(args.child, args.repair, args.images)))
        return
    found = []
    for model in args.models.split(","):
        for repair in args.repairs.split(","):
            found.append((model, repair, child(args, model, repair)))
            print(*found[-1], flush=True)
    write_page(found, args)


def write_page(found: list[tuple[str, str, dict]], args: argparse.Namespace) -> None:
    table = Table(
        "model",
        "repair",
        "layers",
        "seconds",
        "a forward pass of the dense model",
        "peak memory",
        "over the weights",
        "inputs of one block, at most",
    )
    for model, repair, cost in found:
        table.add_row(
            model,
            repair,
            str(cost["layers"]),
            f"{cost['seconds']:.0f}",
            f"{cost['forward']:.0f} s",
            f"{cost['memory'] / MEGA:,.0f} MB",
            f"{cost['memory'] / cost['weights']:.1f}x of {cost['weights'] / MEGA:.0f} MB",
            f"{cost['inputs'] / MEGA:,.0f} MB",
        )
    text = [
        "# What a repair costs on models of full size",
        "",
        f"Random weights, half the parameters cut by magnitude, {args.images} images of noise at",
        "224 x 224. Seconds are wall-clock, beside one forward pass of the dense model over the",
        "same images in the same process. Memory is the growth of the peak resident set during the",
        "repair; the inputs of one block, of all images and both models, are the part of it that",
        "grows with the number of images.",
        "",
        facts(0, args.threads),
        "",
        markdown(table),
        "",
    ]
    OUT.write_text("\n".join(text))
    print(f"wrote {OUT}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="swin_b,vit_b")
    parser.add_argument("--repairs", default="lstsq")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--repair", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(args: argparse.Namespace, model: str, repair: str) -> dict:
    """Measure in a process of its own, whose peak is nobody else's."""
    command = [sys.executable, __file__, "--child", model, "--repair", repair]
    command += ["--images", str(args.images), "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, repair: str, count: int) -> dict:
    dense = build(name, "random").model
    adapter, spec = adapter_for(dense), InputSpec.of(dense)
    axes = trace(
        dense,
        [s for s in adapter.axes(dense) if s.kind in adapter.default_kinds],
        adapter,
        spec.example(),
    )
    terms = param_terms(dense)
    budget = Budget(0.5, "params", sum(term.cost for term in terms), terms)
    plan = make_plan(axes, CRITERIA.get("magnitude")(axes), budget)
    small = shrunk(dense, axes, plan, adapter).eval()
    images = [
        (spec.example(seed, REPAIR_BATCH), torch.zeros(REPAIR_BATCH))
        for seed in range(count // REPAIR_BATCH)
    ]
    blocks = adapter.blocks(dense)
    before = resident()
    began = time.perf_counter()
    gains = repair_(small, dense, axes, plan, REPAIRS.get(repair), blocks, images).layers
    seconds = time.perf_counter() - began
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    held: list[int] = []
    for block in blocks:
        dense.get_submodule(block).register_forward_pre_hook(
            lambda _, inputs: held.append(inputs[0].nbytes // REPAIR_BATCH * count)
        )
    began = time.perf_counter()
    with torch.inference_mode():
        for x, _ in images:
            dense(x)
    return {
        "layers": len(gains),
        "seconds": seconds,
        "forward": time.perf_counter() - began,
        "memory": memory,
        "weights": sum(p.nbytes for p in dense.parameters()),
        "inputs": 2 * max(held),
        "error_before": statistics.mean(gain.before for gain in gains.values()),
        "error_after": statistics.mean(gain.after for gain in gains.values()),
    }


def resident() -> int:
    """Return the resident set as it is now, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
