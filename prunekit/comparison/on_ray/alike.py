"""check_same: whether a worker has what a cell was planned with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import GridError

OTHER = {
    "versions": ("other versions", "install the same versions on all machines"),
    "device": (
        "another sort of device",
        "pass --device cpu, or start this on a machine like the workers'",
    ),
    "weights": ("other weights", "name weights that are the same on all machines"),
    "data": ("other images", "name images that are the same on all machines"),
    "finetune": ("another recipe", "name a recipe that is the same on all machines"),
    "adapter": ("another adapter", "install the same code on all machines"),
    "criterion": ("another criterion", "install the same code on all machines"),
    "repair": ("another repair", "install the same code on all machines"),
}


def check_same(planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Make sure that what was found is what was planned with.

    Raises:
        GridError: Something is not.
    """
    for part, value in found.items():
        if value != planned[part]:
            other, advice = OTHER[part.partition(" ")[0]]
            raise GridError(
                f"A worker has {other} than the cell was planned with"
                f"{_told_apart(planned[part], value)}; {advice}."
            )


def _told_apart(planned: Any, found: Any) -> str:
    """Say what differs where a person can tell: not between digests."""
    if isinstance(planned, dict) and isinstance(found, dict):
        return "".join(
            f" ({name} {found.get(name)}, not {planned[name]})"
            for name in planned
            if planned[name] != found.get(name)
        )
    return f" ({found}, not {planned})" if found in ("cpu", "cuda") else ""
