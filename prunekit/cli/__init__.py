"""prunekit run | compare | finetune | list | show | eval | check: the command line, no logic."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from ..errors import PruneError
from . import check, compare, finetune, run, show
from .common import INTERRUPTED


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
    parser.add_argument("--version", action="version", version=f"prunekit {version('prunekit')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run.add(commands.add_parser("run", help="prune a model, measure it, and save it"))
    compare.add(commands.add_parser("compare", help="criteria, repairs and models, head to head"))
    show.add_list(commands.add_parser("list", help="criteria, adapters, architectures and data"))
    show.add_show(commands.add_parser("show", help="the report of a saved model"))
    show.add_eval(commands.add_parser("eval", help="the accuracy of a saved model"))
    finetune.add(commands.add_parser("finetune", help="recover accuracy by training a saved model"))
    check.add(
        commands.add_parser("check", help="put a criterion, a repair or an adapter to the test")
    )
    return parser
