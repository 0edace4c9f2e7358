"""Proof that removing equals masking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .axis import Axis
from .errors import AdapterError, ParityError
from .plan import Plan
from .result import Parity
from .shrink import masked, shrunk
from .structure import copy_with
from .subject import Subject

TOLERANCE = 1e-4  # largest difference from the masked model, of its output's scale


@dataclass(frozen=True)
class Reference:
    """What the large model computes with the removed slices silenced.

    Attributes:
        subject: The large model, and one batch of inputs.
        output: The output of its masked copy, in float32.
        noisy: The model's own output is all zeros, since its head is untrained. That makes any
            two models agree, so `subject` has noise where the model has weights of zero.
    """

    subject: Subject
    output: Tensor
    noisy: bool = False


def silence(subject: Subject, axes: Sequence[Axis], plan: Plan) -> Reference:
    """Run the masked model, which is gone from memory when this returns."""
    output = _output(masked(subject.model, axes, plan), subject.example)
    if output.any():
        return Reference(subject, output)
    noisy = replace(subject, model=copy_with(subject.model, _noise_for_zeros))
    return Reference(noisy, _output(masked(noisy.model, axes, plan), subject.example), noisy=True)


def verify(reference: Reference, small: nn.Module, axes: Sequence[Axis], plan: Plan) -> Parity:
    """Prove that the small model computes what the masked one does.

    Args:
        reference: What `silence` found.
        small: What was cut out of the large model.
        axes: What could shrink.
        plan: What did.

    Raises:
        ParityError: It does not, it does not even run, or nothing could be proved.
    """
    subject = reference.subject
    if reference.noisy:
        small = shrunk(subject.model, axes, plan, subject.adapter)
    return _parity(reference.output, small, subject.example)


def _noise_for_zeros(name: str, tensor: Tensor) -> Tensor:
    if tensor.dim() < 2 or tensor.any():
        return tensor
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)


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


def _parity(silenced: Tensor, small: nn.Module, example: Tensor) -> Parity:
    """Compare the small model with the masked one's output."""
    dtype = next(small.parameters()).dtype
    # The scale of attention is folded into the weights, which half precision rounds once.
    tolerance = max(TOLERANCE, torch.finfo(dtype).eps if dtype.itemsize < 4 else 0)
    try:
        found = _output(small, example)
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise ParityError(
            f"The pruned model does not run ({reason}): the adapter misses something that the "
            "pruned axes are tied to. Nothing was saved."
        ) from error
    if found.shape != silenced.shape:
        raise ParityError(
            f"The pruned model's output is {tuple(found.shape)}, the masked model's "
            f"{tuple(silenced.shape)}: an axis reaches the output. Nothing was saved."
        )
    difference = float((found - silenced).abs().max())
    scale = float(silenced.abs().max())
    parity = Parity(difference, scale, tolerance)
    if not scale > 0:  # zero or NaN
        raise ParityError(
            "The masked model's output is all zeros or not a number, so nothing can be verified; "
            "check the weights."
        )
    if not parity.holds:
        raise ParityError(
            f"The pruned model differs from the masked model by {difference:.2e}, where the "
            f"output's scale is {scale:.2e} and at most {tolerance:g} of that is allowed: the "
            "adapter misses something that the pruned axes are tied to. Nothing was saved."
        )
    return parity
