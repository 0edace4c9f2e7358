"""Products of matrices, and convolutions: what is summed over must agree on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tracing.norms import WHOLE_GROUPS
from .coupled import STAYS, along, line, varying
from .following import Follower, Layers

CHANNELS = ((0,), (1,))  # the dimensions of a weight that have numbers of their own


def contracted(follower: Follower, one: Tensor, other: Tensor, shape: Sequence[int]) -> Layers:
    """Couple what two matrices are multiplied along, and return what decides their product.

    Args:
        follower: Knows their numbers.
        one: (..., n, k).
        other: (..., k, m).
        shape: Of the product, (..., n, m).
    """
    follower.multiplied(one)
    follower.multiplied(other)
    if one.dim() == 3 and follower.owner(one) is None and follower.owner(other) is None:
        return _attended(follower, one, other, tuple(shape))
    rank, found = one.dim(), []
    summed: list[list[Tensor]] = [[], []]
    for side, (value, dim) in enumerate(((one, rank - 1), (other, rank - 2))):
        for layer in follower.layers(value):
            dims = varying(layer)
            if dims == (dim,):
                summed[side].append(line(layer, dim))
            elif dim in dims or set(dims) & set(range(rank - 2)):
                follower.coupled.keep(layer)  # several products, each with numbers of its own
            else:
                found.append(layer.narrow(dim, 0, 1).expand(tuple(shape)))
    _agree(follower, *summed)
    return found


def _attended(follower: Follower, one: Tensor, other: Tensor, shape: tuple[int, ...]) -> Layers:
    """Couple the heads of what attends and what is attended to, or what is inside of them."""
    alike: dict[bytes, list[Tensor]] = {}  # a batch may be one of heads and of windows
    passing = []
    summed: tuple[list[Tensor], list[Tensor]] = [], []
    for side, (value, stays, dim) in enumerate(((one, 1, 2), (other, 2, 1))):
        for layer in follower.layers(value):
            dims = varying(layer)
            if dims == (dim,) and follower.heads.inside(layer):
                summed[side].append(line(layer, dim))
            elif follower.heads.multiplied(layer):
                heads = line(layer, 0)
                alike.setdefault(_pattern(heads), []).append(along(heads, 0, shape))
            elif dims == (stays,) or (stays in dims and follower.heads.sought):
                passing.append(along(line(layer, stays), stays, shape))
            else:
                follower.coupled.keep(layer)
    _agree(follower, *summed)
    for first, *others in alike.values():
        for layer in others:
            follower.coupled.couple(first, layer)
    return [*(first for first, *_ in alike.values()), *passing]


def _pattern(numbers: Tensor) -> bytes:
    """Say which of some numbers are equal, whatever they are."""
    _, first, inverse = np.unique(numbers.numpy(), return_index=True, return_inverse=True)
    return bytes(first[inverse].tobytes())


def _agree(follower: Follower, left: list[Tensor], right: list[Tensor]) -> None:
    if not left or not right:  # the one side never shrinks
        follower.coupled.keep(*left, *right)
        return
    for other in (*left[1:], *right):
        follower.coupled.couple(left[0], other)


def convolved(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Couple the channels of the input and those of the weight, and both of every group."""
    value, weight, groups = given["input"], given["weight"], given["groups"]
    follower.multiplied(weight, kernel=weight[0, 0].numel() > 1)
    if given["transposed"]:
        follower.keep(*(x for x in (value, weight, given["bias"]) if isinstance(x, Tensor)))
        return
    inputs = _along(follower, value, 1)
    outputs, reads = _along(follower, weight, 0), _along(follower, weight, 1)
    before = follower.attribute_of(weight, WHOLE_GROUPS)
    if groups == 1 and before is None:
        follower.coupled.couple(inputs, reads)
    else:
        inputs, lying = inputs.view(groups, -1), outputs.view(groups, -1)
        whole = inputs.shape[0] >= inputs.shape[1] if before is None else before
        _grouped(follower, inputs, reads, lying, whole=whole)
    images = [line(x, 0) for x in follower.layers(value) if 0 in varying(x)]  # such as heads
    found = [along(outputs, 1, result.shape), *(along(x, 0, result.shape) for x in images)]
    follower.give(result, found)
    if given["bias"] is not None:
        bias = along(_along(follower, given["bias"], 0), 1, result.shape)
        follower.coupled.couple(bias, along(outputs, 1, result.shape))


def _grouped(
    follower: Follower, inputs: Tensor, reads: Tensor, outputs: Tensor, *, whole: bool
) -> None:
    """Let groups leave, or the same channels of every group.

    Args:
        follower: Is told.
        inputs: Numbers of the input's channels, (groups, channels of a group).
        reads: Those that the weight reads, (channels of a group,).
        outputs: Those of the output's channels, (groups, channels of a group).
        whole: Whether it is the groups that leave.
    """
    coupled = follower.coupled
    if whole:
        coupled.keep(reads)
        coupled.couple(inputs[:, :1], inputs)
        coupled.couple(outputs[:, :1], outputs)
        coupled.couple(inputs[:, 0], outputs[:, 0])
    else:
        coupled.couple(inputs[:1], inputs)
        coupled.couple(inputs[0], reads)
        coupled.couple(outputs[:1], outputs)


def _along(follower: Follower, value: Tensor, dim: int) -> Tensor:
    """Return the numbers along one dimension of a value; all others stay."""
    found = torch.full((value.shape[dim],), STAYS)
    for layer in follower.layers(value):
        if varying(layer) == (dim,):
            found = line(layer, dim)
        elif varying(layer) not in CHANNELS:
            follower.coupled.keep(layer)
    return found
