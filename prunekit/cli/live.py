"""A training run on the terminal: a table that grows, or a line for each epoch in a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..files.replacing import abandon
from .common import nudges_to

if TYPE_CHECKING:
    from ..recovery.training import Epoch, Update

ROWS = 12  # epochs shown at once
STOPPING = "stopping after the updates under way; Ctrl-C again leaves at once"
LEFT = "prunekit: interrupted; add --resume to go on from the last checkpoint."


class Screen:
    """What is shown on standard error while a model trains."""

    def __init__(self, epochs: int, shown: bool):
        """Prepare for a run of so many epochs; nothing is shown by the processes beside it."""
        from rich.console import Console
        from rich.live import Live

        self.epochs, self.shown = epochs, shown
        self.console = Console(stderr=True, highlight=False)
        self.history: list[Epoch] = []
        self.update: Update | None = None
        self.step, self.note = "load", ""
        self.live = shown and self.console.is_terminal
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=5)

    def on_step(self, step: str) -> None:
        self.step = step

    def on_update(self, update: Update) -> None:
        self.update = update

    def on_epoch(self, epoch: Epoch) -> None:
        self.history.append(epoch)
        if self.shown and not self.live:
            self.console.print(self._line(epoch), soft_wrap=True)

    def _line(self, epoch: Epoch) -> str:
        left = f"  {_clock(self.update.seconds_left)} left" if self.update else ""
        return (
            f"epoch {epoch.epoch}/{self.epochs}  lr {epoch.lr:.2e}  loss {epoch.train_loss:.4f}  "
            f"val top-1 {epoch.val_top1:.2f} %  {epoch.seconds:.1f} s  "
            f"{epoch.images_per_second:,.0f} images/s{left}"
        )

    def _render(self) -> Any:
        from rich.console import Group
        from rich.spinner import Spinner

        if not hasattr(self, "_spinner"):
            self._spinner = Spinner("dots")
        self._spinner.update(text=f" {self._status()}")
        return Group(*([self._table()] if self.history else []), self._spinner)

    def _status(self) -> str:
        update = self.update
        if self.note or update is None or self.step != "train":
            return self.note or self.step
        return (
            f"epoch {update.epoch}/{self.epochs}  {update.done / update.total:.0%}  "
            f"loss {update.loss:.4f}  {update.images_per_second:,.0f} images/s  "
            f"{_clock(update.seconds_left)} left"
        )

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("epoch", "lr", "loss", "val top-1", "seconds", "images/s"):
            table.add_column(heading, justify="right", header_style="dim", no_wrap=True)
        best = max(entry.val_top1 for entry in self.history)
        for entry in self.history[-ROWS:]:
            table.add_row(
                f"{entry.epoch}/{self.epochs}",
                f"{entry.lr:.2e}",
                f"{entry.train_loss:.4f}",
                f"{entry.val_top1:.2f} %",
                f"{entry.seconds:.1f}",
                f"{entry.images_per_second:,.0f}",
                style="bold" if entry.val_top1 == best else "",
            )
        return table


@contextmanager
def showing(epochs: int, shown: bool) -> Iterator[tuple[Screen, Callable[[], bool]]]:
    """Show a run, and turn Ctrl-C or a scheduler's SIGTERM into a question it can be asked.

    Before training begins, and at a second nudge, the process ends on the spot.
    """
    screen, asked = Screen(epochs, shown), list[bool]()

    def leave(number: int, _: object) -> None:
        abandon()
        screen.console.show_cursor()
        if shown:
            print(f"\n{LEFT}" if screen.live else LEFT, file=sys.stderr, flush=True)
        os._exit(128 + number)

    def ask(number: int, frame: object) -> None:
        if asked or screen.step != "train":
            leave(number, frame)
        asked.append(True)
        screen.note = STOPPING

    with nudges_to(ask):
        if screen.live:
            with screen._live:
                yield screen, lambda: bool(asked)
        else:
            yield screen, lambda: bool(asked)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
