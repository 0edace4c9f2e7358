"""VBP: activations that hardly vary are little but a bias (Berisha et al., ICCV 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from .activity import per_position, product_variance, readers
from .base import criterion


@criterion("vbp", needs="activations", scope="kind")
def vbp(axes: Sequence[Axis]) -> list[Tensor]:
    """Score a slice by the variance of its activations, over all images and positions.

    These are the inputs of the layers that read it, so for an MLP they come after the
    activation function; a slice of several features has the mean of their variances.

    Source:
        Berisha et al., Variance-Based Pruning for Accelerating and Compressing Trained
        Networks, ICCV 2025, arXiv:2507.12988. Differs: the paper prunes MLPs only. Where no
        layer reads a slice, as with query·key pairs, it is the variance of the product q_d k_d.
    """
    return [_variance(axis) for axis in axes]


def _variance(axis: Axis) -> Tensor:
    found = [per_position(member, x.variance) for member, x in readers(axis)]
    return torch.cat(found, 1).mean(1) if found else product_variance(axis)
