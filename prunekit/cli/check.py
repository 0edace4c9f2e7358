"""prunekit check: put a plug-in to the test."""

from __future__ import annotations

import argparse

from .common import progress


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("noun", choices=("criterion", "repair", "adapter"))
    parser.add_argument("name")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from rich.console import Console

    with progress("load torch"):
        from .. import testing

        find = {
            "criterion": testing.criterion_checks,
            "repair": testing.repair_checks,
            "adapter": testing.adapter_checks,
        }
        checks = find[options.noun](options.name)
    console, failed = Console(), 0
    for check in checks:
        problem = check.problem()
        failed += problem is not None
        console.print(f"{'[red]fails ' if problem else '[green]passes'}[/] {check.claim}")
        if problem:
            console.print(f"       {problem}", markup=False)
    return 1 if failed else 0
