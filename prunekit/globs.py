"""matching: which names the patterns of --include and --exclude choose."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from .errors import AdapterError


def matching(
    names: Sequence[str], include: Sequence[str], exclude: Sequence[str], noun: str
) -> set[str]:
    """Return the names that some pattern includes, or all if there is none, less the excluded.

    Args:
        names: All there are.
        include: Globs, in which case counts; only what one of them matches.
        exclude: Globs; not what one of them matches.
        noun: What a name is of, such as "axis".

    Raises:
        AdapterError: A pattern matches no name.

    Example:
        >>> sorted(matching(["a.mlp", "a.head", "b.mlp"], ["a.*"], ["*.head"], "axis"))
        ['a.mlp']
    """
    for pattern in (*include, *exclude):
        if not _filtered(names, pattern):
            raise AdapterError(
                f"The pattern {pattern!r} matches no {noun}; they are called like "
                f"{', '.join(names[:3])}."
            )
    chosen = set(names)
    if include:
        chosen = {name for pattern in include for name in _filtered(names, pattern)}
    return chosen - {name for pattern in exclude for name in _filtered(names, pattern)}


def _filtered(names: Sequence[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
