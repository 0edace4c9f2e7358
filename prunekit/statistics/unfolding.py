"""Layers as linear maps: what a weight multiplies, and what comes of it, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import AdapterError
from .common import precise

CALLS = (torch.conv1d, torch.conv2d, torch.conv3d)
WORDS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
FEWEST, PER_INPUT = 256, 1 / 16  # positions of an image that are looked at, all told and per input


class NoLinearMap(AdapterError):
    """A layer does not multiply the patches of its input with its own weight."""


def patches(layer: Any, inputs: Tensor, at: Tensor | None = None) -> Tensor:
    """Return what a layer's flattened weight multiplies, (groups, n, inputs of a group).

    Args:
        layer: A linear layer or a convolution, of any stride, dilation, padding and groups.
        inputs: What it is given.
        at: Which positions of the output to look at, see `positions`; all unless given.

    Raises:
        NoLinearMap: Its weight is computed from the parameter, or something else is.
    """
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2).unsqueeze(0)
    call = _call(layer, inputs)
    images, steps = _padded(call, layer), _each(call["stride"], layer)
    for dim, apart in enumerate(_each(call["dilation"], layer)):
        reach = apart * (layer.kernel_size[dim] - 1) + 1
        images = images.unfold(2 + dim, reach, steps[dim])[..., ::apart]
    dims = layer.weight.dim() - 2
    windows = images.movedim(1, 1 + dims)  # (batch, *positions, channels, *kernel)
    if at is None:
        windows = windows.flatten(1, dims)
    else:
        where: tuple[Any, ...] = torch.unravel_index(at, windows.shape[1 : 1 + dims])
        windows = windows[(slice(None), *where)]
    return windows.reshape(math.prod(windows.shape[:2]), layer.groups, -1).movedim(1, 0)


def rows(layer: Any, outputs: Tensor, at: Tensor | None = None) -> Tensor:
    """Return a layer's outputs in the order of its `patches`, (groups, n, outputs of a group)."""
    if isinstance(layer, nn.Linear):
        return outputs.flatten(0, -2).unsqueeze(0)
    values = outputs.flatten(2)
    values = (values if at is None else values[:, :, at]).transpose(1, 2)
    return values.reshape(math.prod(values.shape[:2]), layer.groups, -1).movedim(1, 0)


def positions(layer: Any, outputs: Tensor, generator: torch.Generator) -> Tensor | None:
    """Choose which positions of an image tell enough of a convolution; all if they are few.

    Neighbours tell much the same, and hundreds of images have more positions than a regression
    needs.
    """
    if isinstance(layer, nn.Linear):
        return None
    there = math.prod(outputs.shape[2:])
    enough = max(FEWEST, int(layer.weight[0].numel() * PER_INPUT))
    if there <= enough:
        return None
    chosen = torch.randperm(there, generator=generator)[:enough].sort().values
    return chosen.to(outputs.device)


class _Calling(TorchFunctionMode):
    """Runs a layer as far as its convolution."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in CALLS:
            raise _Called({**DEFAULTS, **dict(zip(WORDS, args, strict=False)), **(kwargs or {})})
        return func(*args, **(kwargs or {}))


class _Called(Exception):
    """What a convolution is called with."""

    def __init__(self, given: Mapping[str, Any]):
        self.given = given


def _call(layer: Any, inputs: Tensor) -> Mapping[str, Any]:
    """Return what a convolution layer calls torch with; many pad, or scale, in their own way."""
    try:
        with _Calling():
            layer.forward(inputs)
    except _Called as called:
        if called.given["weight"] is layer.weight and called.given["groups"] == layer.groups:
            return called.given
        raise NoLinearMap("it computes its weight from the parameter") from None
    raise NoLinearMap("it is no convolution of its input")


def _padded(call: Mapping[str, Any], layer: Any) -> Tensor:
    """Return what a convolution is given, zeros around it."""
    values, padding = precise(call["input"]), call["padding"]
    if padding == "valid":
        return values
    if padding == "same":
        apart = _each(call["dilation"], layer)
        totals = [a * (k - 1) for a, k in zip(apart, layer.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(side, side) for side in _each(padding, layer)]
    return F.pad(values, [side for pair in reversed(sides) for side in pair])


def _each(value: Any, layer: Any) -> tuple[int, ...]:
    """Return a setting of a convolution for every dimension."""
    dims = layer.weight.dim() - 2
    given = tuple(value) if isinstance(value, tuple | list) else (value,)
    return given * dims if len(given) == 1 else given
