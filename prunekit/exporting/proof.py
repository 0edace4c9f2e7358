"""Proof that an exported file computes what the pruned model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..arguments import Inputs, call
from ..errors import ExportError
from ..tracing.copies import in_precision

TOLERANCE = 1e-4  # largest difference from the pruned model, of its output's scale
HALF_TOLERANCE = (
    2e-2  # where a file computes in float16 or bfloat16, of which three digits are left
)
ROUNDING = 10  # times what float32 itself is off by, for models that magnify what rounding does


@dataclass(frozen=True)
class Agreement:
    """How far an exported file is from the pruned model, for one batch.

    Attributes:
        batch: Images in it; 0 if the inputs do not tell.
        difference: Largest absolute difference of their outputs.
        scale: Largest absolute value of the pruned model's output.
        tolerance: The largest difference allowed, as a fraction of the scale.
        size: Height and width of the images, where the file takes others too.
    """

    batch: int
    difference: float
    scale: float
    tolerance: float
    size: tuple[int, int] | None = None

    @property
    def holds(self) -> bool:
        """Whether the file computes the same."""
        return self.difference <= self.tolerance * self.scale

    def report(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {**asdict(self), "holds": self.holds}


@torch.inference_mode()
def tensors_from(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run a model, and return all tensors of its output, in the order in which it has them."""
    return [leaf for leaf in tree_leaves(call(model, inputs)) if isinstance(leaf, Tensor)]


def agreement(
    model: nn.Module,
    inputs: Inputs,
    batch: int,
    found: Sequence[Tensor],
    what: str,
    *,
    half: bool,
    size: tuple[int, int] | None = None,
) -> Agreement:
    """Compare what a file computed with what the pruned model computes.

    Args:
        model: The pruned model.
        inputs: What both were fed.
        batch: Images in it.
        found: The file's outputs.
        what: What the file is called in a sentence.
        half: Whether the file computes in half precision.
        size: Height and width of the images, if it is proved at several.

    Raises:
        ExportError: It has other outputs, or they differ by more than is allowed.
    """
    expected = tensors_from(model, inputs)
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"{what} returns tensors of shapes {shapes[1]}, the pruned model {shapes[0]}; nothing "
            "was saved. Please report it, with the model."
        )
    one_by_one = [
        _agreement(own.float(), other.float(), batch, half)
        for own, other in zip(expected, found, strict=True)
        if own.numel()
    ]
    if not all(one.holds for one in one_by_one):
        one_by_one = _in_doubt(model, inputs, expected, one_by_one)
    nothing = Agreement(batch, 0.0, 0.0, TOLERANCE)
    worst = max(one_by_one, key=_off, default=nothing)
    if not worst.holds:
        where = f"batch {batch} of {size[0]} x {size[1]} pixels" if size else f"batch {batch}"
        raise ExportError(
            f"{what} differs from the pruned model by {worst.difference:.1e} at {where}, where "
            f"its output's scale is {worst.scale:.1e} and at most {worst.tolerance:.0e} of that is "
            "allowed; nothing was saved. Please report it, with the model."
        )
    return replace(worst, size=size)


def _agreement(own: Tensor, other: Tensor, batch: int, half: bool) -> Agreement:
    difference = float((own - other).abs().max())
    scale = float(own.abs().max())
    return Agreement(batch, difference, scale, HALF_TOLERANCE if half else TOLERANCE)


def _off(one: Agreement) -> tuple[bool, float]:
    """Return what sorts agreements; what does not hold, such as a NaN, comes last."""
    return not one.holds, one.difference / (one.scale or 1.0)


def _in_doubt(
    model: nn.Module, inputs: Inputs, expected: Sequence[Tensor], found: Sequence[Agreement]
) -> list[Agreement]:
    """Allow each output what the model's own rounding does to it, where that is more."""
    precise = tensors_from(*in_precision(model, inputs, torch.float64))
    pairs = [pair for pair in zip(expected, precise, strict=True) if pair[0].numel()]
    allowed = []
    for (own, exact), one in zip(pairs, found, strict=True):
        off = float((own.double() - exact.double()).abs().max()) / (one.scale or 1.0)
        rounding = min(ROUNDING * off, HALF_TOLERANCE)  # beyond that, nothing would be proved
        allowed.append(replace(one, tolerance=max(one.tolerance, rounding)))
    return allowed


def tells_apart(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model answers differently to different inputs; else their comparison says little.

    Args:
        model: The model.
        inputs: Several different ones.
    """
    answers = [leaf for leaf in tensors_from(model, inputs) if leaf.dim() and len(leaf) > 1]
    return not answers or any(not torch.equal(leaf[:1].expand_as(leaf), leaf) for leaf in answers)
