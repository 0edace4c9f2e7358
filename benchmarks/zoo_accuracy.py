"""Which criterion keeps the most accuracy, before any recovery training?

    python benchmarks/zoo_accuracy.py [--models ...] [--criteria ...]

Prunes every model of the zoo with every registered criterion, at equal shares of
parameters, and measures top-1 on the 10,000 test images of fashion-mnist-mini. `random` is
drawn once per seed; all others run with the first seed, which draws their calibration
images. Prints a line per cell, and writes benchmarks/results/zoo_accuracy.md.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from page import facts, markdown
from rich import box
from rich.console import Console
from rich.table import Table

from prunekit import PruneError, prune, zoo
from prunekit.criteria import CRITERIA
from prunekit.data import batches, open_data
from prunekit.measure import accuracy
from prunekit.models import build

OUT = Path(__file__).parent / "results" / "zoo_accuracy.md"
BATCH = 256


@dataclass(frozen=True)
class Cell:
    """One model, criterion and ratio.

    Attributes:
        top1: Percentages, one per seed; empty if pruning failed.
        got: Achieved fractions of parameters, one per seed.
        problem: Why it failed, or what the result warns of.
    """

    criterion: str
    ratio: float
    top1: tuple[float, ...]
    got: tuple[float, ...]
    problem: str = ""

    def __str__(self) -> str:
        if not self.top1:
            return "failed"
        mean = f"{statistics.mean(self.top1):.2f}"
        each = ", ".join(f"{value:.2f}" for value in self.top1)
        return mean if len(self.top1) == 1 else f"{mean} ({each})"


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(exist_ok=True)
    page = heading(args)
    for model in args.models:
        page += model_section(model, args)
        args.out.write_text("\n".join(page))  # after every model, since a run takes long
    print(f"wrote {args.out}")


def arguments() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=words, default=zoo.names())
    parser.add_argument("--criteria", type=words, default=CRITERIA.names())
    parser.add_argument("--ratios", type=words, default=words("0.3,0.5,0.7"))
    parser.add_argument("--seeds", type=words, default=words("0,1,2"), help="the first for all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    args.ratios = [float(ratio) for ratio in args.ratios]
    args.seeds = [int(seed) for seed in args.seeds]
    return args


def model_section(name: str, args: argparse.Namespace) -> list[str]:
    """Run all cells of one model; return its part of the page."""
    built = build(name)
    if built.warnings:  # such as random weights: no accuracy worth a table
        sys.exit(f"{name}: {' '.join(built.warnings)}")
    images = open_data(zoo.DATA, built.model)
    dense, _, count = accuracy(built.model, batches(images.test, BATCH))
    params = sum(parameter.numel() for parameter in built.model.parameters())
    print(f"{name}: dense {dense:.2f} % of {count} test images, {params:,} parameters", flush=True)
    cells = []
    for criterion in args.criteria:
        for ratio in args.ratios:
            cells.append(cell(name, criterion, ratio, seeds(criterion, args.seeds), images))
            done = cells[-1]
            got = ", ".join(f"{part:.2%}" for part in done.got)
            print(
                f"{name}  {criterion}  {ratio:g}  top-1 {done}  got {got}  {done.problem}",
                flush=True,
            )
    shown = table(cells, args.ratios)
    Console(width=140).print(shown)
    problems = [f"- {c.criterion} at {c.ratio:g}: {c.problem}" for c in cells if c.problem]
    title = f"## {name}: dense {dense:.2f}, {params:,} parameters, {count:,} test images"
    return ["", title, "", markdown(shown), *([""] if problems else []), *problems, ""]


def seeds(criterion: str, asked: list[int]) -> list[int]:
    """Return all seeds for a criterion that is nothing but chance, one for the others."""
    return asked if "seed" in CRITERIA.get(criterion).defaults else asked[:1]


def cell(name: str, criterion: str, ratio: float, seeds: list[int], images) -> Cell:
    """Prune and evaluate once per seed."""
    top1, got, warnings = [], [], []
    for seed in seeds:
        try:
            result = prune(name, criterion, ratio, evaluate=False, seed=seed)
        except PruneError as error:
            return Cell(criterion, ratio, (), (), f"{type(error).__name__}: {error}")
        found, _, _ = accuracy(result.model, batches(images.test, BATCH))
        top1.append(found)
        got.append(result.got)
        warnings += [warning for warning in result.warnings if warning not in warnings]
    return Cell(criterion, ratio, tuple(top1), tuple(got), " ".join(warnings))


def table(cells: list[Cell], ratios: list[float]) -> Table:
    """Lay out top-1 and what was removed, a row per criterion."""
    heads = [f"{what} {ratio:g}" for ratio in ratios for what in ("top-1 at", "removed at")]
    laid = Table("criterion", *heads, box=box.SIMPLE)
    for criterion in dict.fromkeys(cell.criterion for cell in cells):
        row = []
        for cell in cells:
            if cell.criterion == criterion:
                removed = f"{statistics.mean(cell.got):.2%}" if cell.got else ""
                row += [str(cell), removed]
        laid.add_row(criterion, *row)
    return laid


def heading(args: argparse.Namespace) -> list[str]:
    """Return what the figures must travel with."""
    return [
        "# Top-1 after pruning the zoo, before any recovery training",
        "",
        "Percent of the test images of fashion-mnist-mini (the official 10,000). Ratios are of",
        "parameters; scope, axes, floor and multiple are each criterion's and adapter's default.",
        "Criteria that draw at random: mean over the seeds, then each.",
        "",
        facts(f"{args.seeds}, the first one for criteria that draw nothing", args.threads),
        "- calibration, for criteria that need gradients: 512 of the 5,000 calibration images",
    ]


if __name__ == "__main__":
    main()
