"""How long does it take to mask single weights, and how much memory?

    python benchmarks/weight_level_speed.py [--models ...] [--criteria ...] [--threads 2]

Runs `prune(model, criterion, granularity=...)` on timm models with random weights, each in a
fresh process, without measuring latency. Writes benchmarks/results/weight_level_speed.md.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage

import timm
import torch
from page import facts, markdown
from rich import box
from rich.console import Console
from rich.table import Table

from prunekit import prune

MODELS = "swin_tiny_patch4_window7_224,swin_small_patch4_window7_224,swin_base_patch4_window7_224"
CRITERIA = "dimap,lamp,magnitude,random"
OUT = Path(__file__).parent / "results" / "weight_level_speed.md"
STEPS = ("trace", "score", "plan", "mask", "verify", "count", "measure")
TOTALS = ("whole", "cpu", "extra")
SETTINGS = {  # of `prune`
    "weight, params": {"granularity": "weight", "ratio": 0.5},
    "weight, macs": {"granularity": "weight", "ratio": 0.5, "by": "macs"},
    "weight, scope axis": {"granularity": "weight", "ratio": 0.5, "scope": "axis"},
    "weight, scope model": {"granularity": "weight", "ratio": 0.5, "scope": "model"},
    "2:4": {"granularity": "2:4"},
}
PLAIN = "weight, params"
NOTE = """\
Half of all parameters become zero, in the criterion's own scope unless another is named. The steps
are `Result.seconds`: *trace* finds the matrices, *plan* chooses, *verify* compares every value of
the masked model with the original's, *count* counts zeros, *measure* parameters and MACs of both
models. *whole* is all of `prune`, and *CPU* the processor time of all its threads together, which
other work on the machine lengthens as well, but less.

*extra* is the peak of resident memory (`ru_maxrss` of the process) less its level just before, as
a multiple of the bytes of the weights. One of these is the masked model itself, which stays.
Beforehand the process masks a model of the zoo, so that libraries that load on first use do not
count. Each row is one run, so that a machine that does other things shows in single rows."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measured(*args.one, args.seed)))
        return
    cells = [(model, name, PLAIN) for model in args.models.split(",") for name in named(args)]
    cells += [(args.models.split(",")[-1], named(args)[0], other) for other in list(SETTINGS)[1:]]
    table = Table(
        *("model", "M params", "criterion", "granularity", *STEPS, "whole", "CPU", "extra"),
        title="Seconds, and multiples of the weights",
        box=box.SIMPLE,
    )
    for cell in cells:
        found = in_fresh_process(cell, args)
        figures = [*(found["seconds"][step] for step in STEPS), *map(found.get, TOTALS)]
        table.add_row(
            cell[0], f"{found['params'] / 1e6:.1f}", *cell[1:], *map("{:.2f}".format, figures)
        )
        print(*cell, f"{found['whole']:.1f} s, {found['extra']:.2f} times the weights", flush=True)
    Console(width=180).print(table)
    write(args, table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--criteria", default=CRITERIA, help="the first of them in all settings")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", nargs=3, help="only print one measurement, as JSON")
    return parser.parse_args()


def named(args: argparse.Namespace) -> list[str]:
    return args.criteria.split(",")


def in_fresh_process(cell: tuple[str, str, str], args: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--one", *cell]
    command += ["--threads", str(args.threads), "--seed", str(args.seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, criterion: str, setting: str, seed: int) -> dict:
    """Mask one model; its building is not counted, but the copy that comes out is."""
    torch.manual_seed(seed)
    model = timm.create_model(name).eval()
    params = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    prune("swin_micro", criterion, 0.5, granularity="weight")
    before, start, busy = resident_bytes(), time.perf_counter(), time.process_time()
    result = prune(model, criterion, **SETTINGS[setting])
    whole, cpu = time.perf_counter() - start, time.process_time() - busy
    extra = (getrusage(RUSAGE_SELF).ru_maxrss * 1024 - before) / weights
    seconds = dict(result.seconds)
    return {"params": params, "seconds": seconds, "whole": whole, "cpu": cpu, "extra": extra}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


def write(args: argparse.Namespace, table: Table) -> None:
    """Write the table with what its figures must travel with."""
    title = table.title
    parts = [
        "# Speed and memory of masking single weights",
        NOTE,
        facts(args.seed, args.threads),
        f"## {title}\n\n{markdown(table)}",
    ]
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
