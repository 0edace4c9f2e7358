"""Proof that an exported file computes what the pruned model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
    """

    batch: int
    difference: float
    scale: float
    tolerance: float

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
    model: nn.Module, inputs: Inputs, batch: int, found: Sequence[Tensor], what: str, *, half: bool
) -> Agreement:
    """Compare what a file computed with what the pruned model computes.

    Args:
        model: The pruned model.
        inputs: What both were fed.
        batch: Images in it.
        found: The file's outputs.
        what: What the file is called in a sentence.
        half: Whether the file computes in half precision.

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
    pairs = [
        (own.float(), other.float()) for own, other in zip(expected, found, strict=True)
        if own.numel()
    ]  # fmt: skip
    worst = max(
        (_agreement(own, other, batch, half) for own, other in pairs),
        key=lambda one: one.difference / (one.scale or 1.0),
        default=Agreement(batch, 0.0, 0.0, TOLERANCE),
    )
    if not worst.holds:
        worst = _in_doubt(model, inputs, expected, worst)
    if not worst.holds:
        raise ExportError(
            f"{what} differs from the pruned model by {worst.difference:.1e} at batch {batch}, "
            f"where its output's scale is {worst.scale:.1e} and at most {worst.tolerance:.0e} of "
            "that is allowed; nothing was saved. Please report it, with the model."
        )
    return worst


def _agreement(own: Tensor, other: Tensor, batch: int, half: bool) -> Agreement:
    difference = float((own - other).abs().max())
    scale = float(own.abs().max())
    return Agreement(batch, difference, scale, HALF_TOLERANCE if half else TOLERANCE)


def _in_doubt(
    model: nn.Module, inputs: Inputs, expected: Sequence[Tensor], found: Agreement
) -> Agreement:
    """Allow what the model's own rounding does, where that is more."""
    precise = tensors_from(*in_precision(model, inputs, torch.float64))
    pairs = zip(expected, precise, strict=True)
    off = max(float((own.double() - exact).abs().max()) for own, exact in pairs)
    allowed = max(found.tolerance, ROUNDING * off / (found.scale or 1.0))
    return Agreement(found.batch, found.difference, found.scale, allowed)
