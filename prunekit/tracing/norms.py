"""Modules that normalise over all of their channels together, whatever family they are of."""

from __future__ import annotations

from typing import Any

from torch import nn

from .copies import BATCH_NORMS

# Set on a grouped convolution that was cut: whether groups left as a whole, or channels of each.
# The numbers of what is left no longer tell, and what is cut again must be cut the same way.
WHOLE_GROUPS = "_prunekit_whole_groups"


def is_norm(module: object) -> bool:
    """Say whether a module's result depends on all its channels together."""
    return "Norm" in type(module).__name__ and not isinstance(module, BATCH_NORMS)


def normalises(module: nn.Module) -> bool:
    """Say whether a module does that, and nothing else of note."""
    return is_norm(module) and all(tensor.dim() < 2 for tensor in module.parameters())


def channel_dim(norm: Any) -> int:
    """Return the dimension of the input that a normalisation runs over."""
    if isinstance(norm, nn.GroupNorm) or "2d" in type(norm).__name__:
        return 1
    return int(getattr(norm, "channel_dim", -1))
