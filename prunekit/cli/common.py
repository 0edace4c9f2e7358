"""What several commands share: arguments, progress, and the printed report."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files.reading import cleaned
from ..files.replacing import abandon

INTERRUPTED = "prunekit: interrupted; nothing was saved."


def add_data(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--data", help="fashion-mnist, fashion-mnist-mini, or a folder of images")
    parser.add_argument("--data-dir", help="where the full Fashion-MNIST lies")


def add_output(parser: argparse._ActionsContainer, what: str = "report") -> None:
    """Add --json and --quiet, which exclude each other."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help=f"print the {what} as JSON, no tables")
    group.add_argument(
        "--quiet", action="store_true", help="print nothing but warnings and errors, to stderr"
    )


def add_examples(parser: argparse.ArgumentParser, examples: str) -> None:
    """Show commands after the options in --help."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    indented = "".join(f"  {line}\n" for line in examples.strip().splitlines())
    parser.epilog = f"examples:\n{indented}"


def complete_with(action: argparse.Action, choices: Callable[[], Iterable[str]]) -> None:
    """Tell argcomplete, where it is installed, what may stand there."""

    def completer(**_: object) -> list[str]:
        return list(choices())

    action.completer = completer  # type: ignore[attr-defined]


def warn(warnings: Iterable[str]) -> None:
    """Print warnings where no report shows them."""
    for warning in warnings:
        print(cleaned(f"prunekit: {warning}".replace("\n", " ")), file=sys.stderr)


def place(text: str) -> Path:
    """Read where something is or shall be."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a blank is no name; name a directory")
    return Path(text).expanduser()


def say_saved(what: object) -> None:
    """Say where something is kept, in one line whatever its name."""
    print(cleaned(f"saved     {what}".replace("\n", "\\n")))


def words(text: str) -> tuple[str, ...]:
    found = tuple(word for word in text.split(",") if word)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; leave it out, or name some")
    return found


def print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1))
        return
    from rich.console import Console

    from ..report import render

    Console(highlight=False).print(render(report))


@contextmanager
def progress(first: str, *, quiet: bool = False, interrupted: str = INTERRUPTED) -> Iterator[Any]:
    """Show on standard error which step is running, and for how long it has been.

    Args:
        first: The step that begins now.
        quiet: Whether nothing is shown.
        interrupted: What to say after Ctrl-C.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    shown = console.is_terminal and not quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(first, total=None)
        with _leaving_at_once(console, interrupted):
            yield lambda step: bar.update(task, description=step)


@contextmanager
def _leaving_at_once(console: Any, said: str) -> Iterator[None]:
    """Let Ctrl-C or a SIGTERM end the process on the spot, and leave nothing half-written.

    Raised inside an import, a KeyboardInterrupt is often swallowed, or turned into another
    error, by the library that is being imported.
    """

    def leave(number: int, _: object) -> None:
        abandon()
        console.show_cursor()
        print(said, file=sys.stderr, flush=True)
        os._exit(128 + number)

    with nudges_to(leave):
        yield


@contextmanager
def nudges_to(act: Callable[[int, object], None]) -> Iterator[None]:
    """Have Ctrl-C and a scheduler's SIGTERM call something, with the number of the signal."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = (signal.default_int_handler, signal.SIG_DFL)  # not if ignored, or the caller's own
    for number, handler in before.items():
        if handler in ours:
            signal.signal(number, act)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
