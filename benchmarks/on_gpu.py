"""What are pruned models worth on a GPU? Latency, memory, pruning and training.

    python benchmarks/on_gpu.py --out runs/gpu/gpu.json [--seconds 330] [--tests tests.xml]
    python benchmarks/on_gpu.py --out runs/gpu/gpu.json --dry-run

`benchmarks/on_gpu.sh` runs it, after what is needed is installed and tested. Weights are random.
The record is one JSON file, written again after every figure, so that a run that is cut off
leaves what it has. Every section measures its most important cells first and stops when its
share of the time is up; the record names what was left out. `benchmarks/gpu_page.py` makes a
page of it. A dry run does all this with one small model on the CPU.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from gpu import latency, memory, pruning, sparse, training
from gpu.about import about, tests
from gpu.inside import hurry
from gpu.models import Models
from gpu.sections import Record, Section, run
from gpu.settings import DRY, FULL, Settings


def main() -> None:
    args = arguments()
    settings = DRY if args.dry_run else FULL
    if not args.dry_run and not torch.cuda.is_available():
        sys.exit("on_gpu.py: There is no CUDA device here; add --dry-run to try it on the CPU.")
    if args.dry_run:
        hurry()
    record = Record(args.out, about(settings, args.dry_run))
    record.data["tests"] = tests(args.tests)
    models = Models(settings)
    record.data["pruned"] = models.pruned  # grows as models are asked for
    record.write()
    run(sections(settings, models), record, args.seconds)
    print(f"wrote {args.out}")


def sections(settings: Settings, models: Models) -> list[Section]:
    """Return all sections; the shares are guesses of what each takes on an H100."""
    timed = partial(latency.time_group, models)
    repaired = partial(pruning.repair, models)
    return [
        Section("warm_up", 0.05, ["vit_micro"], lambda _: pruning.warm_up(models)),
        Section("latency", 0.33, latency.eager_groups(settings), timed),
        Section("sparse", 0.09, sparse.pairs(settings), partial(sparse.time_pair, models)),
        Section("repair", 0.12, settings.repaired_models, repaired),
        Section("memory", 0.03, memory.cases(settings), partial(memory.measure, models)),
        Section("training", 0.06, settings.models, partial(training.train, models)),
        Section("multiples", 0.10, latency.multiple_groups(settings), timed),
        Section("compiled", 0.22, latency.compiled_groups(settings), timed),
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=float, default=330, help="when to stop")
    parser.add_argument("--tests", type=Path, help="pytest's JUnit file, to be told in the record")
    parser.add_argument("--dry-run", action="store_true", help="one small model on the CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
