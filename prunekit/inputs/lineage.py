"""Lineage: what was pruned from a model before, so that it can be pruned further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..planning.plan import Plan
from ..tracing.plain_layers import made_plain, named_plain
from .architectures import Architecture

ATTRIBUTE = "_prunekit_lineage"


@dataclass(frozen=True)
class Lineage:
    """Where a model that prunekit loaded comes from.

    Attributes:
        architecture: How to build the large model.
        weights: Where the large model's weights were from.
        adapter: Name of the adapter that knows it.
        plan: What was cut out of it.
        part: The name of the part that was pruned; empty if it was the whole model.
        plain: Names of layers that were made plain before anything was cut.
    """

    architecture: Architecture
    weights: str
    adapter: str
    plan: Plan
    part: str = ""
    plain: tuple[str, ...] = ()

    def rebuilt(self) -> nn.Module:
        """Return the large model again, with random weights."""
        large = self.architecture.build()
        return made_plain(large, named_plain(large, self.plain, f"{self.architecture.name}"))

    def __deepcopy__(self, memo: dict[int, Any]) -> Lineage:
        return self  # nothing in it changes


def lineage_of(model: nn.Module) -> Lineage | None:
    """Return what was pruned from a model before; None if nothing was, or nobody noted it."""
    found = getattr(model, ATTRIBUTE, None)
    return found if isinstance(found, Lineage) else None


def note_lineage_(model: nn.Module, lineage: Lineage) -> None:
    """Let a model remember where it comes from."""
    setattr(model, ATTRIBUTE, lineage)
