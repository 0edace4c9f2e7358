"""DIMAP: relative distortion, ranked within modules (He and Zhou, ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis
from .base import criterion
from .order import descending


@criterion("dimap", scope="kind", weight_level=True)
def dimap(axes: Sequence[Axis]) -> list[Tensor]:
    """Score a slice by the distortion its removal causes in each of its layers.

    Let e_l(i) be the squared Frobenius norm of slice i in layer l. A slice leaves all
    its layers at once, so they share one order of elimination: ascending
    t(i) = sum_l e_l(i) / sum_k e_l(k). With slices sorted by descending t,

        score(j) = mean over l of  e_l(j) / (e_l(1) + ... + e_l(j))

    which is what layer l loses, relative to what it still holds when j's turn comes. The
    last slice standing scores 1, so no axis can vanish. No data is needed.

    Source:
        He and Zhou, Data-independent Module-Aware Pruning for Hierarchical Vision
        Transformers, ICLR 2024, arXiv:2404.13648, Eq. 10. Differs: the atom is a slice, not
        a weight; with one layer and slices of one weight this is Eq. 10.
    """
    return [distortion(_energies(axis)) for axis in axes]


def _energies(axis: Axis) -> Tensor:
    """Return e_l(i), (layers, size)."""
    return torch.stack([m.per_slice(m.weight.float().square()) for m in axis.voters])


def distortion(energies: Tensor) -> Tensor:
    """Turn the energies of an axis, (layers, size), into scores, (size,), in [0, 1].

    A layer of zeros loses nothing when it loses a slice: it counts as 0.

    Example:
        >>> distortion(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
        tensor([0.3750, 1.0000])
    """
    tiny = torch.finfo(energies.dtype).tiny
    whole = energies.sum(1, keepdim=True).clamp(min=tiny)
    order = descending((energies / whole).sum(0))  # by t
    ordered = energies.index_select(1, order)
    score = (ordered / ordered.cumsum(1).clamp_(min=tiny)).mean(0)
    return torch.empty_like(score).scatter_(0, order, score)
