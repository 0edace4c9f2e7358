"""Proof that removing equals masking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import Inputs
from ..axis import Axis
from ..errors import AdapterError, ParityError
from ..inputs.subject import Subject
from ..planning.plan import Plan
from ..tracing.copies import copy_with
from ..tracing.running import reason
from .hiding import FAINT, lively, may_hide, noise_where_cuts_hide
from .outputs import Outputs, outputs_of
from .shrink import shrunk
from .silence import masked


class Differs(ParityError):
    """The outputs are not the same."""


TOLERANCE = 1e-4  # largest difference from the masked model, of its output's scale


@dataclass(frozen=True)
class Parity:
    """How far the small model is from the large one with the same slices silenced.

    Attributes:
        difference: Largest absolute difference of their outputs, in float32; of several outputs,
            the one that differs most in proportion counts.
        scale: Largest absolute value of that output of the silenced model.
        tolerance: The largest difference allowed, as a fraction of the scale.
        noisy: The same cut was compared with noise in place of some weights, since the model's
            own may hide it: a head of zeros, or layer scales of next to nothing.
        in_float64: They were run in float64, since in float32 the outputs differed by more than
            is allowed: some untrained models magnify what rounding does.
    """

    difference: float
    scale: float
    tolerance: float
    noisy: bool = False
    in_float64: bool = False

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
        outputs: The outputs of the masked model for the first of them, in float32.
        precisely: Returns the same in float64.
        part: Name of the part that is pruned, whose outputs are compared too; empty if it is all.
        noise: Given if the model's own weights may hide the cut, so that any two models would
            agree. Parity of a copy with noise in their place.
    """

    example: Inputs
    outputs: Outputs
    precisely: Callable[[], Outputs]
    part: str = ""
    noise: Parity | None = None

    def run(self, dtype: torch.dtype) -> Outputs:
        """Return the outputs in a precision."""
        return self.outputs if dtype == torch.float32 else self.precisely()


def silence(subject: Subject, axes: Sequence[Axis], plan: Plan) -> Reference:
    """Run the masked model, which is gone from memory when this returns.

    Raises:
        ParityError: Its output is not a number, so that nothing can be compared with it, or with
            noise for weights, removing is not the same as masking.
        AdapterError: It returns nothing that can be compared.
    """
    model, example, part = subject.model, subject.example, subject.part

    def masked_outputs(large: nn.Module, dtype: torch.dtype) -> Outputs:
        return outputs_of(masked(large, axes, plan), example, dtype, part)

    outputs = masked_outputs(model, torch.float32)
    for name, output in outputs.items():
        if not output.isfinite().all():
            raise ParityError(
                f"The masked model's {name} is infinite or not a number, so nothing can be "
                "verified; check the weights."
            )
    found = Reference(example, outputs, partial(masked_outputs, model, torch.float64), part)
    guesses = subject.adapter.guesses
    silent = guesses and _is_silent(subject, outputs)
    if _speak(outputs) and not silent and not may_hide(model, axes, plan):
        return found
    noisy = lively(model, example, part) if guesses else copy_with(model, noise_where_cuts_hide)
    small = shrunk(noisy, axes, plan, subject.adapter)
    parity = _settled(
        partial(masked_outputs, noisy), partial(run_small, small, example, part), _tolerance(model)
    )
    return replace(found, noise=parity)


def verify(reference: Reference, small: nn.Module) -> Parity:
    """Prove that the small model computes what the masked one does.

    Args:
        reference: What `silence` found.
        small: What was cut out of the large model.

    Raises:
        ParityError: It does not, it does not even run, or nothing could be proved.
    """
    run = partial(run_small, small, reference.example, reference.part)
    if reference.noise is None or _speak(reference.outputs):
        own = _settled(reference.run, run, _tolerance(small))
    else:
        run(torch.float32)  # which says why if it does not
        own = reference.noise
    if reference.noise is None:
        return own
    doubted = own.in_float64 or reference.noise.in_float64
    return replace(reference.noise, noisy=True, in_float64=doubted)


def _tolerance(model: nn.Module) -> float:
    """Return how far outputs may be apart, as a fraction of their scale."""
    dtype = next(model.parameters()).dtype
    # The scale of attention is folded into the weights, which half precision rounds once.
    return max(TOLERANCE, torch.finfo(dtype).eps if dtype.itemsize < 4 else 0)


def _settled(
    large: Callable[[torch.dtype], Outputs],
    small: Callable[[torch.dtype], Outputs],
    tolerance: float,
) -> Parity:
    """Compare in float32, and in float64 if that is not the same."""
    expected = large(torch.float32)
    try:
        return compared(expected, small(torch.float32), tolerance)
    except Differs:
        if any(output.device.type == "mps" for output in expected.values()):  # without float64
            raise
        precise = compared(large(torch.float64), small(torch.float64), tolerance)
        return replace(precise, in_float64=True)


def _is_silent(subject: Subject, masked: Outputs) -> bool:
    """Say whether masking changes next to nothing, so that nothing would be proved by it."""
    dense = outputs_of(subject.model, subject.example, part=subject.part)
    return all(
        output.shape == masked[name].shape
        and float((output - masked[name]).abs().max()) <= FAINT * float(output.abs().max())
        for name, output in dense.items()
        if output.numel()
    )


def _speak(outputs: Outputs) -> bool:
    """Say whether there is anything but zeros."""
    return any(bool(output.any()) for output in outputs.values())


def run_small(
    small: nn.Module, example: Inputs, part: str = "", dtype: torch.dtype = torch.float32
) -> Outputs:
    try:
        return outputs_of(small, example, dtype, part)
    except AdapterError:
        raise
    except Exception as error:  # of the model's own code
        raise ParityError(
            f"The pruned model does not run ({reason(error)}): the adapter misses something that "
            "the pruned axes are tied to. Nothing was saved."
        ) from error


def compared(silenced: Outputs, found: Outputs, tolerance: float) -> Parity:
    """Compare the small model's outputs with the masked one's, and return what differs most."""
    if found.keys() != silenced.keys():
        raise ParityError(
            f"The pruned model returns {', '.join(found)}, the masked model {', '.join(silenced)}: "
            "the adapter misses something that the pruned axes are tied to. Nothing was saved."
        )
    if not _speak(silenced):
        raise ParityError(
            "The masked model's output is all zeros whatever its weights, so nothing can be "
            "verified; check the model."
        )
    parities = [
        _compared_one(name, output, found[name], tolerance) for name, output in silenced.items()
    ]
    return max(parities, key=lambda one: (one.difference / (one.scale or 1), one.scale))


def _compared_one(name: str, silenced: Tensor, found: Tensor, tolerance: float) -> Parity:
    if found.shape != silenced.shape:
        raise Differs(
            f"The pruned model's {name} is {tuple(found.shape)}, the masked model's "
            f"{tuple(silenced.shape)}: an axis reaches the output. Nothing was saved."
        )
    difference = float((found - silenced).abs().max()) if found.numel() else 0.0
    scale = float(silenced.abs().max()) if found.numel() else 0.0
    parity = Parity(difference, scale, tolerance)
    if not parity.holds:
        raise Differs(
            f"The pruned model's {name} differs from the masked model's by {difference:.2e}, where "
            f"its scale is {scale:.2e} and at most {tolerance:g} of that is allowed: the adapter "
            "misses something that the pruned axes are tied to. Nothing was saved."
        )
    return parity
