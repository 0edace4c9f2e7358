"""Residual branches, which may leave whole; importing this does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BLOCK = "block"  # the kind of axes that have one slice, a branch


@dataclass(frozen=True)
class Branch:
    """A residual branch: what is computed beside a stream and added to it.

    When it leaves, its bias stays: whatever the branch returned with the weight of its last layer
    at zero is the same at every position, and goes on being added.

    Attributes:
        modules: What runs for this branch alone, first to last.
        core: The one of them in whose place the constant stands.
        last: The layer, in the core, of which only the bias is left once its weight is zero.
        after: Modules, among these or inside them, that run on what that layer returns.
        scale: A parameter that multiplies what the core returns; None if there is none.
        constant: The parameter that has as many values as the constant, and counts for it; None
            if the branch without weights returns zeros.
    """

    modules: tuple[str, ...]
    core: str
    last: str
    after: tuple[str, ...] = ()
    scale: str | None = None
    constant: str | None = None

    def renamed(self, change: Callable[[str], str]) -> Branch:
        """Return the same branch with names of a larger model."""
        return Branch(
            tuple(map(change, self.modules)),
            change(self.core),
            change(self.last),
            tuple(map(change, self.after)),
            None if self.scale is None else change(self.scale),
            None if self.constant is None else change(self.constant),
        )


@dataclass(frozen=True)
class Stream:
    """What a residual branch does to the stream that it is added to, on the calibration images.

    Attributes:
        energy: Squared norm of the stream before the branch, mean over images and positions.
        added: Variance of what the branch adds, summed over the channels.
    """

    energy: float
    added: float
