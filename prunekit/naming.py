"""naming: lists of names in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 3


def some(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
