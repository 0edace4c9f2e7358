"""OBS: what is missed least once the rest has made up for it (Hassibi and Stork, 1992)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..axis import Axis
from .base import criterion
from .compensation import RIDGE, marginal_costs, relative_error


@criterion("obs", needs="covariances", scope="model", allowed={"ridge": RIDGE})
def obs(axes: Sequence[Axis], *, ridge: float = 0.01) -> list[Tensor]:
    """Score a slice by the error that its removal adds after the others have made up for it.

    Slices leave an axis one by one, each time the one that costs least, and the weights that read
    the others are refitted after each, as the repair `lstsq` will do. What a slice adds to the
    squared error of the outputs when its turn comes is its cost, relative to the energy of the
    residual stream that they are added to (of the outputs, if to none). Heads are blocks of
    columns, and branches all columns; the mean of what is read is left to the bias. The score is
    the cost over the slice's price, as for `influence`.

    Args:
        axes: What may shrink, with covariances.
        ridge: Added to every covariance, as a fraction of its mean diagonal.

    Source:
        Hassibi and Stork, NIPS 1992; for groups Frantar, Singh and Alistarh, Optimal Brain
        Compression, NeurIPS 2022, arXiv:2208.11580, and Kurtic et al., ZipLM, NeurIPS 2023,
        arXiv:2302.04089. Differs: several layers that read an axis are eliminated together; costs
        never fall along the order (their lower convex hull), so that they are marginal costs; they
        are relative to the stream, so that axes compete.
    """
    return marginal_costs(axes, relative_error(axes), ridge)
