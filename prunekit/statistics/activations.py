"""The moments of what every layer reads and returns, in one pass and without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    voter_names,
    with_voters,
    without_labels,
)
from .meter import Meter
from .streams import StreamMeter


def gather_activations(model: nn.Module, axes: Sequence[Axis], images: Images) -> list[Axis]:
    """Return the axes with the moments of the inputs and outputs of every voter's layer.

    Branches get what they add to their stream, too. Voters that are not the weight of a linear or
    convolution layer get nothing. The model runs in evaluation mode and is not modified; labels
    are not looked at.

    Raises:
        DataError: There are no images.
        AdapterError: A voter's layer took no part in the forward pass.
    """
    with watching(model, axes) as informed, evaluating(model), torch.no_grad():
        for x in without_labels(images):
            model(placed(x, first_weight(model)))
    return informed()


@contextmanager
def watching(model: nn.Module, axes: Sequence[Axis]) -> Iterator[Callable[[], list[Axis]]]:
    """Watch a model while it runs; what is given says afterwards what was seen, see above."""
    names = set(voter_names(axes))
    meters = {
        f"{name}.weight": _LayerMeter(layer)
        for name, layer in model.named_modules()
        if isinstance(layer, MATRICES) and f"{name}.weight" in names
    }
    handles = [meter.layer.register_forward_hook(meter.hook) for meter in meters.values()]
    streams = {axis.name: StreamMeter(model, axis) for axis in axes if axis.spec.branch}
    try:
        yield lambda: _informed(axes, meters, streams)
    finally:
        for handle in [*handles, *streams.values()]:
            handle.remove()


def _informed(
    axes: Sequence[Axis], meters: Mapping[str, _LayerMeter], streams: Mapping[str, StreamMeter]
) -> list[Axis]:
    moments = {name: meter.moments(name) for name, meter in meters.items()}

    def informed(member: Member) -> Member:
        inputs, outputs = moments.get(member.name, (None, None))
        return replace(member, inputs=inputs, outputs=outputs)

    found = with_voters(axes, informed)
    return [
        replace(axis, stream=streams[axis.name].stream()) if axis.name in streams else axis
        for axis in found
    ]


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
