"""A comparison on the terminal: a bar over all cells, and what the present one is doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..comparison.cell import Cell


class Screen:
    """Tells on standard error how a comparison goes; in a log, a line for each cell."""

    def __init__(self, cells: Sequence[Cell]):
        from rich.console import Console

        from ..comparison.pace import Pace

        self.console = Console(stderr=True, highlight=False)
        self.pace = Pace(cells)
        self._running: dict[Cell, str] = {}
        self._aside = ""
        self._began, self._worked = time.monotonic(), 0.0
        self._live = self._make_live() if self.console.is_terminal else None

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._live.stop()
        self.console.show_cursor()

    def started(self, cell: Cell) -> None:
        self._running[cell] = "start"

    def step(self, name: str) -> None:
        for cell in list(self._running)[-1:]:
            self._running[cell] = name

    def done(self, cell: Cell, seconds: float) -> None:
        fresh = self._running.pop(cell, None) is not None
        self.pace.add(cell, seconds)
        self._worked += seconds if fresh else 0.0
        if fresh and not self._live:
            self.console.print(f"{self._counts()}  {seconds:5.1f} s  {cell}", soft_wrap=True)

    def aside(self, name: str) -> None:
        self._aside = name

    def said(self) -> str:
        """Return how far it is, for the message after Ctrl-C."""
        return f"{self.pace.done} of {self.pace.total} cells are done"

    def _make_live(self) -> Any:
        from rich.live import Live

        return Live(
            get_renderable=self._render,
            console=self.console,
            refresh_per_second=5,
            transient=True,
        )

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=max(self.pace.total, 1), completed=self.pace.done, width=24)
        line.add_row(bar, self._counts())
        now = [
            Text(f"{step}  {cell}", style="dim", no_wrap=True, overflow="ellipsis")
            for cell, step in list(self._running.items())[-4:]
        ]
        return Group(line, *now, Text(self._aside, style="dim"))

    def _counts(self) -> str:
        left, whole = self.pace.seconds_left()
        elapsed = time.monotonic() - self._began
        # Several workers do more than a second's work in a second.
        rate = max(1.0, self._worked / elapsed) if elapsed > 0 else 1.0
        clock = str(timedelta(seconds=round(left / rate)))
        if self.pace.done == 0:
            return f"{self.pace.done}/{self.pace.total} cells"
        more = "" if whole else "over "
        return f"{self.pace.done}/{self.pace.total} cells  {more}{clock} left"


def say_interrupted(screen: Screen) -> None:
    """Tell how far a comparison came, and how to go on."""
    screen.close()
    print(
        f"prunekit: interrupted; {screen.said()}, and the same command goes on with the others.",
        file=sys.stderr,
        flush=True,
    )
