"""Random: a uniform number per slice, the control in every comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from ..plugin import Allowed
from .base import criterion

SEED = Allowed("an integer of 64 bits", lambda seed: -(2**63) <= seed < 2**64)


@criterion("random", scope="axis", weight_level=True, allowed={"seed": SEED})
def random(axes: Sequence[Axis], *, seed: int = 0) -> list[Tensor]:
    """Score every slice uniformly in [0, 1).

    Args:
        axes: What to score; only the sizes matter.
        seed: Seed of the draw; the run's own seed unless given.
    """
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(axis.size, generator=generator, dtype=torch.float64) for axis in axes]
