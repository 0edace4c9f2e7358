"""What are 2:4 semi-structured weights worth beside slices, at equal MACs?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prunekit import to_semi_structured

from .inside import latency, supported
from .models import Models
from .precision import converted
from .settings import Settings


@dataclass(frozen=True)
class Pair:
    """A model that is made 2:4 and, beside it, sliced to the same MACs."""

    model: str
    batch: int

    def __str__(self) -> str:
        """Name it in one line."""
        return f"{self.model}, batch {self.batch}"


def pairs(settings: Settings) -> list[Pair]:
    """Return every model that is made 2:4, at every batch size."""
    return [Pair(model, batch) for batch in settings.batches for model in settings.sparse_models]


def time_pair(models: Models, pair: Pair) -> dict[str, Any]:
    """Time the dense model, the masked one as it is, as sparse tensors, and the sliced one."""
    settings = models.settings
    masked, sliced = models.halved(pair.model)
    ready = {
        "dense": converted(models.dense(pair.model), settings.half),
        "masked": converted(masked.model, settings.half),
        "sliced": converted(sliced.model, settings.half),
    }
    if supported():
        ready["semi_structured"] = to_semi_structured(ready["masked"])
    times = latency(list(ready.values()), models.example(pair.model), pair.batch)
    return {
        "model": pair.model,
        "batch": pair.batch,
        "precision": settings.half,
        "macs_removed_by_2_4": masked.got,
        "macs_removed_by_slices": sliced.got,
        **{name: asdict(found) for name, found in zip(ready, times, strict=True)},
    }
