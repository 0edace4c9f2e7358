"""What a repair is: a named function from a layer and its inputs to its new weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from ..errors import PruneError, RepairError
from ..plugin import FunctionPlugin
from . import REPAIRS

Need = Literal["nothing", "moments"]
Affine: TypeAlias = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Layer:
    """A linear map whose inputs are not what they were, as a regression problem; in float64.

    A convolution is the linear map of its unfolded patches.

    Attributes:
        name: The layer's qualified name.
        weight: What stays of it, (outputs, inputs).
        bias: (outputs,), or None if the layer has none; then None must come back.
        input_mean: Mean of the inputs that stay, (inputs,).
        output_mean: Mean of the dense layer's outputs, (outputs,).
        output_variance: Their variance, (outputs,).
        covariance: Of the inputs that stay, (inputs, inputs).
        cross: Covariance of the dense layer's outputs and the inputs that stay,
            (outputs, inputs).
        halves: The same for either half of the images, to try out on one what was found on the
            other; empty if there is but one image.
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

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """Return the mean squared error of an affine map, relative to the outputs' variance."""
        offset = self.output_mean - weight @ self.input_mean - (0 if bias is None else bias)
        explained = ((weight @ self.covariance) * weight).sum(1) - 2 * (weight * self.cross).sum(1)
        error = (self.output_variance + explained + offset.square()).clamp(min=0).sum()
        return float(error / self.output_variance.sum().clamp(min=1e-30))


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

    def error(self, left: Tensor, right: Tensor) -> float:
        """Return the mean squared error of (left q) . (right k), relative to that of zero."""
        lost = torch.eye(len(self.keys)).to(self.keys) - left.T @ right
        total = (self.queries * self.keys).sum().clamp(min=1e-30)
        return float(((lost @ self.keys @ lost.T) * self.queries).sum() / total)


@dataclass(frozen=True)
class Repair(FunctionPlugin):
    """A repair and what it declares about itself.

    Attributes:
        name: What it is registered under.
        function: From a Layer, and its options as keywords, to weight and bias.
        needs: `moments` of the calibration images, or `nothing` if it changes nothing.
        product: From a Product to the two (rank, dim) maps that replace its queries and keys;
            None leaves logits alone.
        follows: Whether it is also given layers that lost nothing themselves, but run after some
            that did, so that what reaches them has changed.
        inputs: What layers are fitted on: what they get from the model `repaired` so far, or
            what they got in the `dense` one.
    """

    noun: ClassVar[str] = "repair"
    error: ClassVar[type[PruneError]] = RepairError

    needs: Need = "moments"
    product: Callable[[Product], tuple[Tensor, Tensor]] | None = None
    follows: bool = False
    inputs: Literal["repaired", "dense"] = "repaired"

    def __call__(self, layer: Layer) -> Affine:
        """Compute a layer's new weight and bias.

        Raises:
            RepairError: The function returned another shape, or something that is not finite,
                or it refused its options.
        """
        with torch.no_grad():
            weight, bias = self.function(layer, **self.options)
        expected = (tuple(layer.weight.shape), _shape(layer.bias))
        if (_shape(weight), _shape(bias)) != expected:
            raise RepairError(
                f"Repair {self.name!r} returned weight and bias of shapes {_shape(weight)} and "
                f"{_shape(bias)} for layer {layer.name!r}; expected {expected[0]} and "
                f"{expected[1]}."
            )
        if not all(
            bool(tensor.isfinite().all()) for tensor in (weight, bias) if tensor is not None
        ):
            raise RepairError(
                f"Repair {self.name!r} made weights of layer {layer.name!r} NaN or infinite; "
                "use more calibration images, or a larger ridge."
            )
        return weight, bias


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def repair(
    name: str,
    *,
    needs: Need = "moments",
    product: Callable[[Product], tuple[Tensor, Tensor]] | None = None,
    follows: bool = False,
) -> Callable[[Callable[..., Affine]], Repair]:
    """Register a function as a repair; the decorated name becomes the `Repair`.

    Args:
        name: What `--repair` and `prune(repair=...)` will call it.
        needs: "nothing" if it changes nothing.
        product: What shortens queries and keys; None leaves them alone.
        follows: Whether it is also given layers that merely run after some that lost inputs.

    Raises:
        RegistryError: Another repair has the name.
    """

    def register(function: Callable[..., Affine]) -> Repair:
        return REPAIRS.add(name, Repair(name, function, needs, product, follows))

    return register
