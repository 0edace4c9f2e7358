"""Sections: cells in the order of importance, until the time is up; each is written at once."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

AGAIN = 5.0  # seconds after which to insist, should something have swallowed the first alarm


class OutOfTime(BaseException):
    """The time is up. Not an Exception, which torch.compile and others would catch."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread, whatever it is doing, when the time is up."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Section:
    """One question.

    Attributes:
        name: What its results are called in the record.
        share: The part of all time that it may take; what it leaves, the next ones get.
        cells: What to measure, the most important first; `str` names each in one line.
        measure: Measures one cell, into plain data.
    """

    name: str
    share: float
    cells: Sequence[Any]
    measure: Callable[[Any], dict[str, Any]]


class Record:
    """What is known so far, in a file that is whole at any moment."""

    def __init__(self, path: Path, about: dict[str, Any]):
        """Begin with what all figures travel with."""
        self.path = path
        self.data: dict[str, Any] = {"about": about, "sections": [], "skipped": []}
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        """Replace the file."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        partial.replace(self.path)

    def skip(self, section: Section, cells: Sequence[Any], why: str) -> None:
        """Note what was not measured."""
        self.data["skipped"] += [
            {"section": section.name, "cell": str(cell), "why": why} for cell in cells
        ]


def run(sections: Sequence[Section], record: Record, seconds: float) -> None:
    """Measure section by section, and stop when the time is up."""
    start = time.monotonic()
    whole, passed = sum(section.share for section in sections), 0.0
    for section in sections:
        passed += section.share
        _run(section, record, start + seconds * passed / whole)


def _run(section: Section, record: Record, end: float) -> None:
    began, rows = time.monotonic(), record.data.setdefault(section.name, [])
    for number, cell in enumerate(section.cells):
        try:
            with limited(end - time.monotonic()):
                rows.append(section.measure(cell))
        except OutOfTime:
            record.skip(section, section.cells[number:], "no time")
            break
        except Exception as error:  # a failure is a finding, and no reason to lose the rest
            record.skip(section, [cell], _told(error))
        print(f"{time.monotonic() - began:6.1f} s  {section.name}: {cell}", flush=True)
        record.write()
    _free()
    spent = round(time.monotonic() - began, 1)
    done = {"name": section.name, "planned": len(section.cells), "done": len(rows)}
    record.data["sections"].append({**done, "seconds": spent})
    record.write()


def _told(error: Exception) -> str:
    """Return an error in one line, and let go of what it holds on to."""
    text = (str(error).strip().splitlines() or [""])[0]
    error.__traceback__ = None  # its frames hold models
    _free()
    return f"{type(error).__name__}: {text}"


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
