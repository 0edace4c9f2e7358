"""saved_time: which part of a model's latency a smaller one saves, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..arguments import Inputs
from ..tracing.checkpointing import without_checkpointing
from ..tracing.copies import in_precision
from .compiling import compiled
from .counting import Latency
from .latency import batch_for, fitting, summed_up, times

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MOST, SECONDS = 200, 15.0  # passes of each model, and for all: a goal is worth more than a figure


@dataclass(frozen=True)
class Conditions:
    """How models are timed.

    Attributes:
        batch: Images in a forward pass.
        dtype: The precision they run in: one of `DTYPES`.
        compiled: Whether torch.compile makes them fast first.
    """

    batch: int = 1
    dtype: str = "float32"
    compiled: bool = False

    def ready(self, model: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
        """Return a copy of a model, and inputs, in the precision; it shares what has it already."""
        return in_precision(model, example, DTYPES[self.dtype])


@dataclass(frozen=True)
class Saving:
    """Two models, timed side by side.

    Attributes:
        removed: The fraction of the dense model's time that the small one saves: the median over
            pairs of passes, one of each, next to each other.
        low, high: Quartiles of it.
        dense, small: Their times.
    """

    removed: float
    low: float
    high: float
    dense: Latency
    small: Latency


def saved_time(
    dense: nn.Module, small: nn.Module, example: Inputs, conditions: Conditions
) -> Saving:
    """Time two models side by side.

    Args:
        dense: The larger model, on the device it is to be timed on.
        small: The other one, likewise.
        example: Inputs; the first image is repeated.
        conditions: How.
    """
    with runnable([dense, small], example, conditions) as (models, inputs):
        passes = times(models, inputs, conditions.batch, most=MOST, seconds=SECONDS)
    pairs = [1 - after / before for before, after in zip(*passes, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return Saving(middle, low, high, *map(summed_up, passes))


@contextmanager
def runnable(
    models: Sequence[nn.Module], example: Inputs, conditions: Conditions
) -> Iterator[tuple[list[nn.Module], Inputs]]:
    """Yield copies of models that can be timed under some conditions, and inputs for them.

    Raises:
        BudgetError: They do not fit into memory, or cannot be compiled.
    """
    pairs = [conditions.ready(model, example) for model in models]
    ready, inputs = [model for model, _ in pairs], pairs[0][1]
    with fitting(conditions.batch):
        if not conditions.compiled:
            yield ready, inputs
            return
        with torch.inference_mode(), without_checkpointing(*ready):
            batches = [batch_for(model, inputs, conditions.batch) for model in ready]
            with compiled(ready, batches) as made:
                yield made, inputs
