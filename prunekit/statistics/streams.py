"""Streams: what residual branches add to them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..axis import Axis
from ..branch import Branch, Stream
from ..errors import AdapterError
from ..tracing.copies import BATCH_NORMS
from ..tracing.layers import MATRICES
from ..tracing.norms import channel_dim, is_norm
from .common import precise
from .meter import Meter


class StreamMeter:
    """Watches what goes into one branch and what comes out of it."""

    def __init__(self, model: nn.Module, axis: Axis):
        """Hook into a branch; `remove` unhooks."""
        branch = axis.spec.branch
        assert branch is not None, "only branches have streams"
        self._name = axis.name
        first, last = (model.get_submodule(branch.modules[end]) for end in (0, -1))
        self._channels = channels_of(model, branch)
        self._energy, self._count = 0.0, 0
        self._added: Meter | None = None
        self._handles = [
            first.register_forward_pre_hook(self._enter),
            last.register_forward_hook(self._leave),
        ]

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = precise(inputs[0].detach())
        self._energy += float(values.double().square().sum())
        self._count += values.numel() // values.shape[self._channels]

    def _leave(self, _: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._added is None:
            from_end = self._channels if self._channels < 0 else self._channels - output.dim()
            self._added = Meter(from_end)
        self._added.add(output)

    def stream(self) -> Stream:
        """Return what was seen.

        Raises:
            AdapterError: The branch took no part.
        """
        if self._added is None or not self._energy:
            raise AdapterError(
                f"The branch {self._name!r} took no part in the forward pass, so there is nothing "
                "to score it by; exclude it."
            )
        spread = self._added.moments(lambda values: values).variance.sum()
        return Stream(energy=self._energy / self._count, added=float(spread))


def channels_of(model: nn.Module, branch: Branch) -> int:
    """Return which dimension of the stream the channels are, by what the branch does first."""
    for part in model.get_submodule(branch.modules[0]).modules():
        if isinstance(part, nn.Linear):
            return -1
        if isinstance(part, (*MATRICES, *BATCH_NORMS)):
            return 1
        if is_norm(part):
            return channel_dim(part)
    return -1
