"""Proof that removing equals masking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..axis import Axis
from ..errors import AdapterError, ParityError
from ..inputs.subject import Subject
from ..planning.plan import Plan
from ..tracing.copies import copy_with
from .shrink import shrunk
from .silence import masked

TOLERANCE = 1e-4  # largest difference from the masked model, of its output's scale


@dataclass(frozen=True)
class Parity:
    """How far the small model is from the large one with the same slices silenced.

    Attributes:
        difference: Largest absolute difference of their outputs, in float32.
        scale: Largest absolute output of the silenced model.
        tolerance: The largest difference allowed, as a fraction of the scale.
        noisy: The same cut was compared with noise in place of some weights, since the model's
            own hide it: a head of zeros, or layer scales of next to nothing.
    """

    difference: float
    scale: float
    tolerance: float
    noisy: bool = False

    @property
    def holds(self) -> bool:
        """Whether removing equalled masking."""
        return self.difference <= self.tolerance * self.scale

    def report(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {**asdict(self), "holds": self.holds}


@dataclass(frozen=True)
class Reference:
    """What the large model computes with the removed slices silenced.

    Attributes:
        example: One batch of inputs.
        output: The output of the masked model, in float32.
        noise: Given if the model's own weights hide the cut, so that any two models would agree:
            its head is untrained and all zeros, or its layer scales next to nothing. The outputs
            of a copy with noise in their place, masked and cut.
    """

    example: Tensor
    output: Tensor
    noise: tuple[Tensor, Tensor] | None = None


def silence(subject: Subject, axes: Sequence[Axis], plan: Plan) -> Reference:
    """Run the masked model, which is gone from memory when this returns.

    Raises:
        ParityError: Its output is not a number, so that nothing can be compared with it.
    """
    output = _output(masked(subject.model, axes, plan), subject.example)
    if not output.isfinite().all():
        raise ParityError(
            "The masked model's output is infinite or not a number, so nothing can be verified; "
            "check the weights."
        )
    change = (_output(subject.model, subject.example) - output).abs().max()
    if change > TOLERANCE * output.abs().max():
        return Reference(subject.example, output)
    noisy = copy_with(subject.model, _noise_where_cuts_hide)
    expected = _output(masked(noisy, axes, plan), subject.example)
    found = _run(shrunk(noisy, axes, plan, subject.adapter), subject.example)
    return Reference(subject.example, output, (expected, found))


def verify(reference: Reference, small: nn.Module) -> Parity:
    """Prove that the small model computes what the masked one does.

    Args:
        reference: What `silence` found.
        small: What was cut out of the large model.

    Raises:
        ParityError: It does not, it does not even run, or nothing could be proved.
    """
    found = _run(small, reference.example)
    dtype = next(small.parameters()).dtype
    # The scale of attention is folded into the weights, which half precision rounds once.
    tolerance = max(TOLERANCE, torch.finfo(dtype).eps if dtype.itemsize < 4 else 0)
    if reference.noise is None:
        return _compared(reference.output, found, tolerance)
    if reference.output.any():
        _compared(reference.output, found, tolerance)
    return replace(_compared(*reference.noise, tolerance), noisy=True)


def _noise_where_cuts_hide(name: str, tensor: Tensor) -> Tensor:
    """Replace vectors, such as layer scales, and all that is zero; share the rest."""
    if not tensor.is_floating_point() or (tensor.dim() > 1 and tensor.any()):
        return tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    # Positive, since a running variance is a vector too.
    return (0.5 + noise.abs() if tensor.dim() == 1 else noise).to(tensor)


@torch.inference_mode()
def _output(model: nn.Module, example: Tensor) -> Tensor:
    """Return the output in float32; a model of another precision is copied."""
    if next(model.parameters()).dtype != torch.float32:
        model = copy_with(model, lambda _, tensor: tensor.clone()).float()
    x = example.to(next(model.parameters()).device)
    # TensorFloat-32, which CUDA convolutions use unless told otherwise, keeps three digits.
    with torch.backends.cudnn.flags(allow_tf32=False):
        output: object = model.eval()(x.float() if x.is_floating_point() else x)
    if not isinstance(output, Tensor):
        raise AdapterError(
            f"{type(model).__name__} returns a {type(output).__name__}; expected one tensor. Wrap "
            "it in a module that returns the one to compare."
        )
    return output


def _run(small: nn.Module, example: Tensor) -> Tensor:
    try:
        return _output(small, example)
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise ParityError(
            f"The pruned model does not run ({reason}): the adapter misses something that the "
            "pruned axes are tied to. Nothing was saved."
        ) from error


def _compared(silenced: Tensor, found: Tensor, tolerance: float) -> Parity:
    """Compare the small model's output with the masked one's."""
    if found.shape != silenced.shape:
        raise ParityError(
            f"The pruned model's output is {tuple(found.shape)}, the masked model's "
            f"{tuple(silenced.shape)}: an axis reaches the output. Nothing was saved."
        )
    difference = float((found - silenced).abs().max())
    scale = float(silenced.abs().max())
    parity = Parity(difference, scale, tolerance)
    if not scale > 0:
        raise ParityError(
            "The masked model's output is all zeros whatever its weights, so nothing can be "
            "verified; check the model."
        )
    if not parity.holds:
        raise ParityError(
            f"The pruned model differs from the masked model by {difference:.2e}, where the "
            f"output's scale is {scale:.2e} and at most {tolerance:g} of that is allowed: the "
            "adapter misses something that the pruned axes are tied to. Nothing was saved."
        )
    return parity
