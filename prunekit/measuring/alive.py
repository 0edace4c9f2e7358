"""lives: which tensors a forward pass makes, and which of them are there at once."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..arguments import Inputs, batch_of, call, tensors_of
from ..tracing.running import dry_run
from .latency import BATCHES
from .watched import Watched

Made = tuple[str, str, int]  # a module, an operation, and how many tensors that had made there


@dataclass(frozen=True)
class Lives:
    """What a forward pass holds, on top of the model and its inputs.

    Attributes:
        sizes: Every tensor that it made, in order, to its bytes.
        sources: Every tensor to those it was made from, of what the pass itself made.
        moments: Which tensors were there at once, for every moment at which there were most.
    """

    sizes: Mapping[Made, int]
    sources: Mapping[Made, tuple[Made, ...]]
    moments: tuple[frozenset[Made], ...]

    @property
    def peak(self) -> int:
        """The most bytes that were there at once."""
        return max((self.at(moment) for moment in self.moments), default=0)

    def at(self, moment: Iterable[Made]) -> int:
        """Return the bytes of a moment."""
        return sum(self.sizes[made] for made in moment)


def live_peak(model: nn.Module, example: Inputs) -> int:
    """Return the most bytes of tensors that a forward pass holds at once.

    They are counted on the meta device, in float32, so that they are the same on every machine. On
    a CPU this is what `peak_memory` measures; what a kernel needs for itself is in neither.

    Args:
        model: Left untouched.
        example: Inputs; the first image is repeated as often as `peak_memory` does.
    """
    return dry_run(model, batch_of(example, BATCHES[-1]), lives).peak


def lives(model: nn.Module, inputs: Inputs) -> Lives:
    """Run a model, and note which tensors live when."""
    recorder = _Recorder([*model.parameters(), *model.buffers(), *tensors_of(inputs)])
    with torch.inference_mode(), recorder.watching(model), recorder:
        call(model, inputs)
    return Lives(recorder.sizes, recorder.sources, tuple(recorder.moments))


class _Recorder(Watched):  # type: ignore[no-untyped-call]
    """Notes every storage that is made, and what is alive after every operation."""

    def __init__(self, present: Iterable[Tensor]):
        super().__init__()
        self.sizes: dict[Made, int] = {}
        self.sources: dict[Made, tuple[Made, ...]] = {}
        self.moments: list[frozenset[Made]] = []
        self._present = {tensor.untyped_storage()._cdata for tensor in present}
        self._alive: dict[int, Made] = {}
        self._count: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it made."""
        kwargs = kwargs or {}
        result = self.looked_up(func, args, kwargs)
        read = [self._alive.get(storage._cdata) for storage in _storages((args, kwargs))]
        for storage in _storages(result):
            if storage._cdata not in self._present and storage._cdata not in self._alive:
                place = self._running[-1], str(func)
                made = (*place, self._count[place])
                self._count[place] += 1
                self.sizes[made] = storage.nbytes()
                self.sources[made] = tuple(one for one in read if one is not None)
                self._alive[storage._cdata] = made
                weakref.finalize(storage, self._alive.pop, storage._cdata, None)
        self._note()
        return result

    def _note(self) -> None:
        """Keep the moment if no other near it has all that it has, and more."""
        now = frozenset(self._alive.values())
        if self.moments and self.moments[-1] <= now:
            self.moments[-1] = now
        elif not self.moments or not now <= self.moments[-1]:
            self.moments.append(now)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
