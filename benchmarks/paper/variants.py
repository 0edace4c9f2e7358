"""Ways to lift DIMAP's score from single weights to slices.

With one matrix and slices of one weight, all that keep the last-slice rule are Eq. 10 of the paper.
They answer three questions differently: in which of the coupled layers a slice's energy (squared
Frobenius norm) is looked at, what a slice's distortion is divided by, and whether it is relative to
what its layer still holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prunekit.axis import Axis
from prunekit.criteria.base import Criterion, Scope
from prunekit.criteria.dimap import distortion
from prunekit.criteria.lamp import relative

Score = Callable[[Axis], Tensor]  # one number per slice, (size,); higher means keep


@dataclass(frozen=True)
class Variant:
    """One way.

    Attributes:
        name: Its short name.
        says: What it does, in a few words.
        score: From an axis to scores.
    """

    name: str
    says: str
    score: Score

    def criterion(self, scope: Scope) -> Criterion:
        """Return it as a criterion whose slices compete in `scope`."""
        word = self.name.replace(", ", "-").replace(" ", "-")  # as a command line could call it
        return Criterion(word, lambda axes: [self.score(axis) for axis in axes], scope=scope)


def of_all(axis: Axis) -> Tensor:
    """Energies in every layer, (layers, size)."""
    return torch.stack([m.per_slice(m.weight.float().square()) for m in axis.voters])


def of_readers(axis: Axis) -> Tensor:
    """Energies in the layers that read the slices; in those that write them if none does."""
    energies, read = of_all(axis), _read(axis)
    return energies[read] if any(read) else energies


def of_product(axis: Axis) -> Tensor:
    """Energy of the map through each slice, at most: that of its rows times that of its columns."""
    energies, read = of_all(axis), _read(axis)
    written = energies[[not one for one in read]].sum(0)
    return written * energies[read].sum(0) if any(read) else written.square()


def of_weights(axis: Axis) -> Tensor:
    """Eq. 10 of every weight in its own matrix, added up over the slice."""
    return axis.reduce(lambda m: relative(m.weight.float().square().flatten()).view_as(m.weight))


def least(axis: Axis) -> Tensor:
    """The least of the layers' distortions: a slice is gone as soon as one of them loses it."""
    energies = of_all(axis)
    order = (energies / energies.sum(1, keepdim=True)).sum(0).argsort(descending=True, stable=True)
    ordered = energies[:, order]
    lowest = (ordered / ordered.cumsum(1)).amin(0)
    return torch.empty_like(lowest).scatter_(0, order, lowest)


def whole(energies: Tensor) -> Tensor:
    """Distortion relative to the layer as it was: the last slice may go like any other."""
    return (energies / energies.sum(1, keepdim=True)).mean(0)


def per_weight(score: Score) -> Score:
    """Divide by the weights that a slice takes with it: what a slice costs for what it frees."""
    return lambda axis: score(axis) / sum(member.weights_per_slice for member in axis.voters)


def per_share(score: Score) -> Score:
    """Multiply by the number of slices: a slice's distortion beside that of a mean one."""
    return lambda axis: score(axis) * axis.size


def _read(axis: Axis) -> list[bool]:
    return [member.dim != 0 for member in axis.voters]  # inputs are never dimension 0


def plain(axis: Axis) -> Tensor:
    """The mean of the layers' distortions."""
    return distortion(of_all(axis))


def readers(axis: Axis) -> Tensor:
    """The distortion of the layers that read the slice."""
    return distortion(of_readers(axis))


def product(axis: Axis) -> Tensor:
    """The distortion of the map that runs through the slices."""
    return relative(of_product(axis))


def added(axis: Axis) -> Tensor:
    """The distortion of all layers as one, which is LAMP's."""
    return relative(of_all(axis).sum(0))


VARIANTS: tuple[Variant, ...] = (
    Variant("plain", "mean distortion of all layers that hold the slice", plain),
    Variant("plain/weight", "plain, per weight that leaves", per_weight(plain)),
    Variant("plain*slices", "plain, beside that of a mean slice", per_share(plain)),
    Variant("least/weight", "least distortion of these layers, per weight", per_weight(least)),
    Variant("readers", "distortion of the layers that read the slice", readers),
    Variant("readers/weight", "readers, per weight that leaves", per_weight(readers)),
    Variant("readers*slices", "readers, beside that of a mean slice", per_share(readers)),
    Variant("product/weight", "coupled layers multiplied, per weight", per_weight(product)),
    Variant("added/weight", "coupled layers added as one, per weight", per_weight(added)),
    Variant("weights/weight", "Eq. 10 of each weight, mean over the slice", per_weight(of_weights)),
    Variant(
        "readers/weight, whole",
        "readers per weight, relative to the dense layer: no last-slice rule",
        per_weight(lambda axis: whole(of_readers(axis))),
    ),
)
