"""prunekit compare: a grid of runs, and the report on them."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GridError
from .common import add_data, add_examples, place, progress, words
from .grid_screen import Screen, say_interrupted
from .launching import add_launcher, cluster_of

if TYPE_CHECKING:
    from ..comparison.findings import Findings
    from ..comparison.grid import Grid
    from ..comparison.launch import Failure, Job, Launcher

EXAMPLES = """
prunekit compare --criterion all --repair none,lstsq --ratio 0.3,0.5 --out comparisons/zoo
prunekit compare --arch vit_micro --criterion dimap,random --seeds 3 --dry-run
prunekit compare --grid zoo.toml --out comparisons/zoo --launcher ray
prunekit compare --report-only comparisons/zoo
"""


def add(parser: argparse.ArgumentParser) -> None:
    grid = parser.add_argument_group("the grid", "every combination of these; lists with commas")
    add = grid.add_argument
    add("--grid", type=place, metavar="FILE", help="TOML with these words; flags win over it")
    add("--arch", type=words, help="names of the zoo, aliases, or any timm names")
    add("--criterion", type=specs, help="names, with options if any; or all (dimap)")
    add("--scope", type=words, help="axis, kind, model, or own: the criterion's (own)")
    add("--repair", type=specs, help="none, bias, lstsq, recalibrate, or with a + between (none)")
    add("--axes", type=words, help="sets of kinds, such as mlp+head,mlp+head_dim (default)")
    add("--by", type=words, help="params, macs, slices, latency, memory (params)")
    add("--ratio", type=numbers, help="fractions of the whole model to remove (0.5)")
    add("--seeds", type=seeds, help="how many, from 0; or a list such as 3,4 (1)")
    add("--finetune", type=words, help="none, or recipes to train with afterwards (none)")
    same = parser.add_argument_group("the same in all cells", "see prunekit run --help")
    same.add_argument("--floor", type=float)
    same.add_argument("--multiple", type=int)
    same.add_argument("--steps", type=int)
    same.add_argument("--schedule")
    same.add_argument("--weights")
    add_data(same)
    same.add_argument("--calibration", type=int)
    same.add_argument("--latency-batch", type=int)
    same.add_argument("--latency-dtype")
    same.add_argument("--device")
    add = parser.add_argument
    add("--out", type=place, help="directory for cells and report; a run that was cut off goes on")
    add("--report-only", type=place, metavar="DIR", help="write the report anew from its cells")
    add("--dry-run", action="store_true", help="print the cells, time one, and estimate the rest")
    add_launcher(parser)
    add_examples(parser, EXAMPLES)
    parser.set_defaults(run=_run)


def specs(text: str) -> tuple[str, ...]:
    """Split names at commas, but not the options of one: "vbp,magnitude:p=1"."""
    found: list[str] = []
    for word in words(text):
        continues = found and ":" in found[-1] and "=" in word and ":" not in word
        found[-1:] = [f"{found[-1]},{word}"] if continues else [*found[-1:], word]
    return tuple(found)


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in words(text))


def seeds(text: str) -> int | tuple[int, ...]:
    return tuple(int(word) for word in words(text)) if "," in text else int(text)


def _run(options: argparse.Namespace) -> int:
    if options.report_only:
        with progress("write the report"):
            from ..comparison.compare import report

            findings = report(options.report_only)
        _print_findings(findings, options.report_only)
        return _print_problems(findings)
    with progress("load torch") as on_step:
        from ..comparison.compare import check_ready, plan
        from ..comparison.store import check_out

        grid = _grid(options)
        check_ready(grid)
        if options.out is None and not options.dry_run:
            raise GridError("A comparison is kept in a directory; give one with --out.")
        if options.out is not None:
            check_out(options.out)
        from ..comparison.launch import run_here

        launcher: Launcher = cluster_of(options) or run_here
        on_step("look at the models")
        jobs = plan(grid)
    if options.dry_run:
        _print_plan(grid, jobs, options.out)
        return 0
    from ..comparison.compare import run

    with _interruptible(Screen([job.cell for job in jobs])) as screen:
        findings, failures = run(
            grid, jobs, options.out, command=_command(), launcher=launcher, progress=screen
        )
    _print_findings(findings, options.out)
    return max(_print_failures(failures), _print_problems(findings))


def _grid(options: argparse.Namespace) -> Grid:
    from dataclasses import fields

    from ..comparison.grid import Grid, Settings

    names = [entry.name for entry in (*fields(Grid), *fields(Settings)) if entry.name != "settings"]
    flags = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return Grid.read(options.grid, flags) if options.grid else Grid.of(flags)


def _command() -> str:
    return shlex.join(["prunekit", *sys.argv[1:]])


@contextmanager
def _interruptible(screen: Screen) -> Iterator[Screen]:
    """Let Ctrl-C end the process on the spot: what is done is kept, as after kill -9."""

    def leave(*_: object) -> None:
        say_interrupted(screen)
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not if it is ignored, or the caller's own
        signal.signal(signal.SIGINT, leave)
    try:
        with screen:
            yield screen
    finally:
        signal.signal(signal.SIGINT, before)


def _print_plan(grid: Grid, jobs: list[Job], out: Path | None) -> None:
    from ..comparison.estimate import estimate
    from ..comparison.store import Store

    store = Store(out) if out else None
    missing = [job for job in jobs if store is None or not store.has(job.key)]
    there = {job.key for job in jobs} - {job.key for job in missing}
    for job in jobs:
        print(f"{job.key}  {job.cell}{'  (there)' if job.key in there else ''}")
    print(f"\n{len(jobs)} cells, {len(there)} of them there")
    total = 0.0
    with progress("time a cell") as on_step:
        found = list(estimate(grid, missing, on_step))
    for one in found:
        total += one.seconds
        print(f"{one.cells} cells like {one.cell}: {one.each:.1f} s each, {_clock(one.seconds)}")
        if one.problem:
            print(f"prunekit: that cell would have no figures: {one.problem}", file=sys.stderr)
    trained = sum(job.cell.finetune != "none" for job in missing)
    print(f"about {_clock(total)} in one process" + _trained(trained))


def _trained(cells: int) -> str:
    return f", and {cells} cells that are trained besides, which is not in the estimate" * bool(
        cells
    )


def _print_findings(findings: Findings, out: Path) -> None:
    from rich.console import Console

    origin = findings.origin
    console = Console(highlight=False)
    console.print(findings.answer, end="\n\n")
    done = origin.cells - origin.missing
    alone = f"; {_clock(origin.alone)} with nothing shared" if origin.alone else ""
    console.print(f"cells     {done} of {origin.cells}, in {_clock(origin.seconds)} of work{alone}")
    console.print(f"report    {out / 'report.html'}, .md, .csv, .json", soft_wrap=True)


def _print_failures(failures: list[Failure]) -> int:
    for failure in failures:
        print(f"prunekit: not run: {failure.cell}: {failure.reason}", file=sys.stderr)
    if failures:
        print(
            f"prunekit: {len(failures)} cells could not be run; the same command tries them again.",
            file=sys.stderr,
        )
    return 1 if failures else 0


def _print_problems(findings: Findings) -> int:
    """Say once why some criteria have no figures; it is an error if none has any."""
    rows = [row for standing in findings.standings for row in standing.rows]
    problems = Counter(row.problem for row in rows if row.problem is not None)
    for problem, count in problems.items():
        print(f"prunekit: no figures in {count} of {len(rows)} rows: {problem}", file=sys.stderr)
    return 1 if problems.total() == len(rows) else 0


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
