"""What zeros would save: non-zero parameters, and the MACs that they imply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from ..arguments import Inputs
from ..measuring.counting import macs_by_module

NOTE = (
    "Dense kernels multiply zeros as well: latency, memory and size on disk do not get better by "
    "them. Slices do that (--granularity slice)."
)


@dataclass(frozen=True)
class LayerSparsity:
    """One matrix: its role, and what is left of it.

    Attributes:
        kind: Its role.
        weights, nonzero: How many values it has, and how many of them are not zero.
        macs, implied_macs: What its layer costs for one image, and that times its density.
    """

    kind: str
    weights: int
    nonzero: int
    macs: int
    implied_macs: int


@dataclass(frozen=True)
class Sparsity:
    """A masked model, counted.

    Attributes:
        granularity: `weight` or `n:m`.
        layers: Of every matrix that was masked, by its name.
        params, nonzero: All parameters of the model, and how many of them are not zero.
        nonzero_before: How many of them were not, before.
        macs, implied_macs: All MACs of one image, and what they would be if each of those layers
            cost in proportion to its density, as sparse networks are usually counted.
        thresholds: Pool to the highest score that was removed in it.
    """

    granularity: str
    layers: Mapping[str, LayerSparsity]
    params: int
    nonzero: int
    nonzero_before: int
    macs: int
    implied_macs: int
    thresholds: Mapping[str, float]

    @property
    def weights(self) -> int:
        """How many weights could have become zero."""
        return sum(layer.weights for layer in self.layers.values())

    def removed(self, by: str) -> float:
        """Return the fraction of a budget that the zeros of the masked matrices are."""
        if by == "macs":
            return 1 - self.implied_macs / self.macs
        zeros = self.weights - sum(layer.nonzero for layer in self.layers.values())
        return zeros / (self.weights if by == "slices" else self.params)

    def report(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {**asdict(self), "weights": self.weights, "note": NOTE}


def count(
    model: nn.Module,
    kinds: Mapping[str, str],
    example: Inputs,
    granularity: str,
    thresholds: Mapping[str, float],
    nonzero_before: int,
) -> Sparsity:
    """Count the zeros of a masked model, wherever they are from.

    Args:
        model: The masked model.
        kinds: Parameter name to role, of all that was masked.
        example: One batch of inputs; only its shape matters.
        granularity: See `Sparsity`, as for the next two.
        thresholds: By pool.
        nonzero_before: Of the original model.
    """
    macs = macs_by_module(model, example)
    parameters = dict(model.named_parameters())
    layers = {}
    for name, kind in kinds.items():
        weights, left = parameters[name].numel(), _nonzero(parameters[name])
        cost = macs.get(name.rpartition(".")[0], 0)
        layers[name] = LayerSparsity(kind, weights, left, cost, round(cost * left / weights))
    total = sum(macs.values())
    implied = total - sum(layer.macs - layer.implied_macs for layer in layers.values())
    params = sum(parameter.numel() for parameter in parameters.values())
    return Sparsity(
        granularity,
        layers,
        params,
        nonzero(model),
        nonzero_before,
        total,
        implied,
        dict(thresholds),
    )


def nonzero(model: nn.Module) -> int:
    """Count the parameters that are not zero."""
    return sum(_nonzero(parameter) for parameter in model.parameters())


def _nonzero(tensor: Tensor) -> int:
    return int(tensor.detach().count_nonzero())
