"""What a repair is given: a layer, the logits of a head, a BatchNorm's statistics, or a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

CONSTANT = 1e-10  # of the mean square; a smaller variance is rounding


@dataclass(frozen=True)
class Layer:
    """A linear map whose inputs are not what they were, as a regression problem; in float64.

    A convolution is the linear map of its unfolded patches, one of several groups as many maps.

    Attributes:
        name: The layer's qualified name.
        weight: What stays of it, (outputs, inputs).
        bias: (outputs,), or None if the layer has none; then None must come back. Zeros where a
            BatchNorm follows, whose running mean takes up what comes back.
        input_mean: Mean of the inputs that stay, (inputs,).
        output_mean: Mean of the dense layer's outputs, (outputs,).
        output_variance: Their variance, (outputs,).
        covariance: Of the inputs that stay, (inputs, inputs).
        cross: Covariance of the dense layer's outputs and the inputs that stay,
            (outputs, inputs).
        halves: The same for either half of the images, to try out on one what was found on the
            other; empty if there is but one image.
        mask: Which weights stay, (outputs, inputs), where single ones became zero; the others must
            be zero in what comes back. None where whole inputs left.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    input_mean: Tensor
    output_mean: Tensor
    output_variance: Tensor
    covariance: Tensor
    cross: Tensor
    halves: tuple[Layer, ...] = ()
    mask: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors it has, by what they are in words."""
        own = {
            "the weight": self.weight,
            "the bias": self.bias,
            "the input mean": self.input_mean,
            "the output mean": self.output_mean,
            "the output variance": self.output_variance,
            "the covariance": self.covariance,
            "the cross covariance": self.cross,
            "the mask": self.mask,
        }
        found = {f"{what} of {self.name!r}": t for what, t in own.items() if t is not None}
        for number, half in enumerate(self.halves):
            parts = half.tensors.items()
            found |= {f"{what} (half {number} of the images)": tensor for what, tensor in parts}
        return found

    def of_outputs(self, chosen: Tensor) -> Layer:
        """Return the same problem of some outputs, by their numbers."""

        def part(values: Tensor | None) -> Any:
            return None if values is None else values[chosen]

        return replace(
            self,
            weight=part(self.weight),
            bias=part(self.bias),
            output_mean=part(self.output_mean),
            output_variance=part(self.output_variance),
            cross=part(self.cross),
            halves=tuple(half.of_outputs(chosen) for half in self.halves),
            mask=part(self.mask),
        )

    def losses(self, weights: Tensor, biases: Tensor | None) -> Tensor:
        """Return the mean squared error of affine maps, summed over the outputs, (...).

        Args:
            weights: (..., outputs, inputs).
            biases: (..., outputs).
        """
        added = 0 if biases is None else biases
        offset = self.output_mean - weights @ self.input_mean - added
        explained = ((weights @ self.covariance - 2 * self.cross) * weights).sum(-1)
        return (self.output_variance + explained + offset.square()).clamp(min=0).sum(-1)

    def loss(self, weight: Tensor, bias: Tensor | None) -> float:
        """Return that of one affine map."""
        return float(self.losses(weight, bias))

    @property
    def scale(self) -> float:
        """The outputs' variance, or, where they do not vary, their mean square."""
        variance, square = self.output_variance.sum(), self.output_mean.square().sum()
        return float((variance if variance > CONSTANT * square else square).clamp(min=1e-30))

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """Return the mean squared error of an affine map, relative to the outputs' `scale`."""
        return self.loss(weight, bias) / self.scale


@dataclass(frozen=True)
class Product:
    """The logits of one attention head, whose queries and keys lose dimensions; in float64.

    Attributes:
        name: The axis' name.
        queries: Second moment of the dense queries, (dim, dim).
        keys: Covariance of the dense keys, (dim, dim).
        kept: Which dimensions stay, (rank,).
    """

    name: str
    queries: Tensor
    keys: Tensor
    kept: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors it has, by what they are in words."""
        own = {"the queries": self.queries, "the keys": self.keys, "what is kept": self.kept}
        return {f"{what} of {self.name!r}": tensor for what, tensor in own.items()}

    def error(self, left: Tensor, right: Tensor) -> float:
        """Return the mean squared error of (left q) . (right k), relative to that of zero."""
        lost = torch.eye(len(self.keys)).to(self.keys) - left.T @ right
        total = (self.queries * self.keys).sum().clamp(min=1e-30)
        error = ((lost @ self.keys @ lost.T) * self.queries).sum()
        return float((error / total).clamp(min=0))  # rounding may make it less


@dataclass(frozen=True)
class Norm:
    """A BatchNorm whose inputs are not what they were; in float64.

    Attributes:
        name: Its qualified name.
        mean: Mean of what reaches it now, (channels,).
        variance: Its variance, over the number of values, (channels,).
        count: Of how many values of each channel; 2 or more.
        running_mean, running_var: The statistics that it was cut with, (channels,).
    """

    name: str
    mean: Tensor
    variance: Tensor
    count: int
    running_mean: Tensor
    running_var: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors it has, by what they are in words."""
        own = {
            "the mean": self.mean,
            "the variance": self.variance,
            "the running mean": self.running_mean,
            "the running variance": self.running_var,
        }
        return {f"{what} of {self.name!r}": tensor for what, tensor in own.items()}


@dataclass(frozen=True)
class Block:
    """A block whose inputs or weights are not what they were.

    Attributes:
        name: Its qualified name; empty if it is the whole model.
        module: A copy of it, as it is now. It may be trained.
        inputs: Batches of what it gets now.
        targets: What the dense block returned, batch by batch.
        masks: Parameter of the module to which of its values stay, where single ones became zero;
            the others must be zero in what comes back.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors it has that nobody may write to, by what they are in words."""
        found = {f"batch {n} of the inputs": batch for n, batch in enumerate(self.inputs)}
        found |= {f"batch {n} of the targets": batch for n, batch in enumerate(self.targets)}
        return found | {f"the mask of {name!r}": mask for name, mask in self.masks.items()}

    def error(self, module: nn.Module) -> float:
        """Return the mean squared error of a module's outputs, relative to the targets' variance.

        The variance is that of each channel over images and positions, as far as one can tell
        without knowing which dimension is which: over the first dimension.
        """
        lost = whole = 0.0
        with torch.no_grad():
            for x, y in zip(self.inputs, self.targets, strict=True):
                lost += float((module(x) - y).double().square().sum())
                whole += float((y - y.mean(0)).double().square().sum())
        return lost / max(whole, 1e-30)
