"""Outcome: what is said of one case, and how a finished command is judged."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from .sandbox import Ran

FINE = ("ok", "refused")
# In the order of the table that count.py prints.
KINDS = (
    *FINE,
    "traceback",
    "exit code",
    "words",  # exit 2, but not one printable sentence
    "unnamed",  # refused without a word on which plug-in is to blame
    "accepted",  # exit 0 in spite of an option that cannot be meant
    "leftovers",  # refused, but something was left, changed or removed
    "destroyed",  # exit 0, but files of the user's are gone or changed
    "late",  # refused after the work
    "slow",
    "memory",
    "network",
    "walked",
    "executed",  # code that a file brought along
    "raw escape",  # control characters of a file on the terminal
    "changed model",  # the caller's own
    "silent wrong",
    "died",
    "harness",
)
CODES = (0, 1, 2, 130)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PROGRESS = re.compile(r"^(epoch \d+/|\d+/\d+ cells)")
MEMORY = ("MemoryError", "OutOfMemoryError")
MEMORY_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        kind: One of `KINDS`.
        why: What exactly; equal for cases that fail alike.
        detail: The rest, for whoever looks into it.
    """

    kind: str
    why: str = ""
    detail: str = ""

    @property
    def fine(self) -> bool:
        """Whether prunekit did as it should."""
        return self.kind in FINE

    def __str__(self) -> str:
        return " | ".join(filter(None, (self.kind, self.why, self.detail)))


OK = Outcome("ok")


def broken(ran: Ran) -> Outcome | None:
    """Return what is wrong with a case whatever it was about: it died, hung, or went online."""
    if ran.err.startswith("HARNESS"):
        return Outcome("harness", ran.err)
    if ran.timed_out:
        return Outcome("slow", "killed", f"after {ran.seconds:.0f} s of CPU time")
    if ran.signal is not None:
        return Outcome("died", signal.Signals(ran.signal).name)
    if ran.network:
        return Outcome("network", ran.network[0], ran.raised.message if ran.raised else "")
    if ran.raised and out_of_memory(ran):
        return Outcome("memory", f"{ran.raised.type} at {ran.raised.place}", ran.raised.message)
    return None


def out_of_memory(ran: Ran) -> bool:
    """Whether a case asked for more memory than the sandbox gives."""
    raised = ran.raised
    if raised is None or raised.ours:
        return False
    return raised.type in MEMORY or any(word in raised.message for word in MEMORY_WORDS)


def traceback(ran: Ran) -> Outcome | None:
    """Return the exception that a user would see as a traceback, if any."""
    if ran.raised is None or ran.raised.type == "SystemExit":
        return None
    return Outcome("traceback", f"{ran.raised.type} at {ran.raised.place}", ran.raised.message)


def exit_code(ran: Ran) -> object:
    """Return what `main` returned, or left with."""
    if ran.raised is None:
        return ran.value
    return {"None": 0}.get(ran.raised.message, _number(ran.raised.message))


def _number(text: str) -> object:
    return int(text) if text.lstrip("-").isdigit() else text


def judged(ran: Ran) -> Outcome:
    """Judge a command by what every command must keep: exit code, words, no escape sequences."""
    wrong = broken(ran) or traceback(ran)
    if wrong:
        return wrong
    code = exit_code(ran)
    if code not in CODES or type(code) is not int:
        return Outcome("exit code", repr(code), ran.err[-300:])
    if "Traceback (most recent call last)" in ran.err:
        return Outcome("traceback", "printed", ran.err[-500:])
    if CONTROL.search(ran.out):
        return Outcome("raw escape", "on standard output", repr(ran.out[-300:]))
    return _refusal(ran) if code == 2 else OK


def _refusal(ran: Ran) -> Outcome:
    lines = [line for line in ran.err.splitlines() if not PROGRESS.match(line)]
    if CONTROL.search(ran.err):
        return Outcome("raw escape", "on standard error", repr(ran.err[-300:]))
    if len(lines) != 1:
        return Outcome("words", f"{min(len(lines), 2)} lines or more", repr(ran.err[-500:]))
    if not lines[0].startswith("prunekit: "):
        return Outcome("words", "does not begin with prunekit:", repr(ran.err[-300:]))
    if len(lines[0]) > 1000:
        return Outcome("words", "over 1000 characters", f"{len(lines[0])}: {lines[0][:200]}")
    if ran.out.strip():
        return Outcome("words", "prints to standard output", repr(ran.out[:200]))
    return Outcome("refused", "", lines[0])
