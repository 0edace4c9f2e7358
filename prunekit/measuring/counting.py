"""Parameters, multiply-accumulates and bytes, counted without computing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..arguments import Inputs
from ..axis import Axis
from ..naming import is_within
from ..planning.budget import Term
from .branches import Branches
from .macs import count_macs


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Attributes:
        median: Milliseconds.
        low, high: Quartiles, milliseconds.
        repeats: How many passes they are of; None in older reports.
    """

    median: float
    low: float
    high: float
    repeats: int | None = None


@dataclass(frozen=True)
class Stats:
    """What one model costs, and what it is worth.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of one forward pass of one image, in matrix products and
            convolutions; half of what torch's FlopCounterMode counts.
        size_bytes: Bytes of all parameters and persistent buffers.
        latency_ms: Batch size to the time of a forward pass; empty if not measured.
        memory_bytes: Peak memory of a forward pass at the largest of those batch sizes, on
            top of the model itself; None if not measured.
        top1, top5: Percentage of test images; None if not measured.
        images: How many test images those are of.
    """

    params: int
    macs: int
    size_bytes: int
    latency_ms: dict[int, Latency]
    memory_bytes: int | None = None
    top1: float | None = None
    top5: float | None = None
    images: int | None = None


def stats(model: nn.Module, example: Inputs, part: str = "") -> Stats:
    """Count parameters, MACs and bytes, of the whole model or of a part; nothing is timed."""
    inside = model.get_submodule(part)
    tensors = inside.state_dict().values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    params = sum(parameter.numel() for parameter in inside.parameters())
    macs = macs_by_module(model, example)
    return Stats(params, sum(macs[name] for name in macs if is_within(name, part)), size, {})


def macs_by_module(model: nn.Module, example: Inputs) -> dict[str, int]:
    """Count the MACs of one image in every module's own arithmetic, its children left out."""
    totals: dict[str, int] = {}
    for (module, _), macs in count_macs(model, example).items():
        totals[module] = totals.get(module, 0) + macs
    return totals


def param_terms(model: nn.Module, part: str = "") -> tuple[Term, ...]:
    """Return every parameter's share of the parameter count, of the whole model or of a part."""
    return tuple(
        Term(parameter.numel(), tuple((name, dim) for dim in range(parameter.dim())))
        for name, parameter in model.named_parameters()
        if is_within(name, part)
    )


def mac_terms(
    model: nn.Module, axes: Sequence[Axis], example: Inputs, part: str = ""
) -> tuple[Term, ...]:
    """Return every operation's share of the MACs, and what it is proportional to.

    What is multiplied with a parameter is proportional to that parameter's dimensions; what a
    module computes otherwise, such as attention's matrix products, to the axes that name it as
    their owner.
    """
    owned: dict[str, tuple[tuple[str, int], ...]] = {}
    for axis in axes:
        if axis.spec.owner:
            owned[axis.spec.owner] = ((axis.voters[0].name, axis.voters[0].dim),)
    branches = Branches(axes)
    sizes = {name: parameter.dim() for name, parameter in model.named_parameters()}
    terms = []
    for (module, parameter), macs in count_macs(model, example).items():
        if not is_within(module, part):
            continue
        if parameter:
            dims = tuple((parameter, dim) for dim in range(sizes[parameter]))
        elif module in owned:
            dims = owned[module]
        else:  # perhaps a layer that makes what it multiplies with from its weight
            weight = f"{module}.weight"
            dims = tuple((weight, dim) for dim in range(sizes.get(weight, 0)))
        terms.append(Term(macs, (*dims, *branches.on(module, dims))))
    return tuple(terms)
