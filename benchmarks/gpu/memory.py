"""How much memory does a forward pass need on top of the model?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from .inside import peak_memory
from .models import Models, Size
from .precision import converted, precision
from .settings import Settings


@dataclass(frozen=True)
class Case:
    """A model in a precision, dense and pruned, at the first batch size."""

    model: str
    precision: str

    def __str__(self) -> str:
        """Name it in one line."""
        return f"{self.model}, {self.precision}"


def cases(settings: Settings) -> list[Case]:
    """Return every model in every precision that memory is measured in."""
    return [
        Case(model, precision)
        for precision in settings.memory_precisions
        for model in settings.models
    ]


def measure(models: Models, case: Case) -> dict[str, Any]:
    """Return the peak of a forward pass, and the bytes of the weights, dense and pruned."""
    settings = models.settings
    batch, example = settings.batches[0], models.example(case.model)

    def of(model: nn.Module) -> dict[str, int]:
        ready = converted(model, case.precision)
        with precision(case.precision):
            peak = peak_memory(ready, example, batch)
        weights = sum(parameter.nbytes for parameter in ready.parameters())
        return {"peak_bytes": peak, "weight_bytes": weights}

    sizes = [Size(ratio, settings.multiple) for ratio in settings.ratios]
    return {
        "model": case.model,
        "precision": case.precision,
        "batch": batch,
        "dense": of(models.dense(case.model)),
        "pruned": [{**asdict(size), **of(models.small(case.model, size))} for size in sizes],
    }
