"""Shared: what several runs would find out alike, found out once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Held:
    key: object
    value: Any
    seconds: float


class Shared:
    """Holds what was found out last, of each sort, until it is asked for something else.

    Holding one of each bounds the memory; runs that have things in common should follow each
    other.

    Attributes:
        saved: Seconds that were not spent, since a result was at hand.

    Example:
        >>> shared = Shared()
        >>> shared.once("square", 3, lambda: 3 * 3), shared.once("square", 3, lambda: 1 / 0)
        (9, 9)
    """

    def __init__(self, *, alone: bool = False) -> None:
        """Begin with nothing.

        Args:
            alone: Whether one run uses it, and no other follows.
        """
        self.saved = 0.0
        self._alone = alone
        self._held: dict[str, _Held] = {}

    def once(self, what: str, key: object, make: Callable[[], T]) -> T:
        """Return what was made for an equal key, or make it.

        Args:
            what: The sort of thing.
            key: Everything that determines it; compared by `==`.
            make: Makes it.
        """
        held = self._held.get(what)
        if held is not None and held.key == key:
            self.saved += held.seconds
            value: T = held.value
            return value
        self._held.pop(what, None)  # two of them need not fit into memory
        before, start = self.saved, time.perf_counter()
        value = make()
        seconds = time.perf_counter() - start + self.saved - before
        self._held[what] = _Held(key, value, seconds)
        return value

    def release(self, what: str) -> None:
        """Let go of something that a run has no more use for, unless others may follow."""
        if self._alone:
            self._held.pop(what, None)
