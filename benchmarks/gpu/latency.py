"""How long does a forward pass take, dense and pruned?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .inside import latency
from .models import Models, Size
from .precision import PRECISIONS, converted, precision
from .settings import Settings


@dataclass(frozen=True)
class Group:
    """What is timed side by side: a dense model, and what was cut out of it.

    Attributes:
        model: Its name.
        precision: Of weights and inputs.
        batch: Images in a forward pass.
        sizes: What it is pruned to.
        compiler: The backend of torch.compile; None for eager mode.
    """

    model: str
    precision: str
    batch: int
    sizes: tuple[Size, ...]
    compiler: str | None = None

    def __str__(self) -> str:
        """Name it in one line."""
        mode = "compiled" if self.compiler else "eager"
        sizes = ", ".join(f"{size.ratio:.0%} by {size.multiple}" for size in self.sizes)
        return f"{self.model}, {self.precision}, batch {self.batch}, {mode}, {sizes}"


def eager_groups(settings: Settings) -> list[Group]:
    """Return all ratios in all precisions at all batch sizes."""
    sizes = tuple(Size(ratio, settings.multiple) for ratio in settings.ratios)
    return _groups(settings, settings.precisions, settings.batches, sizes)


def multiple_groups(settings: Settings) -> list[Group]:
    """Return the middle ratio with all multiples."""
    multiples = (settings.multiple, *settings.other_multiples)
    sizes = tuple(Size(settings.middle, multiple) for multiple in multiples)
    return _groups(settings, settings.precisions, settings.batches, sizes)


def compiled_groups(settings: Settings) -> list[Group]:
    """Return the middle ratio in half precision, compiled."""
    sizes = (Size(settings.middle, settings.multiple),)
    half, batches = (settings.half,), settings.compiled_batches
    return _groups(settings, half, batches, sizes, settings.compiler)


def _groups(
    settings: Settings,
    precisions: Sequence[str],
    batches: Sequence[int],
    sizes: tuple[Size, ...],
    compiler: str | None = None,
) -> list[Group]:
    return [
        Group(model, precision, batch, sizes, compiler)
        for precision in precisions
        for batch in batches
        for model in settings.models
    ]


def time_group(models: Models, group: Group) -> dict[str, Any]:
    """Time the models of a group; compiled ones are compiled first, which is timed apart."""
    small = [models.small(group.model, size) for size in group.sizes]
    example = models.example(group.model)
    seconds: list[float] = []
    with precision(group.precision):
        ready = [converted(model, group.precision) for model in (models.dense(group.model), *small)]
        try:
            if group.compiler:
                images = _images(example, group).to(models.device)
                compiled = [_compiled(model, group.compiler, images) for model in ready]
                ready, seconds = [one[0] for one in compiled], [one[1] for one in compiled]
            times = latency(ready, example, group.batch)
        finally:
            if group.compiler:  # many models of a class would be taken for one that changes
                torch.compiler.reset()
    return {
        "model": group.model,
        "precision": group.precision,
        "batch": group.batch,
        "compiled": group.compiler,
        "compile_seconds": seconds,
        "dense": asdict(times[0]),
        "pruned": [
            {**asdict(size), **asdict(found)}
            for size, found in zip(group.sizes, times[1:], strict=True)
        ],
    }


def _images(example: Tensor, group: Group) -> Tensor:
    return example.repeat(group.batch, 1, 1, 1).to(PRECISIONS[group.precision])


@torch.inference_mode()
def _compiled(model: nn.Module, backend: str, images: Tensor) -> tuple[nn.Module, float]:
    """Compile a model for one batch size, and return how many seconds that took."""
    fast = torch.compile(model, backend=backend, dynamic=False)
    start = time.perf_counter()
    fast(images).float().sum().item()  # waits for the device
    return fast, time.perf_counter() - start
