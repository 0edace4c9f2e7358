"""FLAP: what hardly fluctuates, a bias can replace (An et al., AAAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from .activity import product_variance, readers
from .base import criterion
from .streams import relative_to_others


@criterion("flap", needs="activations", scope="model")
def flap(axes: Sequence[Axis]) -> list[Tensor]:
    """Score a slice by how much what is read of it fluctuates, in units of its axis.

    For every layer that reads the slice, the variance of each feature over all calibration
    images and positions, times the squared norm of the weights it meets; then standardised
    within the axis, to mean 0 and variance 1.

    Source:
        An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models,
        AAAI 2024, arXiv:2312.11983, its metric WIFV and standardised search across layers
        and modules. Differs: a slice read by several layers sums over them; where no layer
        reads it, as with query·key pairs, what fluctuates is the product q_d k_d itself.
    """
    return relative_to_others(axes, _fluctuation, standardised)


def _fluctuation(axis: Axis) -> Tensor:
    found = [m.per_slice(m.weight.float().square() * x.variance.float()) for m, x in readers(axis)]
    return torch.stack(found).sum(0) if found else product_variance(axis)


def standardised(values: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1; values that are all the same become 0.

    Example:
        >>> standardised(torch.tensor([1.0, 3.0]))
        tensor([-1.,  1.])
    """
    away = values - values.mean()
    return away / away.square().mean().sqrt().clamp(min=torch.finfo(values.dtype).tiny)
