"""prunekit run | list | show | eval | check: the command line, and no logic."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from .errors import PruneError

INTERRUPTED = "prunekit: interrupted; nothing was saved."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if all went well, 1 if a conformance check failed, 2 for bad input, 130 after
        Ctrl-C. Errors are one sentence on standard error.
    """
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except PruneError as error:
        print(f"prunekit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        print(f"prunekit: {message}; see {self.prog} --help.", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="prunekit", description="Physically smaller vision backbones.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="prune a model, measure it, and save it"))
    _add_list(commands.add_parser("list", help="criteria, adapters, architectures and data"))
    _add_show(commands.add_parser("show", help="the report of a saved model"))
    _add_eval(commands.add_parser("eval", help="the accuracy of a saved model"))
    _add_check(commands.add_parser("check", help="put a criterion or an adapter to the test"))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--arch", required=True, help="a name of the zoo, an alias, or any timm name")
    add("--criterion", default="dimap", help="name, or name:option=value (default: dimap)")
    add("--ratio", type=float, default=0.5, help="fraction of the whole model to remove (0.5)")
    add("--by", default="params", help="what it counts: params, macs or slices (params)")
    add("--scope", help="where slices compete: axis, kind or model (the criterion's own)")
    add("--axes", type=_words, help="kinds that may shrink: mlp,head,head_dim,width")
    add("--include", type=_words, default=(), help="globs on axis names, comma-separated")
    add("--exclude", type=_words, default=(), help="globs on axis names, comma-separated")
    add("--floor", type=float, default=0.1, help="smallest kept fraction of an axis (0.1)")
    add("--multiple", type=int, default=8, help="kept MLP and width sizes are multiples of it (8)")
    add("--weights", default="auto", help="auto, pretrained, random, or a file")
    _add_data(parser)
    add("--calibration", type=int, default=512, help="calibration images a criterion may see (512)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="directory to save the small model in")
    add("--json", action="store_true", help="print the report as JSON instead of tables")
    parser.set_defaults(run=_run)


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_list)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=_show)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path)
    _add_data(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=_eval)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("noun", choices=("criterion", "adapter"))
    parser.add_argument("name")
    parser.set_defaults(run=_check)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="fashion-mnist, fashion-mnist-mini, or a folder of images")
    parser.add_argument("--data-dir", help="where the full Fashion-MNIST lies")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _run(options: argparse.Namespace) -> int:
    with _progress("load torch") as on_step:
        from .artifact import check_writable
        from .engine import prune

        if options.out:
            check_writable(options.out)
        result = prune(
            options.arch,
            options.criterion,
            options.ratio,
            by=options.by,
            scope=options.scope,
            axes=options.axes,
            include=options.include,
            exclude=options.exclude,
            floor=options.floor,
            multiple=options.multiple,
            weights=options.weights,
            data=options.data,
            data_dir=options.data_dir,
            calibration=options.calibration,
            evaluate=True,
            device=options.device,
            seed=options.seed,
            on_step=on_step,
        )
    if options.out:
        result.save(options.out)
    _print_report(result.report(), options.json)
    if not options.json:
        print(f"saved     {options.out or 'nowhere; add --out DIR to keep the model'}")
    return 0


def _list(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from . import zoo
    from .adapters import ADAPTERS
    from .criteria import CRITERIA
    from .datasets import DATASETS

    def table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
        grid = Table(box=None, pad_edge=False, show_header=False, title=title, title_justify="left")
        grid.add_column(style="bold", no_wrap=True, min_width=20)
        grid.add_column()
        for row in rows:
            grid.add_row(*row)
        return grid

    short = [
        pair for name in ADAPTERS.builtin_names() for pair in ADAPTERS.get(name).aliases.items()
    ]
    zoo_models = [
        (
            card["name"],
            f"{card['params']:,} parameters, {card['test_top1']} % top-1 on {card['data']}",
        )
        for card in map(zoo.card, zoo.names())
    ]
    console = Console()
    for title, rows in (
        ("criteria", [(name, CRITERIA.summary(name)) for name in CRITERIA.names()]),
        ("adapters", [(name, ADAPTERS.summary(name)) for name in ADAPTERS.names()]),
        ("architectures, besides any timm name", zoo_models + short),
        ("data, besides any folder of images", list(DATASETS.items())),
    ):
        console.print(table(title, rows), "")
    return 0


def _show(options: argparse.Namespace) -> int:
    from .artifact import read_plan, read_report

    read_plan(options.directory)
    _print_report(read_report(options.directory), options.json)
    return 0


def _eval(options: argparse.Namespace) -> int:
    with _progress("load torch") as on_step:
        from .evaluate import evaluate

        figures = evaluate(
            options.directory,
            options.data,
            data_dir=options.data_dir,
            device=options.device,
            on_step=on_step,
        )
    if options.json:
        print(json.dumps(figures, indent=1))
        return 0
    print(f"{options.directory} on {figures['images']:,} test images of {figures['data']}:")
    print(f"top-1 {figures['top1']:.2f} %   top-5 {figures['top5']:.2f} %")
    return 0


def _check(options: argparse.Namespace) -> int:
    from rich.console import Console

    with _progress("load torch"):
        from .testing import adapter_checks, criterion_checks

        find = criterion_checks if options.noun == "criterion" else adapter_checks
        checks = find(options.name)
    console, failed = Console(), 0
    for check in checks:
        problem = check.problem()
        failed += problem is not None
        console.print(f"{'[red]fails ' if problem else '[green]passes'}[/] {check.claim}")
        if problem:
            console.print(f"       {problem}", markup=False)
    return 1 if failed else 0


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1))
        return
    from rich.console import Console

    from .report import render

    Console(highlight=False).print(render(report))


@contextmanager
def _progress(first: str) -> Iterator[Any]:
    """Show on standard error which step is running, and for how long it has been."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(first, total=None)
        with _leaving_at_once(console):
            yield lambda step: progress.update(task, description=step)


@contextmanager
def _leaving_at_once(console: Any) -> Iterator[None]:
    """Let Ctrl-C end the process on the spot, while nothing is being written.

    Raised inside an import, a KeyboardInterrupt is often swallowed, or turned into another
    error, by the library that is being imported.
    """

    def leave(*_: object) -> None:
        console.show_cursor()
        print(INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not if it is ignored, or the caller's own
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
