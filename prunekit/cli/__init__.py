"""The command line, a file a command, without logic: prunekit run, compare, finetune and others."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from textwrap import shorten
from typing import NoReturn

from ..errors import PruneError
from ..files.reading import cleaned
from . import check, compare, export, finetune, run, sensitivity, show
from .common import INTERRUPTED

MESSAGE = 300  # characters of an argument error, of which a value can be any long


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if all went well, 1 if a conformance check or cells of a comparison failed, 2 for bad
        input, 130 after
        Ctrl-C. Errors are one sentence on standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal can show a bar
            stream.reconfigure(errors="backslashreplace")
    try:
        parser = _parser()
        _complete(parser)
        options = parser.parse_args(arguments)
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except PruneError as error:
        _say(str(error))
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        _let_go_of_output()
        return 0
    except OSError as error:
        _let_go_of_output()
        where = f"{str(error.filename)!r}: " if error.filename else "the output: "
        _say(f"Cannot read or write {where}{error.strerror or error}; name another place.")
    return 2


def _say(sentence: str) -> None:
    """Print an error in one line, whatever names and values are quoted in it."""
    line = cleaned(" ".join(sentence.split("\n")))
    print(f"prunekit: {line}", file=sys.stderr)


def _let_go_of_output() -> None:
    """Let Python's own last flush go nowhere; it would fail once more, and say so."""
    with suppress(OSError, ValueError):  # it may be no real file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        _say(f"{shorten(message, MESSAGE)}; see {self.prog} --help.")
        sys.exit(2)


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, if it is the shell that asks, and argcomplete is installed."""
    if "_ARGCOMPLETE" in os.environ:
        with suppress(ImportError):
            importlib.import_module("argcomplete").autocomplete(parser)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="prunekit", description="Physically smaller vision backbones.")
    parser.add_argument("--version", action="version", version=f"prunekit {version('prunekit')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run.add(commands.add_parser("run", help="prune a model, measure it, and save it"))
    compare.add(commands.add_parser("compare", help="criteria, repairs and models, head to head"))
    sensitivity.add(
        commands.add_parser("sensitivity", help="which axes are dear to cut, and which are free")
    )
    show.add_list(commands.add_parser("list", help="criteria, adapters, architectures and data"))
    show.add_show(commands.add_parser("show", help="the report of a saved model"))
    show.add_eval(commands.add_parser("eval", help="the accuracy of a saved model"))
    finetune.add(commands.add_parser("finetune", help="recover accuracy by training a saved model"))
    export.add(commands.add_parser("export", help="files that run a saved model elsewhere"))
    check.add(
        commands.add_parser("check", help="put a criterion, a repair or an adapter to the test")
    )
    return parser
