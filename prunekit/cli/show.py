"""prunekit list | show | eval: look at what there is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from .common import add_data, place, print_report, progress


def add_list(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_list)


def add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=place)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=_show)


def add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=place)
    add_data(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=_eval)


def _list(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from ..adapters import ADAPTERS
    from ..criteria import CRITERIA
    from ..inputs import zoo
    from ..inputs.datasets import DATASETS
    from ..recovery import recipes
    from ..repairs import REPAIRS

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
    training = [
        (
            name,
            f"{recipe.epochs} epochs in batches of {recipe.batch_size}"
            + (", distilled from the dense model" if recipe.distill else ""),
        )
        for name, recipe in ((name, recipes.find(name)) for name in recipes.names())
    ]
    console = Console()
    for title, rows in (
        ("criteria", [(name, CRITERIA.summary(name)) for name in CRITERIA.names()]),
        ("repairs", [(name, REPAIRS.summary(name)) for name in REPAIRS.names()]),
        ("recipes, for fine-tuning", training),
        ("adapters", [(name, ADAPTERS.summary(name)) for name in ADAPTERS.names()]),
        ("architectures, besides any timm name", zoo_models + short),
        ("data, besides any folder of images", list(DATASETS.items())),
    ):
        console.print(table(title, rows), "")
    return 0


def _show(options: argparse.Namespace) -> int:
    from ..artifact import read_plan, read_report

    read_plan(options.directory)
    print_report(dict(read_report(options.directory)), options.json)
    return 0


def _eval(options: argparse.Namespace) -> int:
    with progress("load torch") as on_step:
        from ..evaluate import evaluate

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
