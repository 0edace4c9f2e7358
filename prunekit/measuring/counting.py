"""Parameters, multiply-accumulates and bytes, counted without computing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..axis import Axis
from ..planning.budget import Term
from ..tracing.copies import weightless


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Attributes:
        median: Milliseconds.
        low, high: Quartiles, milliseconds.
    """

    median: float
    low: float
    high: float


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


def stats(model: nn.Module, example: Tensor) -> Stats:
    """Count parameters, MACs and bytes; nothing is run on real data."""
    tensors = model.state_dict().values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Stats(params, sum(macs_by_module(model, example).values()), size, {})


def macs_by_module(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Count the MACs of one image in every module's own arithmetic, its children left out.

    The model is run on the meta device, so this takes no memory and little time.
    """
    shell, one = weightless(model, example[:1])
    counter = FlopCounterMode(display=False)
    # Fused attention counts differently from kernel to kernel; the plain form does not.
    with (
        torch.no_grad(),
        counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        shell.eval()(one)
    root = type(shell).__name__
    totals = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name == root or name.startswith(f"{root}.")
    }
    own = dict(totals)
    for name, total in totals.items():
        if name:
            own[name.rpartition(".")[0]] -= total
    return own


def param_terms(model: nn.Module) -> tuple[Term, ...]:
    """Return every parameter's share of the parameter count."""
    return tuple(
        Term(parameter.numel(), tuple((name, dim) for dim in range(parameter.dim())))
        for name, parameter in model.named_parameters()
    )


def mac_terms(model: nn.Module, axes: Sequence[Axis], example: Tensor) -> tuple[Term, ...]:
    """Return every module's share of the MACs, and what it is proportional to.

    A layer's MACs are proportional to the dimensions of its weight; what a module computes
    itself, such as attention's matrix products, to the axes that name it as their owner.
    """
    owned: dict[str, tuple[tuple[str, int], ...]] = {}
    for axis in axes:
        if axis.spec.owner:
            owned[axis.spec.owner] = ((axis.voters[0].name, axis.voters[0].dim),)
    shapes = {name: parameter.dim() for name, parameter in model.named_parameters()}
    terms = []
    for name, macs in macs_by_module(model, example).items():
        weight = f"{name}.weight"
        if name in owned:
            terms.append(Term(macs, owned[name]))
        elif shapes.get(weight, 0) > 1:
            terms.append(Term(macs, ((weight, 0), (weight, 1))))
        else:
            terms.append(Term(macs, ()))
    return tuple(terms)
