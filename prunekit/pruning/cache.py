"""What was measured once and is kept in a folder, so that it is not measured again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import BudgetError

VARIABLE = "PRUNEKIT_CACHE"


def folder_for(what: str) -> Path:
    """Return a folder for one sort of things, which exists and can be written to.

    It is in the folder that `PRUNEKIT_CACHE` names, or in `~/.cache/prunekit`.

    Args:
        what: A word for what is kept, which is the folder's name.

    Raises:
        BudgetError: It cannot be written to.
    """
    given = os.environ.get(VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (Path(given) if given else base / "prunekit") / what
    try:
        folder.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(folder, os.W_OK) else "it is read-only"
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise BudgetError(
            f"What is measured for {what} cannot be kept in {str(folder)!r} ({problem}); let "
            f"{VARIABLE} name a folder that can be written to."
        )
    return folder


def write(place: Path, content: Any) -> None:
    """Write plain data to a file, all of it or nothing."""
    partial = place.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(content))
    partial.replace(place)
