"""What a repair is: a named function from what a layer has lost to what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..errors import PruneError, RepairError
from ..guard import reading_only
from ..plugin import Allowed, FunctionPlugin, calling, shown
from ..registry import unknown
from . import REPAIRS
from .given import Block, Layer, Norm, Product

Need = Literal["nothing", "moments", "norms", "blocks"]
NEEDS: tuple[Need, ...] = get_args(Need)
INPUTS = ("repaired", "dense")
Affine: TypeAlias = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Repair(FunctionPlugin):
    """A repair and what it declares about itself.

    Attributes:
        name: What it is registered under.
        function: From a Layer, and its options as keywords, to weight and bias; of one that needs
            `norms`, from a Norm to running mean and variance; of one that needs `blocks`, from a
            Block to its parameters, by name.
        needs: `moments` of what layers read and return; `norms`, the statistics of what reaches
            each BatchNorm; `blocks`, whole blocks with their inputs and targets; or `nothing` if
            it changes nothing.
        product: From a Product to the two (rank, dim) maps that replace its queries and keys;
            None leaves logits alone.
        follows: Whether it is also given layers that lost nothing themselves, but run after some
            that did, so that what reaches them has changed.
        masks: Whether it takes a Layer with a mask, and keeps zero what the mask removes.
        inputs: What layers are fitted on: what they get from the model `repaired` so far, or
            what they got in the `dense` one.
    """

    noun: ClassVar[str] = "repair"
    error: ClassVar[type[PruneError]] = RepairError

    needs: Need = "moments"
    product: Callable[[Product], tuple[Tensor, Tensor]] | None = None
    follows: bool = False
    inputs: Literal["repaired", "dense"] = "repaired"
    masks: bool = False

    def __post_init__(self) -> None:
        """Refuse words that mean nothing."""
        super().__post_init__()
        for what, word, known in (("needs", self.needs, NEEDS), ("inputs", self.inputs, INPUTS)):
            if word not in known:
                raise RepairError(f"{self.title}: {unknown(what, str(word), known)}")

    def __call__(self, layer: Layer, dtype: torch.dtype = torch.float32) -> Affine:
        """Compute a layer's new weight and bias, and see to it that nothing else happens.

        Args:
            layer: The layer.
            dtype: What the model holds its weights in; they must be finite in it.

        Raises:
            RepairError: The function failed, or it returned another shape, or something that is
                not finite.
            TamperedError: It wrote to what the layer holds.
        """
        with reading_only(self.title, lambda: layer.tensors):
            return self.unguarded(layer, dtype)

    def unguarded(self, layer: Layer, dtype: torch.dtype = torch.float32) -> Affine:
        """Compute a layer's new weight and bias; the function could write to what there is.

        Raises:
            RepairError: As above.
        """
        with torch.no_grad(), calling(self.title, self.name, RepairError):
            weight, bias = self._pair(self.function(layer, **self.options), layer.name)
            expected = (_shape(layer.weight), _shape(layer.bias))
            if (_shape(weight), _shape(bias)) != expected:
                raise RepairError(
                    f"{self.title} returned weight and bias of shapes {_shape(weight)} and "
                    f"{_shape(bias)} for layer {layer.name!r}; expected {expected[0]} and "
                    f"{expected[1]}."
                )
            self.check_finite(layer.name, dtype, weight, bias)
            if layer.mask is not None and bool(weight[~layer.mask].any()):
                raise RepairError(
                    f"{self.title} gave values to weights of layer {layer.name!r} that its mask "
                    "holds at zero; correct it, or choose another."
                )
            return weight.to(layer.weight), None if bias is None else bias.to(layer.weight)

    def restate(self, norm: Norm, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Compute a BatchNorm's new running mean and variance.

        Args:
            norm: What reaches it.
            dtype: What it holds its statistics in.

        Raises:
            RepairError: The function failed, or it returned another shape, something that is not
                finite, or a negative variance.
            TamperedError: It wrote to what the norm holds.
        """
        with reading_only(self.title, lambda: norm.tensors):
            return self.restate_unguarded(norm, dtype)

    def restate_unguarded(
        self, norm: Norm, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Compute a BatchNorm's new statistics; the function could write to what there is.

        Raises:
            RepairError: As above.
        """
        with torch.no_grad(), calling(self.title, self.name, RepairError):
            mean, variance = self._pair(self.function(norm, **self.options), norm.name)
            expected = _shape(norm.mean)
            if (_shape(mean), _shape(variance)) != (expected, expected):
                raise RepairError(
                    f"{self.title} returned statistics of shapes {_shape(mean)} and "
                    f"{_shape(variance)} for {norm.name!r}; expected {expected} for both."
                )
            finite = all(bool(values.to(dtype).isfinite().all()) for values in (mean, variance))
            if not finite or bool((variance < 0).any()):
                raise RepairError(
                    f"{self.title} returned statistics of {norm.name!r} that are NaN, infinite, or "
                    f"a negative variance in {str(dtype).removeprefix('torch.')}; correct it, or "
                    "choose another."
                )
            return mean, variance

    def mix(self, product: Product) -> tuple[Tensor, Tensor]:
        """Compute what replaces the queries and keys of one head.

        Raises:
            RepairError: The repair's `product` failed, or it returned another shape, or something
                that is not finite.
            TamperedError: It wrote to what the product holds.
        """
        assert self.product is not None, "only such repairs are given products"
        expected = (len(product.kept), len(product.keys))
        with (
            reading_only(self.title, lambda: product.tensors),
            torch.no_grad(),
            calling(self.title, self.name, RepairError),
        ):
            left, right = self._pair(self.product(product), product.name)
            if (_shape(left), _shape(right)) != (expected, expected):
                raise RepairError(
                    f"{self.title} returned maps of shapes {_shape(left)} and {_shape(right)} for "
                    f"{product.name!r}; expected {expected} for both."
                )
            self.check_finite(product.name, torch.float64, left, right)
            return left, right

    def rebuild(self, block: Block) -> dict[str, Tensor]:
        """Compute a block's new parameters, by name; those that stay may be left out.

        Raises:
            RepairError: The function failed, or it returned another shape, something that is not
                finite, or a value where a mask removes one.
            TamperedError: It wrote to what the block holds, but for its module.
        """
        own = {name: (p.shape, p.dtype) for name, p in block.module.named_parameters()}
        with (
            reading_only(self.title, lambda: block.tensors),
            torch.enable_grad(),
            calling(self.title, self.name, RepairError),
        ):
            found = self.function(block, **self.options)
        if not isinstance(found, Mapping):
            raise RepairError(
                f"{self.title} returned {shown(found)} for block {block.name!r}; expected its "
                "parameters, by name."
            )
        for name, values in found.items():
            if name not in own or _shape(values) != tuple(own[name][0]):
                raise RepairError(
                    f"{self.title} returned {_shape(values)} for {name!r} of block {block.name!r}; "
                    f"expected {tuple(own[name][0]) if name in own else 'parameters that it has'}."
                )
            if not bool(values.to(own[name][1]).isfinite().all()):
                raise RepairError(
                    f"{self.title} made {name!r} of block {block.name!r} NaN or infinite; correct "
                    "it, or choose another."
                )
            if name in block.masks and bool(values[~block.masks[name]].any()):
                raise RepairError(
                    f"{self.title} gave values to weights {name!r} of block {block.name!r} that "
                    "their mask holds at zero; correct it, or choose another."
                )
        return dict(found)

    def check_finite(self, name: str, dtype: torch.dtype, *tensors: Tensor | None) -> None:
        """Make sure that what becomes of a layer is a number in the model's own precision.

        Raises:
            RepairError: It is not.
        """
        for tensor in tensors:
            if tensor is not None and not bool(tensor.to(dtype).isfinite().all()):
                raise RepairError(
                    f"{self.title} made weights of layer {name!r} NaN or infinite in "
                    f"{str(dtype).removeprefix('torch.')}; use more calibration images, or a "
                    "larger ridge."
                )

    def _pair(self, result: Any, name: str) -> tuple[Any, Any]:
        if not isinstance(result, Sequence) or len(result) != 2:
            raise RepairError(
                f"{self.title} returned {shown(result)} for {name!r}; expected a pair of tensors."
            )
        return result[0], result[1]


def _shape(tensor: Any) -> tuple[int, ...] | str | None:
    """Return the shape of a real tensor; of anything else, what it is."""
    if isinstance(tensor, Tensor) and not tensor.is_complex():
        return tuple(tensor.shape)
    return None if tensor is None else type(tensor).__name__


def repair(
    name: str,
    *,
    needs: Need = "moments",
    product: Callable[[Product], tuple[Tensor, Tensor]] | None = None,
    follows: bool = False,
    masks: bool = False,
    allowed: Mapping[str, Allowed] | None = None,
) -> Callable[[Callable[..., Affine | Mapping[str, Tensor]]], Repair]:
    """Register a function as a repair; the decorated name becomes the `Repair`.

    Args:
        name: What `--repair` and `prune(repair=...)` will call it.
        needs: "nothing" if it changes nothing.
        product: What shortens queries and keys; None leaves them alone.
        follows: Whether it is also given layers that merely run after some that lost inputs.
        masks: Whether it takes layers of which single weights became zero, and keeps these zero.
        allowed: Which values an option may have, for those that may not have all.

    Raises:
        RegistryError: Another repair has the name.
        RepairError: The function takes other arguments, or a word means nothing.
    """

    def register(function: Callable[..., Affine | Mapping[str, Tensor]]) -> Repair:
        made = Repair(name, function, needs, product, follows, masks=masks, allowed=allowed or {})
        return REPAIRS.add(name, made)

    return register
