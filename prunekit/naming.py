"""naming: names of modules, and lists of names in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 3


def is_within(name: str, part: str) -> bool:
    """Say whether a module or a parameter is a part of a model, or inside it; "" is the model."""
    return not part or name == part or name.startswith(f"{part}.")


def some(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
