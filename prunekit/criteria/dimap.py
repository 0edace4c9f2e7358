"""DIMAP: relative distortion, for what it frees (He and Zhou, ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..axis import Axis, Member
from .base import criterion
from .order import descending
from .price import price_of
from .streams import relative_to_others


@criterion("dimap", scope="model", weight_level=True, weight_scope="kind")
def dimap(axes: Sequence[Axis], *, plain: bool = False) -> list[Tensor]:
    """Score a slice by the distortion its removal causes, for what its removal saves.

    Cutting a slice out is the same as zeroing the columns that read it, of fc2 or of the
    attention's projection, and then the rows that wrote it no longer matter. So the paper's
    bound, that the output moves by at most ||W - W~|| / ||W|| times a constant, is about the
    layers that read the slice. Let e_l(i) be the squared Frobenius norm of slice i in reading
    layer l. A slice leaves all its layers at once, so they share one order of elimination:
    ascending t(i) = sum_l e_l(i) / sum_k e_l(k). With slices sorted by descending t,

        score(j) = mean over l of  e_l(j) / (e_l(1) + ... + e_l(j)),  over its price

    which is what a layer loses, relative to what it still holds when j's turn comes. Going by
    the least of these is a greedy way to keep the product of all norms, the constant of the
    bound, as large as can be. Single weights all save the same; a slice saves all the weights
    that leave with it, in every layer, or their MACs where the budget counts those, and that is
    its price. It is what lets heads and MLP channels compete with each other. No data is needed.
    A residual branch counts as a slice of its stream: the reading layer is the one that writes to
    the stream, and those of all branches share one order.
    docs/dimap.md has the derivation and what was measured.

    Args:
        axes: What may shrink.
        plain: Take the mean over all layers, writing ones too, and no price: Eq. 10 word for
            word, with slices for weights. The paper's modules are then `--scope kind`.

    Source:
        He and Zhou, Data-independent Module-Aware Pruning for Hierarchical Vision
        Transformers, ICLR 2024, arXiv:2404.13648, Eq. 10. Differs: the atom is a slice, not
        a weight; with one layer and slices of one weight this is Eq. 10, and single weights
        compete within the paper's modules.
    """
    scores = relative_to_others(
        axes, lambda axis: _energies(axis.voters if plain else axis.readers), distortion
    )
    if plain:
        return scores
    return [score / price_of(axis) for axis, score in zip(axes, scores, strict=True)]


def _energies(layers: Sequence[Member]) -> Tensor:
    """Return e_l(i), (layers, size)."""
    return torch.stack([m.per_slice(m.weight.float().square()) for m in layers])


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
