"""What criteria read off the moments of activations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..axis import Axis, Member, Moments
from ..errors import CriterionError


def watched(axis: Axis) -> list[tuple[Member, Moments]]:
    """Return the voters that are the weight of a layer, and the moments of its inputs.

    Raises:
        CriterionError: There are none.
    """
    found = [(member, member.inputs) for member in axis.voters if member.inputs is not None]
    if not found:
        names = ", ".join(member.name for member in axis.voters)
        raise CriterionError(
            f"Axis {axis.name!r} has no activations to score by; expected the weight of a linear "
            f"or convolution layer among {names}. Use a criterion that needs no activations."
        )
    return found


def readers(axis: Axis) -> list[tuple[Member, Moments]]:
    """Return those of the watched voters whose layer reads the axis; there may be none."""
    return [(member, moments) for member, moments in watched(axis) if member.reads]


def per_position(member: Member, values: Tensor) -> Tensor:
    """Spread what is known of each feature along `member.dim` over the slices, (size, k)."""
    return values.movedim(member.dim, 0).flatten()[member.index.to(values.device)]


def product_variance(axis: Axis) -> Tensor:
    """Return the variance of each slice's product of outputs, (size,), as if independent.

    This is for axes that no voter reads, such as query·key pairs: slice d adds q_d k_d to the
    logits, with variance E[q_d^2] E[k_d^2] - E[q_d]^2 E[k_d]^2. A slice of one output has the
    variance of that output.
    """
    variances = [_of_product(member) for member, _ in watched(axis)]
    return torch.stack(variances).mean(0)


def _of_product(member: Member) -> Tensor:
    assert member.outputs is not None, "whoever gathers the inputs gathers the outputs"
    means = per_position(member, member.outputs.mean)  # (size, k)
    spreads = per_position(member, member.outputs.variance)
    mean, variance = torch.ones_like(means[:, 0]), torch.zeros_like(means[:, 0])
    for m, v in zip(means.unbind(1), spreads.unbind(1), strict=True):
        # The difference of products above, rearranged into a sum, where nothing cancels.
        variance = variance * (v + m.square()) + mean.square() * v
        mean = mean * m
    return variance
