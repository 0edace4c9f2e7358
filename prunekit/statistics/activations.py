"""The moments of what every layer reads and returns, in one pass and without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..axis import Axis, Member, Moments
from ..errors import AdapterError
from ..tracing.layers import MATRICES
from .common import (
    Images,
    evaluating,
    first_weight,
    placed,
    precise,
    voter_names,
    with_voters,
    without_labels,
)


def gather_activations(model: nn.Module, axes: Sequence[Axis], images: Images) -> list[Axis]:
    """Return the axes with the moments of the inputs and outputs of every voter's layer.

    Voters that are not the weight of a linear or convolution layer get none. The model runs
    in evaluation mode and is not modified; labels are not looked at.

    Raises:
        DataError: There are no images.
        AdapterError: A voter's layer took no part in the forward pass.
    """
    names = set(voter_names(axes))
    meters = {
        f"{name}.weight": _LayerMeter(layer)
        for name, layer in model.named_modules()
        if isinstance(layer, MATRICES) and f"{name}.weight" in names
    }
    handles = [meter.layer.register_forward_hook(meter.hook) for meter in meters.values()]
    try:
        with evaluating(model), torch.no_grad():
            for x in without_labels(images):
                model(placed(x, first_weight(model)))
    finally:
        for handle in handles:
            handle.remove()
    moments = {name: meter.moments(name) for name, meter in meters.items()}

    def informed(member: Member) -> Member:
        inputs, outputs = moments.get(member.name, (None, None))
        return replace(member, inputs=inputs, outputs=outputs)

    return with_voters(axes, informed)


class _LayerMeter:
    """Watches what one layer reads and returns."""

    def __init__(self, layer: Any):
        self.layer = layer
        channels = 1 - layer.weight.dim()  # counted from the end, in inputs and in outputs
        self._inputs, self._outputs = Meter(channels), Meter(channels)

    def hook(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Take note of one call."""
        self._inputs.add(inputs[0])
        self._outputs.add(output)

    def moments(self, name: str) -> tuple[Moments, Moments]:
        """Return the moments of inputs and outputs, shaped to broadcast against the weight."""
        if not self._inputs.count:
            raise AdapterError(
                f"The layer of {name!r} took no part in the forward pass, so it has no activations "
                "to score by; give that parameter the role 'aux' in the adapter."
            )
        groups = getattr(self.layer, "groups", 1)
        readers = len(self.layer.weight) // groups if groups > 1 else 1  # outputs of one group
        ones = (1,) * (self.layer.weight.dim() - 2)
        inputs = self._inputs.moments(
            lambda v: v.view(groups, -1, *ones).repeat_interleave(readers, 0)
        )
        return inputs, self._outputs.moments(lambda v: v.view(-1, 1, *ones))


class Meter:
    """The running mean and variance of each feature, whatever the size of the batches.

    Sums of squares would cancel where the mean is large. Values are counted from the first
    one ever seen, variances about each batch's own mean, and batches joined in float64.

    Source:
        Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
        Sample Variances, COMPSTAT 1982.
    """

    def __init__(self, feature: int):
        """Start with nothing seen; `feature` is the dimension of features, from the end."""
        self._feature = feature
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Take note of a batch of activations."""
        values = precise(values.detach())
        others = [dim for dim in range(values.dim()) if dim != values.dim() + self._feature]
        if not self.count:
            first = values
            for dim in others:
                first = first.narrow(dim, 0, 1)
            self._first = first.clone()
            self._mean = self._spread = torch.zeros_like(first, dtype=torch.float64).flatten()
        values = values - self._first
        mean = values.mean(others, keepdim=True)
        spread = (values - mean).square_().sum(others).double()
        count = values.numel() // mean.numel()
        total = self.count + count
        away = mean.flatten().double() - self._mean
        self._mean = self._mean + away * (count / total)
        self._spread = self._spread + spread + away.square() * (self.count * count / total)
        self.count = total

    def moments(self, shaped: Callable[[Tensor], Tensor]) -> Moments:
        """Return what was seen so far, shaped as the caller likes."""
        mean = self._first.flatten().double() + self._mean
        return Moments(shaped(mean), shaped(self._spread / self.count))
