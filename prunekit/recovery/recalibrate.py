"""recalibrate_: new running statistics for the BatchNorms of a model that has changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..naming import is_within
from ..repairs.base import Repair
from ..repairs.given import Norm
from ..statistics.common import Images, evaluating, first_weight, placed, without_labels
from ..statistics.meter import Meter
from ..tracing.copies import BATCH_NORMS


@torch.inference_mode()
def recalibrate_(
    small: nn.Module, repair: Repair, images: Images, part: str = ""
) -> dict[str, float]:
    """Run the images through a model once, and let a repair restate every BatchNorm on the way.

    Each batch passes on through the statistics of all batches so far, itself included, so that
    what comes later sees what it will see.

    Args:
        small: The pruned model; the running statistics of its BatchNorms are written to.
        repair: Computes them.
        images: Batches of calibration images; labels are not looked at.
        part: Name of the module whose BatchNorms may change; all may unless given.

    Returns:
        See `Mended.norms`; those that never run, or see one value of each channel, are left out.

    Raises:
        DataError: There are no images.
        RepairError: The repair broke its contract.
    """
    restated = {
        name: _Restated(name, norm, repair)
        for name, norm in small.named_modules()
        if isinstance(norm, BATCH_NORMS) and norm.running_mean is not None and is_within(name, part)
    }
    handles = [one.norm.register_forward_pre_hook(one.hook) for one in restated.values()]
    try:
        with evaluating(small):
            for batch in without_labels(images):
                small(placed(batch, first_weight(small)))
    finally:
        for handle in handles:
            handle.remove()
    return {name: one.shift for name, one in restated.items() if one.shift is not None}


class _Restated:
    """One BatchNorm, and what has reached it so far."""

    def __init__(self, name: str, norm: Any, repair: Repair):
        self.norm = norm
        self.shift: float | None = None
        self._name, self._repair = name, repair
        self._before = norm.running_mean.double(), norm.running_var.double()
        self._meter: Meter | None = None

    def hook(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take note of one call, before the norm itself computes it."""
        if self._meter is None:
            self._meter = Meter(1 - inputs[0].dim())
        self._meter.add(inputs[0])
        if self._meter.count < 2:
            return
        seen, (mean, variance) = self._meter.moments(lambda values: values), self._before
        given = Norm(self._name, seen.mean, seen.variance, self._meter.count, mean, variance)
        found = self._repair.restate(given, self.norm.running_mean.dtype)
        self.norm.running_mean.copy_(found[0])
        self.norm.running_var.copy_(found[1])
        apart = (found[0].to(mean) - mean).square() / (variance + self.norm.eps)
        self.shift = float(apart.mean().sqrt())
