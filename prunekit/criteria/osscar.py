"""OSSCAR: slices are exchanged for better ones, once it is known how many stay (ICML 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..axis import Axis
from ..plugin import Allowed
from .base import criterion
from .compensation import RIDGE, marginal_costs, readers_of, relative_error
from .exchange import exchanged

SWAPS = Allowed("0 or more", lambda swaps: swaps >= 0)


def _exchange(axis: Axis, kept: Tensor, *, ridge: float = 0.01, swaps: int = 50) -> Tensor:
    """Return the slices to keep of an axis, as many as a plan keeps."""
    weighing = relative_error([axis])
    readers = [one for m in axis.readers if m.dim == 1 for one in readers_of(m, weighing)]
    if not readers:
        return kept
    return exchanged(readers, kept, axis.spec.groups, swaps, ridge)


@criterion(
    "osscar",
    needs="covariances",
    scope="model",
    refine=_exchange,
    allowed={"ridge": RIDGE, "swaps": SWAPS},
)
def osscar(axes: Sequence[Axis], *, ridge: float = 0.01, swaps: int = 50) -> list[Tensor]:
    """Score as `obs`; once a plan says how many slices of an axis stay, exchange some.

    An elimination never takes back what it removed, though what left first may be worth more once
    others have left. So a local search goes on from the slices that the plan keeps: one is taken
    back and another removed, as long as refitting then leaves a smaller error.

    Args:
        axes: What may shrink, with covariances.
        ridge: Added to every covariance, as a fraction of its mean diagonal.
        swaps: Exchanges in an axis, or in each of its groups, at most.

    Source:
        Meng et al., OSSCAR: One-Shot Structured Pruning in Vision and Language Models with
        Combinatorial Optimization, ICML 2024, arXiv:2403.12983. Differs: it starts from the
        elimination of `obs`, not from magnitudes, and that shares the budget among axes.
    """
    return marginal_costs(axes, relative_error(axes), ridge)
