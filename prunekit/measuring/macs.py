"""Multiply-accumulates of a forward pass, by the module and the weight that they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from ..arguments import Inputs, batch_of, call
from ..tracing.running import dry_run, plainly
from ..tracing.shapes import is_composite
from .watched import Watched

Place = tuple[str, str]  # a module's name and a parameter's; none is an empty string


def count_macs(model: nn.Module, example: Inputs) -> dict[Place, int]:
    """Count the MACs of one image, wherever there are some.

    An operation belongs to the innermost module that runs while it does, and to the weight that
    it multiplies with, if that is a parameter and not made from some.

    Args:
        model: Left untouched; a weightless copy is run on the meta device, which takes no memory
            and little time.
        example: One batch of inputs.

    Raises:
        AdapterError: The model does not run on such an input, or cannot be copied.
    """
    return dry_run(model, batch_of(example), _counted)


def _counted(model: nn.Module, inputs: Inputs) -> dict[Place, int]:
    counter = _Counter(model)
    with torch.inference_mode(False), plainly(), counter.watching(model), counter:
        call(model, inputs)
    return {place: flops // 2 for place, flops in counter.flops.items() if flops}


class _Counter(Watched):  # type: ignore[no-untyped-call]
    """Adds up what torch's formulas say of every operation, place by place."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.flops: dict[Place, int] = {}
        self._weights = {
            parameter.untyped_storage()._cdata: name
            for name, parameter in model.named_parameters()
            if parameter.dim() > 1
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and add its floating-point operations."""
        kwargs = kwargs or {}
        formula: Any = flop_registry.get(func._overloadpacket)
        if formula is None and is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = self.looked_up(func, args, kwargs)
        if formula is not None:
            place = self._running[-1], self._weight(args)
            flops = formula(*args, **kwargs, out_val=result)
            self.flops[place] = self.flops.get(place, 0) + flops
        return result

    def _weight(self, args: Iterable[object]) -> str:
        """Return the name of the largest parameter that an operation uses, whole or in part."""
        used = [x.untyped_storage() for x in args if isinstance(x, Tensor)]
        known = [storage for storage in used if storage._cdata in self._weights]
        if not known:
            return ""
        return self._weights[max(known, key=lambda storage: storage.nbytes())._cdata]
