"""naming: names of modules, and lists of names in a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

NAMED = 3


def is_within(name: str, part: str) -> bool:
    """Say whether a module or a parameter is a part of a model, or inside it; "" is the model."""
    return not part or name == part or name.startswith(f"{part}.")


def stage_of(name: str) -> str:
    """Return what all blocks of a stage are called: a name with a star for its last number.

    Example:
        >>> stage_of("layers.0.blocks.1.mlp"), stage_of("stem.conv1")
        ('layers.0.blocks.*.mlp', 'stem.conv1')
    """
    return re.sub(r"(?<![^.])\d+(?![^.])(?!.*(?<![^.])\d+(?![^.]))", "*", name)


def some(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
