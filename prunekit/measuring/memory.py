"""The bytes that a forward pass needs at its peak."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..arguments import Inputs, call, tensors_of
from ..tracing.checkpointing import without_checkpointing
from .latency import BATCHES, batch_for


@torch.inference_mode()
def peak_memory(model: nn.Module, example: Inputs, batch: int = BATCHES[-1]) -> int:
    """Return the bytes a forward pass needs at its peak, on top of the model."""
    x = batch_for(model, example, batch)
    with without_checkpointing(model):
        return peak_bytes(lambda: call(model, x), model, *tensors_of(x))


def peak_bytes(work: Callable[[], object], model: nn.Module, *others: Tensor) -> int:
    """Return the bytes of tensors that some work needs at its peak.

    Args:
        work: Does it.
        model: What it works on; its own bytes are not counted.
        others: What else was there before.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    live = _LiveBytes([*model.parameters(), *model.buffers(), *others])
    with live:
        work()
    return live.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors alive at once, but for those that were there before."""

    def __init__(self, present: Iterable[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in present}
        self.live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, address, size)

    def _drop(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size
